"""Sparsify to a band of magnitudes: neither the largest entries nor the small ones.

Source: Davari and Belilovsky 2024, arXiv:2312.06795, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from zoo.contract import AGAIN, Chunk
from zoo.stages.magnitude import Cut, Magnitudes
from zoo.stages.rows import by_magnitude

if TYPE_CHECKING:
    import torch


def row_band(
    deltas: torch.Tensor, density: Sequence[float], gamma: Sequence[float], *, row: int
) -> torch.Tensor:
    """Zero, in place, all but a band of each row: after the floor(gamma c) largest of its c
    entries, the next floor(density c). Of equal magnitudes the first counts as the largest.

    Args:
        deltas: whole rows, shape (e, n).
        density, gamma: fractions, one per expert, dimensionless.
        row: elements of a row, c.
    """
    import torch

    for delta, share, top in zip(deltas, density, gamma, strict=True):
        rows = delta.view(-1, row)
        first = int(top * row)
        last = min(row, first + int(share * row))
        if (first, last) == (0, row):
            continue
        order = by_magnitude(rows, first="larger")
        kept = torch.zeros(rows.shape, dtype=torch.uint8, device=rows.device)
        kept.scatter_(1, order[:, row - last : row - first], 1)
        rows.mul_(kept)
    return deltas


class TensorCuts(Magnitudes):
    """`stats["cut"]`: the two cuts of each expert that `tensor_band` needs, for each tensor."""

    def __init__(self, density: Sequence[float], gamma: Sequence[float]) -> None:
        keep = [
            [partial(_top, share, top), partial(_top_and_band, share, top)]
            for share, top in zip(density, gamma, strict=True)
        ]
        super().__init__(keep, "tensor", reads=())
        self._end: torch.Tensor | None = None

    def add(
        self,
        state: Any,
        models: torch.Tensor,
        base: torch.Tensor | None,
        chunk: Chunk,
        stats: Mapping[str, Any],
    ) -> None:
        if chunk.index == chunk.count - 1:
            self._end = models.abs()
        super().add(state, models, base, chunk, stats)

    def finish(self, states: Mapping[str, Any]) -> Any:
        found = super().finish(states)
        if found is AGAIN:
            return AGAIN
        (tensor,) = states
        return [[self._edge(i, cut, tensor) for cut in cuts] for i, cuts in enumerate(found)]

    def _edge(self, expert: int, cut: Cut | None, tensor: str) -> Edge:
        if cut is None or not cut.before:
            return Edge(cut, 0)
        assert self._end is not None
        last = int((self._end[expert] == cut.magnitude).count_nonzero())
        return Edge(cut, int(cut.before[tensor][-1]) + last - cut.equals)


@dataclass(frozen=True, slots=True)
class Edge:
    """One side of a band."""

    cut: Cut | None
    smaller: int
    """Of the entries that equal the cut, as many, the first ones, count as smaller."""

    def above(self, sizes: torch.Tensor, chunk: Chunk) -> torch.Tensor:
        """1 where a magnitude is above the edge, else 0; shape (n,), of the type of `sizes`."""
        import torch

        if self.cut is None:
            return torch.ones_like(sizes)
        if not self.cut.before:
            return torch.zeros_like(sizes)
        before, found = self.cut.before[chunk.tensor], torch.empty_like(sizes)
        left = self.smaller - int(before[chunk.index])
        if left <= 0:
            return torch.ge(sizes, self.cut.magnitude, out=found)
        torch.gt(sizes, self.cut.magnitude, out=found)
        following = chunk.index + 1
        if following == len(before) or int(before[following]) > self.smaller:
            equal = (sizes == self.cut.magnitude).nonzero()[:, 0]
            found[equal[left:]] = 1
        return found


def tensor_band(
    deltas: torch.Tensor, edges: Sequence[Sequence[Edge]], chunk: Chunk
) -> torch.Tensor:
    """Zero, in place, all but a band of each tensor of n entries.

    floor(density n) entries stay; of the others the floor(gamma n) largest go, fewer where that
    many are not left, and the small ones. All stay at density 1. Of equal magnitudes the first
    counts as the smallest, unlike in rows: so does mergekit's sort, and this is its scope.
    """
    for delta, (upper, lower) in zip(deltas, edges, strict=True):
        sizes = delta.abs()
        delta.mul_(lower.above(sizes, chunk).sub_(upper.above(sizes, chunk)))
    return deltas


def _top(density: float, gamma: float, n: int) -> int:
    return 0 if density >= 1 else min(int(gamma * n), n - int(density * n))


def _top_and_band(density: float, gamma: float, n: int) -> int:
    return n if density >= 1 else _top(density, gamma, n) + int(density * n)
