"""Add scaled task vectors to the base."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from zoo import Mergekit, Method, PerExpert, hookimpl, method

if TYPE_CHECKING:
    import torch

_NEGLIGIBLE = 1e-8
"""mergekit's floor for the sum of weights, below which it does not normalize."""


def _coefficients(weights: list[float], scale: float, normalize: bool) -> list[float]:
    total = sum(weights)
    if normalize and abs(total) >= _NEGLIGIBLE:
        scale = scale / total
    return [scale * w for w in weights]


def _trivial(p: Any, experts: int) -> int | None:
    used = [(i, c) for i, c in enumerate(_coefficients(p.weight, p.lambda_, p.normalize)) if c]
    if not used:
        return -1
    return used[0][0] if len(used) == 1 and used[0][1] == 1 else None


@method(
    "task_arithmetic",
    version="1.0.0",
    shortcut=_trivial,
    mergekit=[
        Mergekit(
            "task_arithmetic",
            {
                "weight": "weight",
                "lambda": "lambda",
                "normalize": "normalize",
                # Nothing is sparsified, in mergekit either.
                **dict.fromkeys(("density", "rescale", "int8_mask")),
            },
        )
    ],
)
def task_arithmetic(
    deltas: torch.Tensor,
    *,
    weight: Annotated[PerExpert[float], "coefficient of each delta; negative forgets"] = 1.0,
    lambda_: Annotated[float, "scale of the summed delta, dimensionless"] = 1.0,
    normalize: Annotated[bool, "divide by the sum of the weights"] = False,
) -> torch.Tensor:
    """Add the scaled sum of the deltas to the base.

        merged = base + lambda * sum_i w_i * (expert_i - base)

    When: experts of different tasks and their base, as the line that other methods must beat; or
        to take a task away, with a negative weight. The scale wants tuning: 0.3 for eight tasks.

    Args:
        deltas: shape (e, n), overwritten.
    Returns:
        The merged delta, shape (n,).
    Cost: one pass, O(e n) time.
    Source: Ilharco et al. 2023, arXiv:2212.04089, section 2.
    """
    weights: list[float] = weight  # type: ignore[assignment]
    coefficients = _coefficients(weights, lambda_, normalize)
    total = deltas[0].mul_(coefficients[0])
    for delta, c in zip(deltas[1:], coefficients[1:], strict=True):
        total.add_(delta if c == 1 else delta.mul_(c))
    return total


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(task_arithmetic)
