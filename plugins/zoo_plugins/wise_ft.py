"""WiSE-FT: a point on the line from the base to its fine-tune."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from zoo import Method, hookimpl, method

if TYPE_CHECKING:
    import torch


def _endpoint(p: Any, experts: int) -> int | None:
    return {0.0: -1, 1.0: 0}.get(p.alpha)


def _inside(p: Any, experts: int) -> str | None:
    if not 0 <= p.alpha <= 1 and not p.allow_extrapolation:
        return f"alpha={p.alpha:g} lies outside [0, 1]; pass allow_extrapolation=true to mean it"
    return None


@method("wise_ft", version="1.0.0", max_experts=1, shortcut=_endpoint, check=_inside)
def wise_ft(
    deltas: torch.Tensor,
    *,
    alpha: Annotated[float, "position: 0 is the base, 1 the expert, dimensionless"] = 0.5,
    allow_extrapolation: Annotated[bool, "allow alpha outside [0, 1]"] = False,
) -> torch.Tensor:
    """Interpolate between a base and its fine-tune.

        merged = (1 - alpha) * base + alpha * expert

    When: to win back robustness that fine-tuning cost: on data unlike the training set the best
    alpha is usually between the ends. Without data to choose by, 0.5 is the authors' advice. A
    head that the base lacks cannot be interpolated; exclude it.

    Args:
        deltas: shape (1, n), overwritten.
    Returns:
        The merged delta, shape (n,).
    Cost: one pass.
    Source: Wortsman et al. 2022, arXiv:2109.01903.
    """
    return deltas[0].mul_(alpha)


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(wise_ft)
