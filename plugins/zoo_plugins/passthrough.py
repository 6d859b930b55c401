"""Take one model's tensors as they are: the method of slices that stack layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from zoo import Mergekit, Method, PerExpert, hookimpl, method

if TYPE_CHECKING:
    import torch


def _unscaled(p: Any, experts: int) -> int | None:
    return 0 if p.scale == [1] else None


@method(
    "passthrough",
    version="1.0.0",
    min_experts=1,
    max_experts=1,
    shortcut=_unscaled,
    mergekit=[Mergekit("passthrough", {"scale": "scale"}, base="expert")],
)
def passthrough(
    experts: torch.Tensor,
    *,
    scale: Annotated[PerExpert[float], "factor of the tensor, dimensionless; 1 copies bytes"] = 1.0,
) -> torch.Tensor:
    """Pass one model's tensors on, scaled where asked.

        merged = scale * expert

    When: to stack layers of one model or of several (`slices`: frankenmerges, depth up-scaling),
    or to scale chosen tensors of one. `scale: 0` on the output projections of a repeated block
    makes it do nothing at first. It averages nothing: a slice has one source.

    Args:
        experts: shape (1, n), overwritten.
    Returns:
        Shape (n,).
    Cost: one pass, at the speed of a copy; nothing is decoded where scale is 1.
    Source: layer stacking as in mergekit's `passthrough`; depth up-scaling is Kim et al. 2023,
        arXiv:2312.15166, section 3.1.
    Departs: scaled in float32 and rounded once; mergekit scales in the tensor's own type.
    """
    (factor,) = scale  # type: ignore[misc]
    return experts[0].mul_(factor)


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(passthrough)
