"""The batches of a sample, for what goes over them many times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from zoo.errors import InvalidCheckpoint
from zoo.progress import NoProgress

if TYPE_CHECKING:
    import torch

    from zoo.sample import Sample
    from zoo.task import Batch

KEPT_BYTES = 256 << 20
"""Samples of at most so many bytes are kept in memory; larger ones are read anew at each pass."""


class Examples:
    """The batches of a sample, the same at each pass; kept in memory where they are small.

    Reading is not told to the sample's progress: who computes on the batches tells what it cost.

    Args:
        dtype: floating inputs are cast to it.
        size: examples per batch, in place of the sample's own.
    """

    def __init__(self, sample: Sample, dtype: torch.dtype, size: int | None = None) -> None:
        self._sample = replace(sample, progress=NoProgress(), batch=size or sample.batch)
        self._dtype = dtype
        self._kept: list[Batch] | None = None

    def __iter__(self) -> Iterator[Batch]:
        """
        Raises:
            InvalidCheckpoint: the sample is empty.
        """
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Batch] = []
        room = KEPT_BYTES
        found = False
        for x, y in self._sample.batches():
            found = True
            if x.is_floating_point():
                x = x.to(self._dtype)
            room -= x.nbytes + y.nbytes
            if room >= 0:
                kept.append((x, y))
            else:
                kept.clear()
            yield x, y
        if not found:
            name, split = self._sample.task.name, self._sample.split
            raise InvalidCheckpoint(f"Split `{split}` of task `{name}` has no examples.")
        if room >= 0:
            self._kept = kept
