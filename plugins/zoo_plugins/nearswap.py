"""NearSwap: move every weight towards another model by at most t."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from zoo import Mergekit, Method, hookimpl, method

if TYPE_CHECKING:
    import torch

_LEAST = 1e-6
"""Differences below this are divided by it; in weight units, as t is."""


def _still(p: Any, experts: int) -> int | None:
    return -1 if p.t == 0 else None


@method(
    "nearswap",
    version="1.0.0",
    max_experts=1,
    shortcut=_still,
    mergekit=[Mergekit("nearswap", {"t": "t"})],
)
def nearswap(
    experts: torch.Tensor,
    base: torch.Tensor,
    *,
    t: Annotated[float, Ge(0), "largest step, in units of the weights; 1e-4 on the model card"],
) -> torch.Tensor:
    """Move every weight of the base towards the expert by at most t.

        merged = base + clip(expert - base, -t, t)

    Below t = 1e-6, differences smaller than 1e-6 move by the fraction t / 1e-6 of themselves.

    When: to take over what two models nearly agree on, and leave the base where they differ much;
    experts need not share its start. The result depends on the scale of the weights.

    Args:
        experts: shape (1, n), overwritten.
        base: shape (n,).
    Returns:
        Shape (n,).
    Cost: one pass.
    Source: alchemonaut, model card of QuartetAnemoi-70B-t0.0001; mergekit's `nearswap`.
    Departs: where the expert is within t, the result is the expert bit for bit.
    """
    import torch

    expert = experts[0]
    if t >= _LEAST:
        torch.maximum(expert, base - t, out=expert)
        return torch.minimum(expert, base + t, out=expert)
    return expert.sub_(base).mul_(t / _LEAST).clamp_(-t, t).add_(base)


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(nearswap)
