"""The mean of experts on the sphere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt

from zoo import Mergekit, Method, PerExpert, Statistic, hookimpl, method
from zoo.stages.gram import Coefficients, Products, combine
from zoo.stages.sphere import (
    NEARLY_OPPOSITE,
    OPPOSITE,
    directions,
    follow,
    is_nearly_opposite,
    length,
    tangent,
)

if TYPE_CHECKING:
    import numpy as np
    import torch


def _statistics(p: Any, experts: int) -> Sequence[Statistic]:
    return [Coefficients(lambda products: _mean(products, p.weight, p.max_iter, p.tol))]


def _mean(
    products: Products, weights: Sequence[float], rounds: int, tolerance: float
) -> np.ndarray | None:
    """Iterate on the coefficients of the mean direction; O(e^2) a round."""
    import numpy as np

    norms, cosines = directions(products.gram)
    shares = np.array(weights) / sum(weights)
    valid = norms > tolerance
    own = np.where(valid, shares, 0.0)
    if not own.any():
        return own
    own /= own.sum()
    start = length(own, cosines)
    if start**2 < NEARLY_OPPOSITE and not products.exact:
        return None
    balanced = start < max(tolerance, OPPOSITE)
    mean = np.eye(len(own))[np.flatnonzero(own)[0]] if balanced else own / start
    for _ in range(rounds):
        if not products.exact and is_nearly_opposite(mean, cosines):
            return None
        pull = tangent(mean, cosines, own, tolerance)
        if length(pull, cosines) < tolerance:
            break
        mean = follow(mean, pull, cosines)
    scale = float(shares @ norms)
    per_norm = np.divide(mean, norms, out=np.zeros_like(mean), where=valid)
    return np.asarray(scale * per_norm)


def _only_one(p: Any, experts: int) -> int | None:
    used = [i for i, w in enumerate(p.weight) if w]
    return used[0] if len(used) == 1 else None


def _weightless(p: Any, experts: int) -> str | None:
    return None if any(p.weight) else "all weights are zero; give one expert a positive weight"


@method(
    "karcher",
    version="1.0.0",
    needs="statistics",
    statistics=_statistics,
    replay="platform",
    tolerance=1e-6,
    shortcut=_only_one,
    check=_weightless,
    mergekit=[Mergekit("karcher", {"max_iter": "max_iter", "tol": "tol"}, base="expert")],
)
def karcher(
    experts: torch.Tensor,
    *,
    weight: Annotated[
        PerExpert[Annotated[float, Ge(0)]], "share of each expert, normalized to sum 1"
    ] = 1.0,
    max_iter: Annotated[int, Ge(0), "most iterations"] = 10,
    tol: Annotated[
        float, Gt(0), "angle in radians to stop at; also the norm of a tensor that counts as zero"
    ] = 1e-5,
    stats: Mapping[str, Any],
) -> torch.Tensor:
    """Take the mean direction of the experts on the sphere, times their mean norm.

        u_i    = x_i / |x_i|                       each tensor of expert i, flattened
        u      = argmin over the sphere of sum_i a_i angle(u, u_i)^2
        merged = (sum_i a_i |x_i|) u

    The mean is found by following the mean tangent, starting from the normalized sum.

    When: for three or more experts that should keep their norm, which a plain mean shrinks where
    they disagree. At small angles, as between fine-tunes of one base, it is close to `linear`.

    Args:
        experts: shape (e, n), overwritten.
    Returns:
        Shape (n,).
    Cost: two passes over each tensor, the second from cache; iterations run on the e x e inner
        products and cost nothing.
    Source: Karcher 1977, doi:10.1002/cpa.3160300502; on weights mergekit's `karcher`, whose
        thresholds these are.
    Departs: experts have weights. Inner products are summed in float64. An expert exactly
        opposite to the estimate pulls nowhere, where mergekit divides by the sine of pi.
    """
    return combine(experts, None, stats["coefficients"])


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(karcher)
