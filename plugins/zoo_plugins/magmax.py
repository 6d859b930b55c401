"""MagMax: of all deltas, the largest entry."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from zoo import Method, hookimpl, method

if TYPE_CHECKING:
    import torch


def _trivial(p: Any, experts: int) -> int | None:
    if p.lambda_ == 0:
        return -1
    return 0 if experts == 1 and p.lambda_ == 1 else None


@method("magmax", version="1.0.0", ordered=True, shortcut=_trivial)
def magmax(
    deltas: torch.Tensor,
    *,
    lambda_: Annotated[
        float, "scale of the merged delta; 1 for experts fine-tuned one after another"
    ] = 0.5,
) -> torch.Tensor:
    """Take, entry by entry, the delta of largest magnitude.

        j      = argmax_i |delta_i|        entry by entry; the later expert where two are equal
        merged = base + lambda * delta_j

    When: for experts fine-tuned one after another on a stream of tasks, where the largest change
    marks what mattered. With many independent experts it favours the ones that moved furthest.

    Args:
        deltas: shape (e, n), overwritten.
    Returns:
        The merged delta, shape (n,).
    Cost: one pass, O(e n) time.
    Source: Marczak et al. 2024, arXiv:2407.06322.
    """
    import torch

    best = deltas[0]
    size, own, later = best.abs(), torch.empty_like(best), torch.empty_like(best)
    for delta in deltas[1:]:
        torch.abs(delta, out=own)
        torch.ge(own, size, out=later)
        torch.maximum(size, own, out=size)
        delta.mul_(later)
        best.mul_(later.neg_().add_(1)).add_(delta)
    return best.mul_(lambda_)


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(magmax)
