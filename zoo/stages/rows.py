"""The order of magnitudes within rows, exact and with a rule for equal ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

_INDEX_BITS = 32


def by_magnitude(rows: torch.Tensor, first: Literal["smaller", "larger"]) -> torch.Tensor:
    """Positions of the entries of each row, from the smallest magnitude to the largest.

    Args:
        rows: shape (r, c).
        first: what the first of several equal magnitudes counts as.
    Returns:
        Shape (r, c), int64.
    """
    import numpy as np
    import torch

    columns = rows.shape[1]
    if rows.dtype != torch.float32:
        turned = rows.abs() if first == "smaller" else rows.abs().flip(1)
        order = turned.argsort(dim=1, stable=True)
        return order if first == "smaller" else columns - 1 - order
    # Magnitudes are ordered like their bits read as integers. With the position below them
    # all keys differ, so that a plain sort is stable, and it runs in vector registers.
    keys = rows.abs().cpu().numpy().view(np.int32).astype(np.int64)
    index = np.arange(columns)
    keys <<= _INDEX_BITS
    keys |= index if first == "smaller" else index[::-1]
    keys.sort(axis=1)
    keys &= (1 << _INDEX_BITS) - 1
    if first == "larger":
        np.subtract(columns - 1, keys, out=keys)
    return torch.from_numpy(keys).to(rows.device)
