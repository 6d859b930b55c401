"""Sparsify to a band of magnitudes: neither the largest entries nor the small ones.

Source: Davari and Belilovsky 2024, arXiv:2312.06795, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from zoo.contract import Chunk
from zoo.stages.magnitude import Cut, Magnitudes, trim
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


def tensor_cuts(density: Sequence[float], gamma: Sequence[float]) -> Magnitudes:
    """The two cuts of each expert that `tensor_band` needs, one pair for each tensor."""
    keep = [
        [partial(_top, share, top), partial(_top_and_band, share, top)]
        for share, top in zip(density, gamma, strict=True)
    ]
    return Magnitudes(keep, "tensor", reads=())


def tensor_band(
    deltas: torch.Tensor, cuts: Sequence[Sequence[Cut | None]], chunk: Chunk
) -> torch.Tensor:
    """Zero, in place, all but a band of each tensor of n entries.

    floor(density n) entries stay; of the others the floor(gamma n) largest go, fewer where that
    many are not left, and the small ones. All stay at density 1.
    """
    top = trim(deltas.clone(), [above for above, _ in cuts], chunk)
    return trim(deltas, [below for _, below in cuts], chunk).sub_(top)


def _top(density: float, gamma: float, n: int) -> int:
    return 0 if density >= 1 else min(int(gamma * n), n - int(density * n))


def _top_and_band(density: float, gamma: float, n: int) -> int:
    return n if density >= 1 else _top(density, gamma, n) + int(density * n)
