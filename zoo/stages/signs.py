"""Elect one sign per entry, and fuse the deltas that agree with it.

Source: Yadav et al. 2023, arXiv:2306.01708, section 3 (elect, disjoint merge).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from zoo.contract import Chunk, Statistic
from zoo.stages.magnitude import trim

if TYPE_CHECKING:
    import torch


def weigh(deltas: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Multiply each delta by its weight, in place; shape (e, n)."""
    for delta, weight in zip(deltas, weights, strict=True):
        if weight != 1:
            delta.mul_(weight)
    return deltas


def add_up(deltas: torch.Tensor) -> torch.Tensor:
    """Sum over experts, shape (n,), adding in their order: `sum(0)` may add in another."""
    total = deltas[0].clone()
    for delta in deltas[1:]:
        total.add_(delta)
    return total


def elect(total: torch.Tensor, zero_sign: float) -> torch.Tensor:
    """The elected sign of each entry, in place: +1 or -1, `zero_sign` where the total is zero.

    Args:
        total: summed weighted deltas, shape (n,).
    """
    (total.ge_(0) if zero_sign > 0 else total.gt_(0)).mul_(2).sub_(1)
    return total


def fuse(
    deltas: torch.Tensor,
    sign: torch.Tensor,
    weights: Sequence[float],
    how: Literal["mean", "sum", "max"],
) -> torch.Tensor:
    """Combine, entry by entry, the weighted deltas whose sign is the elected one.

        mean: sum of those deltas / sum of their weights;  sum: no division;  max: the largest

    Args:
        deltas: weighted, shape (e, n); overwritten.
        sign: +1 or -1, shape (n,).
    Returns:
        Shape (n,); 0 where none agrees.
    """
    import torch

    total = torch.zeros_like(sign)
    share = torch.zeros_like(sign) if how == "mean" else None
    agrees = torch.empty_like(sign)
    for delta, weight in zip(deltas, weights, strict=True):
        delta.mul_(sign).clamp_min_(0)  # magnitude where it agrees, else 0
        if how == "max":
            torch.maximum(total, delta, out=total)
        else:
            total.add_(delta)
        if share is not None:
            torch.gt(delta, 0, out=agrees)
            share.add_(agrees if weight == 1 else agrees.mul_(weight))
    if share is not None:
        share.add_(torch.eq(share, 0, out=agrees))  # nobody agrees: 0 / 1
        total.div_(share)
    return total.mul_(sign)


class Majority(Statistic):
    """The sign most entries elect: `stats["majority"]` is +1.0 or -1.0 (a draw is +1.0).

    Needed only where a sum cancels exactly, which the paper decides by the whole vector.
    """

    name = "majority"
    scope = "model"

    def start(self, tensor: str, shape: tuple[int, ...], parameters: Any) -> list[Any]:
        return [parameters, 0]

    def add(
        self,
        state: list[Any],
        models: torch.Tensor,
        base: torch.Tensor | None,
        chunk: Chunk,
        stats: Mapping[str, Any],
    ) -> None:
        parameters = state[0]
        kept = trim(models, [cut for (cut,) in stats["cut"]], chunk)
        total = add_up(weigh(kept, parameters.weight))
        # A sum of signs of one chunk is a small integer: exact in float32 in any order.
        state[1] += int(total.sign_().sum().item())

    def finish(self, states: Mapping[str, list[Any]]) -> float:
        return 1.0 if sum(state[1] for state in states.values()) >= 0 else -1.0
