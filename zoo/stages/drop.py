"""Sparsify at random: every entry of a delta survives with the same chance.

Source: Yu et al. 2024, arXiv:2311.03099, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from zoo.random import Random


def drop(
    deltas: torch.Tensor, density: Sequence[float], random: Random, *, divide: bool = False
) -> torch.Tensor:
    """Zero entries, in place, each with probability 1 - density.

    Args:
        deltas: shape (e, n).
        density: chance of an entry to survive, one per expert, dimensionless.
        divide: divide what survives by its chance, so that the expectation is the delta.
    """
    for i, (delta, chance) in enumerate(zip(deltas, density, strict=True)):
        if chance < 1:
            delta.mul_(random.keeps(i, chance))
            if divide and chance > 0:
                delta.div_(chance)
    return deltas
