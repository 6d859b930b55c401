"""Products of thin matrices whose every bit is fixed, whoever computes them.

A merge must give the same bytes wherever a read begins and whatever machine it runs on, and no BLAS
promises that: the order of its sums, and whether a product is rounded before it is added, depend on
shapes, threads and processors. So nothing is left to be rounded. Entries are put on a grid of 24
bits below the largest of their row (left) or column (right), and at most 32 ranks are summed at a
time: products are then integers of 48 bits in one unit, sums have 53, and float64 holds them all
exactly, in any order. What is rounded is the grid, once, as float32 would round its largest entry.

Source: Ozaki et al. 2012, doi:10.1007/s11075-011-9478-1, section 2 (error-free transformation).
Departs: one slice, not as many as make the product itself exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

BITS = 24
GROUP = 32
"""Ranks summed without rounding: 2 * BITS + log2(GROUP) = 53 bits, what a float64 has."""


def gridded(values: torch.Tensor, axis: int) -> torch.Tensor:
    """The values, float64, rounded to 24 bits below the largest magnitude along an axis.

    NaN and infinities stay, and spread along the axis at most.
    """
    import numpy as np
    import torch

    # numpy's ldexp is exact; torch's takes a power, and in float32.
    with np.errstate(all="ignore"):
        x = values.numpy()
        largest = np.max(np.abs(x), axis=axis, keepdims=True, initial=0.0)
        _, exponent = np.frexp(largest)
        rounded = np.ldexp(np.rint(np.ldexp(x, BITS - exponent)), exponent - BITS)
    return torch.from_numpy(np.ascontiguousarray(rounded))


@dataclass(frozen=True)
class Product:
    """left @ right, shapes (m, r) and (r, n), by rows; float64."""

    groups: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @classmethod
    def of(cls, left: torch.Tensor, right: torch.Tensor) -> Product:
        return cls(
            tuple(
                (gridded(left[:, at : at + GROUP], 1), gridded(right[at : at + GROUP], 0))
                for at in range(0, left.shape[1], GROUP)
            )
        )

    def rows(self, first: int, last: int) -> torch.Tensor:
        """Rows [first, last), shape (last - first, n). Groups are added in their order."""
        found, *others = (left[first:last] @ right for left, right in self.groups)
        for other in others:
            found += other
        return found

    def whole(self) -> torch.Tensor:
        """The product, shape (m, n)."""
        return self.rows(0, self.groups[0][0].shape[0])


def sum_of_squares(values: torch.Tensor) -> torch.Tensor:
    """Sum of squares along the last axis, in one order: halves are added to halves."""
    import torch

    total = values * values
    while (n := total.shape[-1]) > 1:
        half = n // 2
        pairs = total[..., :half] + total[..., half : 2 * half]
        total = torch.cat([pairs, total[..., 2 * half :]], dim=-1) if n % 2 else pairs
    return total[..., 0] if total.shape[-1] else total.new_zeros(total.shape[:-1])
