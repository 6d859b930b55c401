"""Uniform soup: the mean of all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zoo import Method, hookimpl, method

if TYPE_CHECKING:
    import torch


def _alone(p: Any, experts: int) -> int | None:
    return 0 if experts == 1 else None


@method("uniform_soup", version="1.0.0", shortcut=_alone)
def uniform_soup(experts: torch.Tensor) -> torch.Tensor:
    """Average all experts alike.

        merged = (1/N) sum_i expert_i

    When: for fine-tunes of one start on one task, from a sweep of settings, when all of them are
    good. One bad member spoils it. Weights, if they are wanted, are `linear`'s.

    Args:
        experts: shape (e, n), overwritten.
    Returns:
        Shape (n,).
    Cost: one pass, O(e n) time.
    Source: Wortsman et al. 2022, arXiv:2203.05482.
    """
    total = experts[0]
    for expert in experts[1:]:
        total.add_(expert)
    return total.div_(len(experts))


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(uniform_soup)
