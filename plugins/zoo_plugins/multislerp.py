"""Barycentric interpolation of experts on the sphere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Gt

from zoo import Mergekit, Method, PerExpert, Statistic, hookimpl, method
from zoo.errors import IncompatibleModels
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
    return [Coefficients(lambda products: _barycentre(products, p), relative=True)]


def _barycentre(products: Products, p: Any) -> np.ndarray | None:
    import numpy as np

    weights = np.array(p.weight, dtype=float)
    if p.normalize_weights:
        weights /= weights.sum()
    norms, cosines = directions(products.gram)
    if not norms.any():
        return np.zeros_like(weights)
    size = float(np.abs(weights).sum())
    mean = length(weights, cosines)
    if mean**2 < NEARLY_OPPOSITE * size**2 and not products.exact:
        return None
    if mean < max(p.eps, OPPOSITE * size):
        if len(weights) == 2:
            return weights
        raise IncompatibleModels(
            f"The weighted directions of tensor `{products.tensor}` cancel out:",
            "no direction is the mean of opposite ones.",
            "Change the weights, or exclude the tensor.",
            tensor=products.tensor,
        )
    point = weights / mean
    if p.log_map:
        if not products.exact and is_nearly_opposite(point, cosines):
            return None
        point = follow(point, tangent(point, cosines, weights, p.eps), cosines)
    scale = float(weights @ norms)
    per_norm = np.divide(point, norms, out=np.zeros_like(point), where=norms > 0)
    return np.asarray(scale * per_norm)


def _only_one(p: Any, experts: int) -> int | None:
    if experts == 1:
        return 0
    used = [i for i, w in enumerate(p.weight) if w]
    whole = len(used) == 1 and (p.normalize_weights or p.weight[used[0]] == 1)
    return used[0] if whole else None


def _zero_sum(p: Any, experts: int) -> str | None:
    if p.normalize_weights and sum(p.weight) == 0:
        return f"weights {p.weight} sum to zero, so they cannot be normalized"
    return None


@method(
    "multislerp",
    version="1.0.0",
    needs="statistics",
    statistics=_statistics,
    replay="platform",
    tolerance=1e-6,
    shortcut=_only_one,
    check=_zero_sum,
    mergekit=[
        Mergekit(
            "multislerp",
            {"weight": "weight", "normalize_weights": "normalize_weights", "eps": "eps"},
        )
    ],
)
def multislerp(
    experts: torch.Tensor,
    base: torch.Tensor | None,
    *,
    weight: Annotated[PerExpert[float], "share of each expert"],
    normalize_weights: Annotated[
        bool, "divide the weights by their sum; else that scales the norm"
    ] = True,
    log_map: Annotated[bool, "one step further, towards the Karcher mean"] = False,
    eps: Annotated[float, Gt(0), "length of the mean direction that counts as none"] = 1e-8,
    stats: Mapping[str, Any],
) -> torch.Tensor:
    """Take the normalized mean of the experts' directions, times their mean norm.

        x_i    = expert_i, or expert_i - base where a base is given; each tensor flattened
        m      = sum_i w_i x_i / |x_i|
        merged = (sum_i w_i |x_i|) m / |m|         (+ base)

    When: in place of `slerp` for three or more experts, with a base on their deltas. It is
    `karcher` without iterations; for equal directions it is `linear`.

    Args:
        experts: shape (e, n), overwritten.
    Returns:
        Shape (n,).
    Cost: two passes over each tensor, the second from cache.
    Source: mergekit's `multislerp`; it has no paper.
    Departs: mergekit goes on from m along the mean of the tangents towards the experts, which is
        zero but for rounding, and is left out; with `log_map` the tangents have the length of
        the arcs, and their mean is not zero. mergekit adds eps to the norms it divides by. Tensors
        that are all zero give zero. Opposite directions that balance out are an error for three
        or more experts, as in mergekit, and give the weighted sum for two.
    """
    return combine(experts, base, stats["coefficients"])


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(multislerp)
