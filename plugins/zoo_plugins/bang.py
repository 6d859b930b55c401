"""BANG: WiSE-FT of a fine-tune that was trained not to be over-confident."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from zoo import Fraction, Method, hookimpl, method

if TYPE_CHECKING:
    import torch


def _endpoint(p: Any, experts: int) -> int | None:
    return {0.0: -1, 1.0: 0}.get(p.alpha)


@method("bang", version="1.0.0", max_experts=1, shortcut=_endpoint)
def bang(
    deltas: torch.Tensor,
    *,
    alpha: Annotated[Fraction, "position: 0 is the base, 1 the expert, dimensionless"] = 0.5,
) -> torch.Tensor:
    """Average a base with a fine-tune trained by label smoothing or Mixup.

        merged = (1 - alpha) * base + alpha * expert

    When: as `wise_ft`, whose arithmetic this is. A plain fine-tune is over-confident on data unlike
    its training set, so its mistakes outweigh the base; label smoothing or Mixup in training
    balances the two. Without that the result is plain WiSE-FT.

    Args:
        deltas: shape (1, n), overwritten.
    Returns:
        The merged delta, shape (n,).
    Cost: one pass.
    Source: Lin et al. 2024, arXiv:2309.17230.
    """
    return deltas[0].mul_(alpha)


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(bang)
