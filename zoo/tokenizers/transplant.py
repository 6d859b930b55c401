"""Rows of tokens that a model never had, worked out from a model that has them.

In the embeddings of a donor, a token is written as a sum of k tokens that both models know; the
same sum of the model's own rows is its row there (`pursuit` finds the sum). Heads are done
in the same way, in the donor's head; where the model ties its head to its embeddings they are one
computation, and a donor without a head of its own lends its embeddings. The entries of a head's
bias are summed as its rows are.

Source: Goddard and Fernandes Neto 2025, arXiv:2506.06607. Departs: the next token of a sum is the
one nearest in direction, where mergekit's takes the largest product, which favours long rows.
"""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.checkpoint import Checkpoint, TensorInfo
from zoo.dtypes import DTYPES, torch_dtype
from zoo.tokenizers.pursuit import Matrix, Numbers, Sums, pursued

if TYPE_CHECKING:
    import torch

_BATCH = 1024
"""Rows that are summed, and written, at a time."""


@dataclass(frozen=True)
class Lacking:
    """Tokens that a model lacks and one donor has."""

    donor: int
    """Its number among the models."""
    wanted: Numbers
    """The donor's rows of these tokens."""
    shared: Numbers
    """The donor's rows of the tokens that both know, ascending."""
    own: Numbers
    """The model's rows of the same tokens."""
    k: int
    """Tokens in a sum, at most."""


class Transplant:
    """The rows that a model lacks, in order of `lacking`, for each of its tensors.

    All rows of a tensor are worked out when the first is asked for, and kept in a file that has no
    name: memory does not grow with the vocabulary.
    """

    def __init__(
        self, own: Checkpoint, models: Sequence[Checkpoint], lacking: Sequence[Lacking]
    ) -> None:
        self._own, self._models, self._lacking = own, models, lacking
        self._files: dict[str, int] = {}
        self._sums: dict[tuple[int, str], Sums] = {}
        self._lock = threading.Lock()

    def read_into(self, info: TensorInfo, start: int, buffer: memoryview) -> None:
        """Bytes `start` and on of the rows.

        Args:
            info: the tensor, as it is shown: its name, its type, and the shape of a row.
        """
        with self._lock:
            if info.name not in self._files:
                self._files[info.name] = self._worked_out(info)
        while buffer:
            n = os.preadv(self._files[info.name], [buffer], start)
            if n == 0:
                raise AssertionError(f"{info.name} has fewer rows than were asked for")
            buffer, start = buffer[n:], start + n

    def _worked_out(self, info: TensorInfo) -> int:
        """A file with all rows."""
        descriptor, path = tempfile.mkstemp(prefix="zoo-rows-")
        weakref.finalize(self, os.close, descriptor)
        Path(path).unlink()
        matrix = Matrix(self._own, info.name)
        for number, one in enumerate(self._lacking):
            sums = self._sum(number, info.name)
            for first in range(0, len(one.wanted), _BATCH):
                last = min(first + _BATCH, len(one.wanted))
                rows = sums.over(matrix, one.own, first, last)
                _write(descriptor, rows.to(torch_dtype(info.dtype)))
        return descriptor

    def _sum(self, number: int, name: str) -> Sums:
        """What the missing tokens are in the donor's tensor that stands for one of this model's."""
        one = self._lacking[number]
        donor = self._models[one.donor]
        theirs = counterpart(name, self._own, donor)
        if (number, theirs) not in self._sums:
            matrix = Matrix(donor, theirs)
            self._sums[number, theirs] = pursued(matrix, one.wanted, one.shared, one.k)
        return self._sums[number, theirs]


def counterpart(name: str, own: Checkpoint, donor: Checkpoint) -> str:
    """The donor's matrix in which the rows of a model's tensor are compared."""
    from zoo.checkpoints.tied_heads import embeddings_of, head_of, tied_pair
    from zoo.tokenizers.vocabulary import EMBEDDING

    embeddings = embeddings_of(donor.tensors)
    assert embeddings is not None  # a model without is refused before
    tied = tied_pair(own.opened.config, own.tensors)
    if EMBEDDING.search(name) or (tied and tied[0] == name):
        return name if name in donor.tensors and EMBEDDING.search(name) else embeddings
    return head_of(donor.tensors) or embeddings


def _write(descriptor: int, rows: torch.Tensor) -> None:
    import torch

    raw: Any = rows.contiguous().view(-1).view(torch.uint8).numpy()
    data = memoryview(raw)
    while data:
        data = data[os.write(descriptor, data) :]


def row_bytes(info: TensorInfo) -> int:
    """Bytes of one row."""
    return prod(info.shape[1:]) * DTYPES[info.dtype].bits // 8
