"""A checkpoint put together from tensors of others: layers cut and stacked, matrices cropped.

Nothing is copied: a view says which tensor of which checkpoint stands under each name, and reads
it there. Planner and engine see an ordinary model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from zoo.checkpoint import Checkpoint, Opened
from zoo.digest import json_digest, weights_digest
from zoo.dtypes import DTYPES
from zoo.engine.plan import Model


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor of a model, or its top-left block."""

    model: Model
    name: str
    """As that model calls it."""
    shape: tuple[int, ...] | None = None
    """Of the block; None is the whole tensor."""

    @property
    def block(self) -> tuple[int, ...]:
        """Shape of what is shown."""
        return self.shape or self.model.checkpoint.tensors[self.name].shape

    @property
    def digest(self) -> str:
        """What identifies the bytes: the tensor's digest, with the block where it is one."""
        own = self.model.digests.get(self.name) or json_digest([self.model.digest, self.name])
        whole = self.model.checkpoint.tensors[self.name].shape
        return own if self.block == whole else json_digest([own, self.block])


class View(Checkpoint):
    """The tensors that `pieces` name, under the names they have there.

    The checkpoints behind it belong to somebody else: closing a view closes none of them.
    """

    def __init__(self, pieces: Mapping[str, Piece], opened: Opened) -> None:
        self.pieces = dict(sorted(pieces.items()))
        self.opened = opened
        self.tensors = {}
        for name, piece in self.pieces.items():
            info = piece.model.checkpoint.tensors[piece.name]
            self.tensors[name] = replace(info, name=name, shape=piece.block)

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        piece = self.pieces[name]
        checkpoint = piece.model.checkpoint
        whole, shape = checkpoint.tensors[piece.name], self.tensors[name].shape
        if shape[1:] == whole.shape[1:]:
            checkpoint.read_into(piece.name, start, buffer)  # the first rows lie together
            return
        width = DTYPES[whole.dtype].bits // 8
        ours, theirs = prod(shape[1:]) * width, prod(whole.shape[1:]) * width
        while buffer:
            row, column = divmod(start, ours)
            n = min(ours - column, len(buffer))
            checkpoint.read_into(piece.name, row * theirs + column, buffer[:n])
            buffer, start = buffer[n:], start + n


def view(pieces: Mapping[str, Piece], config: Mapping[str, Any] | None) -> Model:
    """A model of pieces; labelled after the models they come from."""
    label = " + ".join(dict.fromkeys(p.model.label for p in pieces.values()))
    digests = {name: piece.digest for name, piece in pieces.items()}
    checkpoint = View(pieces, Opened(label, config=config))
    return Model(label, weights_digest(digests.items()), checkpoint, digests=digests)


def pieces_of(model: Model, names: Iterable[str] | None = None) -> dict[str, Piece]:
    """A model's tensors as pieces, to be changed and made a view."""
    return {n: Piece(model, n) for n in (names or model.checkpoint.tensors)}
