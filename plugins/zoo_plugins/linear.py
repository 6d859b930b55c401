"""Weighted average of experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from zoo import Mergekit, Method, PerExpert, hookimpl, method

if TYPE_CHECKING:
    import torch


def _only_one(p: Any, experts: int) -> int | None:
    used = [i for i, w in enumerate(p.weight) if w != 0]
    return used[0] if len(used) == 1 and (p.normalize or p.weight[used[0]] == 1) else None


def _zero_sum(p: Any, experts: int) -> str | None:
    if p.normalize and sum(p.weight) == 0:
        return f"weights {p.weight} sum to zero, so they cannot be normalized"
    return None


@method(
    "linear",
    version="1.0.0",
    shortcut=_only_one,
    check=_zero_sum,
    mergekit=[Mergekit("linear", {"weight": "weight", "normalize": "normalize"}, base="expert")],
)
def linear(
    experts: torch.Tensor,
    *,
    weight: Annotated[PerExpert[float], "share of each expert, any real number"] = 1.0,
    normalize: Annotated[bool, "divide by the sum of the weights"] = True,
) -> torch.Tensor:
    """Average the experts, each with its weight.

        merged = sum_i w_i * expert_i / sum_i w_i        (no division without `normalize`)

    When: several runs of one task, or experts that lie near each other. Experts of different
        tasks lose what each learned; give their base too, to `task_arithmetic` or `ties`.

    Args:
        experts: shape (e, n), overwritten.
    Returns:
        Shape (n,).
    Cost: one pass, O(e n) time.
    Source: Wortsman et al. 2022, arXiv:2203.05482, section 2.
    """
    weights: list[float] = weight  # type: ignore[assignment]
    total = experts[0].mul_(weights[0])
    for expert, w in zip(experts[1:], weights[1:], strict=True):
        total.add_(expert if w == 1 else expert.mul_(w))
    return total.div_(sum(weights)) if normalize else total


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(linear)
