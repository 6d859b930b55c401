"""Spherical interpolation between two experts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt

from zoo import Chunk, Mergekit, Method, Statistic, hookimpl, method

if TYPE_CHECKING:
    import torch


_SHORTEST = 1e-12
"""1 - |cos| of the shortest arc: below it, rounding of the cosine is all there is."""


class _Angle(Statistic):
    """(<a, b>, |a|^2, |b|^2) of one tensor, summed in float64 chunk by chunk."""

    name = "angle"
    scope = "tensor"

    def start(self, tensor: str, shape: tuple[int, ...], parameters: Any) -> list[float]:
        return [0.0, 0.0, 0.0]

    def add(
        self,
        state: list[float],
        models: torch.Tensor,
        base: torch.Tensor | None,
        chunk: Chunk,
        stats: Mapping[str, Any],
    ) -> None:
        a, b = models.double()
        for i, (x, y) in enumerate(((a, b), (a, a), (b, b))):
            state[i] += float(x.dot(y))

    def finish(self, states: Mapping[str, list[float]]) -> list[float]:
        (state,) = states.values()
        return state


def _statistics(p: Any, experts: int) -> Sequence[Statistic]:
    return [_Angle()]


def _endpoint(p: Any, experts: int) -> int | None:
    return {0.0: 0, 1.0: 1}.get(p.t)


def _inside(p: Any, experts: int) -> str | None:
    if not 0 <= p.t <= 1 and not p.extrapolate:
        return f"t={p.t:g} lies outside [0, 1]; pass extrapolate=true to mean it"
    return None


@method(
    "slerp",
    version="1.0.0",
    needs="statistics",
    statistics=_statistics,
    min_experts=2,
    max_experts=2,
    ordered=True,
    replay="platform",
    tolerance=1e-6,
    shortcut=_endpoint,
    check=_inside,
    mergekit=[Mergekit("slerp", {"t": "t"}, base="first")],
)
def slerp(
    experts: torch.Tensor,
    *,
    t: Annotated[float, "position on the arc: 0 is the first expert, 1 the second"],
    dot_threshold: Annotated[
        float, Ge(0), "cosine beyond which the arc is taken as a line"
    ] = 0.9995,
    eps: Annotated[float, Gt(0), "norm below which a tensor is not normalized"] = 1e-8,
    extrapolate: Annotated[bool, "allow t outside [0, 1]"] = False,
    stats: Mapping[str, Any],
    chunk: Chunk,
) -> torch.Tensor:
    """Interpolate two experts along the arc between them, tensor by tensor.

        theta  = angle between a and b, each flattened
        merged = sin((1-t) theta)/sin(theta) * a + sin(t theta)/sin(theta) * b
        merged = (1-t) a + t b          where |cos theta| > dot_threshold

    When: two models of like norm, and the wish to move from one to the other without the norm
        sinking in between. For small steps from one base it is nearly `linear`.

    Args:
        experts: a and b, shape (2, n), overwritten.
    Returns:
        Shape (n,).
    Cost: two passes over each tensor, the second from cache.
    Source: Shoemake 1985; on weights it is mergekit's `slerp`, whose thresholds these are.
    Departs: norms and the angle are summed in float64.
    """
    first, second = coefficients(*stats["angle"], t=t, threshold=dot_threshold, eps=eps)
    return experts[0].mul_(first).add_(experts[1].mul_(second))


def coefficients(
    dot: float, aa: float, bb: float, *, t: float, threshold: float, eps: float
) -> tuple[float, float]:
    """The factors of a and b, from their inner products; dimensionless."""
    norm_a, norm_b = math.sqrt(aa), math.sqrt(bb)
    cosine = dot / (norm_a if norm_a > eps else 1.0) / (norm_b if norm_b > eps else 1.0)
    # Without the second bound, a threshold of 1 would divide by the sine of no angle at all.
    if abs(cosine) > min(threshold, 1 - _SHORTEST):
        return 1.0 - t, t
    theta = math.acos(cosine)
    return math.sin((1 - t) * theta) / math.sin(theta), math.sin(t * theta) / math.sin(theta)


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(slerp)
