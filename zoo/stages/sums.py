"""Sums that come out the same on any machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_NARROW = 1 << 12
"""Elements from which a sum goes on in float64."""


def row_sums(values: torch.Tensor) -> list[float]:
    """The sum of each row of values of one sign, shape (e, n), overwritten.

    The upper half is added to the lower one until a single element is left: an order that is fixed,
    where torch's own sum depends on how wide the machine's vectors are.
    """
    width = values.shape[1]
    if width == 0:
        return [0.0] * len(values)
    while width > 1:
        if width <= _NARROW:
            values = values.double()
        half = (width + 1) // 2
        values[:, : width - half].add_(values[:, half:width])
        values, width = values[:, :half], half
    sums: list[float] = values[:, 0].tolist()
    return sums
