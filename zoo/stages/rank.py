"""Sparsify by rank: the larger an entry of a row, the likelier it survives (MagPrune).

Source: Deep et al. 2024, arXiv:2406.11617, section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from zoo.stages.rows import by_magnitude

if TYPE_CHECKING:
    import torch

    from zoo.random import Random

Ranking = Literal["rank", "magnitude"]


def prune(
    deltas: torch.Tensor,
    density: Sequence[float],
    epsilon: Sequence[float],
    random: Random,
    *,
    row: int,
    ranking: Ranking = "rank",
    divide: bool = False,
) -> torch.Tensor:
    """Zero entries, in place, at random: with the chances that `chances` gives.

    Args:
        deltas: whole rows, shape (e, n).
        density: mean chance of an entry to survive, one per expert; 1 keeps all, 0 nothing.
        epsilon: half the width of the window of chances, one per expert.
        row: elements of a row.
        divide: divide what survives by its chance, so that the expectation is the delta.
    """
    for i, (delta, mean, half) in enumerate(zip(deltas, density, epsilon, strict=True)):
        if mean >= 1:
            continue
        if mean <= 0:
            delta.zero_()
            continue
        if half == 0:  # the same draws as `drop` makes
            delta.mul_(random.keeps(i, mean))
        else:
            chance = chances(delta.view(-1, row), mean, half, ranking).view(-1)
            delta.mul_(random.keeps(i, chance.cpu().numpy()))
        if divide:
            delta.div_(chance if half else mean)
    return deltas


def chances(
    rows: torch.Tensor, density: float, epsilon: float, ranking: Ranking = "rank"
) -> torch.Tensor:
    """The chance of each entry to survive, shape (r, c).

        chance = density - epsilon + 2 epsilon * place

    `place` goes from 0 for the smallest magnitude of the row to 1 for the largest: by rank, where
    of equal ones the first is smaller; or in proportion to the magnitude. 1/2 in a row of one.
    """
    import torch

    columns = rows.shape[1]
    if ranking == "magnitude":
        size = rows.abs()
        low, high = size.aminmax(dim=1, keepdim=True)
        flat = high == low
        place = (size - low) / (high - low + flat)
        place[flat.expand_as(place)] = 0.5
        return place.mul_(2 * epsilon).add_(density - epsilon)
    if columns == 1:
        return torch.full_like(rows, density)
    place = torch.arange(columns, dtype=torch.float64, device=rows.device) / (columns - 1)
    ramp = (density - epsilon + 2 * epsilon * place).to(rows.dtype)
    order = by_magnitude(rows, first="smaller")
    return torch.empty_like(rows).scatter_(1, order, ramp.expand_as(rows))


def outside(density: Sequence[float], epsilon: Sequence[float]) -> str | None:
    """A sentence when some chance would not lie between 0 and 1."""
    for mean, half in zip(density, epsilon, strict=True):
        if 0 < mean < 1 and not (mean - half > 0 and mean + half < 1):
            return (
                f"density {mean:g} and epsilon {half:g} make chances from {mean - half:g} to "
                f"{mean + half:g}, which must lie between 0 and 1; choose a smaller epsilon"
            )
    return None
