"""Orthogonal Adaptation: updates trained not to disturb each other are simply added."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from zoo import Method, PerExpert, hookimpl, method
from zoo.stages.signs import add_up, weigh

if TYPE_CHECKING:
    import torch


def join(
    factors: Sequence[tuple[torch.Tensor, torch.Tensor]], weights: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted sum of low-rank updates `A_i B_i^T`, as factors: ranks add, nothing is dense.

    Args:
        factors: (A, B) of each expert, A of shape (m, r), B of shape (n, r); r may differ.
        weights: coefficient of each update, with the adapter's scale (alpha / r) in it.
    Returns:
        A (m, sum of r) and B (n, sum of r).
    """
    import torch

    left = [a * w for (a, _), w in zip(factors, weights, strict=True)]
    return torch.cat(left, dim=1), torch.cat([b for _, b in factors], dim=1)


def crosstalk(left: torch.Tensor, right: torch.Tensor) -> float:
    """How far two adapters read the same inputs: the largest entry of `|B_1^T B_2|`.

    Args:
        left, right: B of either, shape (n, r); columns count with length 1, zero ones not at all.
    Returns:
        0 where they are orthogonal, and adding them is exact; at most 1. Above about 0.3, merge
        them by another method.
    """
    import torch

    left, right = (torch.nn.functional.normalize(b.double(), dim=0) for b in (left, right))
    return float((left.T @ right).abs().max()) if left.numel() and right.numel() else 0.0


def _trivial(p: Any, experts: int) -> int | None:
    used = [(i, w * p.lambda_) for i, w in enumerate(p.weight) if w * p.lambda_]
    if not used:
        return -1
    return used[0][0] if len(used) == 1 and used[0][1] == 1 else None


@method("orthogonal_adaptation", version="1.0.0", shortcut=_trivial)
def orthogonal_adaptation(
    deltas: torch.Tensor,
    *,
    weight: Annotated[PerExpert[float], "coefficient of each delta, alpha / r included"] = 1.0,
    lambda_: Annotated[float, "scale of the summed delta, dimensionless"] = 1.0,
) -> torch.Tensor:
    """Add updates that were trained in orthogonal subspaces.

        delta_i = A_i B_i^T,   B_i frozen in training,   B_i^T B_j = 0
        merged  = base + lambda * sum_i w_i delta_i

    When: adapters trained with fixed, mutually orthogonal (or large random) down-projections: on
    inputs in the span of B_i the sum acts as adapter i alone. For others it is task arithmetic.

    Args:
        deltas: shape (e, n), overwritten.
    Returns:
        The merged delta, shape (n,).
    Cost: one pass, O(e n) time.
    Source: Po et al. 2024, arXiv:2312.02432.
    Departs: written from the paper's abstract; its weighting of the experts could not be checked.
    """
    weights: list[float] = weight  # type: ignore[assignment]
    return add_up(weigh(deltas, weights)).mul_(lambda_)


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(orthogonal_adaptation)
