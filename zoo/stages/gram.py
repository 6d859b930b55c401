"""Merges that are linear combinations of their inputs, with coefficients from inner products.

Spherical means and angle-based interpolation never leave the span of the experts. All they
need of a tensor is the Gram matrix of its experts: one pass sums that, the algorithm runs on e
numbers instead of e vectors, and a second pass adds up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.contract import AGAIN, Chunk, Statistic

if TYPE_CHECKING:
    import numpy as np
    import torch

_BLOCK = 1 << 8
"""Products summed in float32 before they are added up in float64. Inner products come out good to
1e-8 of the norms (1e-7 for a few hundred elements), at nearly the price of float32 ones."""
_SQUARES = (1e-30, 1e30)
"""Sums of squares that are safe in float32: outside, entries may have vanished or overflowed."""


@dataclass(frozen=True, slots=True)
class Products:
    """What is known of one tensor."""

    tensor: str
    gram: np.ndarray
    """Inner products of the experts, or of their deltas: shape (e, e), float64."""
    exact: bool
    """Whether every product was made in float64."""


Solve = Callable[[Products], "Sequence[float] | np.ndarray | None"]


class Coefficients(Statistic):
    """`stats["coefficients"]`: the factor of each expert in the merge of a tensor.

    Args:
        solve: from inner products to one factor per expert. May return None when the products are
            not `exact` and too close to a singularity for their rounding: it is then asked
            again with products made in float64.
        relative: take experts minus base where there is a base; for methods on weights.
    Cost: one pass; O(e^2 n) time, of which e = 3 hides behind reading.
    """

    name = "coefficients"
    scope = "tensor"

    def __init__(self, solve: Solve, *, relative: bool = False) -> None:
        self._solve = solve
        self._relative = relative
        self._exact = False

    def start(self, tensor: str, shape: tuple[int, ...], parameters: Any) -> list[torch.Tensor]:
        return []

    def add(
        self,
        state: list[torch.Tensor],
        models: torch.Tensor,
        base: torch.Tensor | None,
        chunk: Chunk,
        stats: Mapping[str, Any],
    ) -> None:
        if self._relative and base is not None:
            models.sub_(base)
        products = inner_products(models.double()) if self._exact else inner_products(models)
        state[:] = [state[0] + products] if state else [products]

    def finish(self, states: Mapping[str, list[torch.Tensor]]) -> list[float] | object:
        import numpy as np

        ((tensor, state),) = states.items()
        if not state:
            return []  # no elements, so nothing will be combined
        gram = state[0].cpu().numpy()
        solved = self._solve(Products(tensor, gram, self._exact))
        if solved is None:
            self._exact = True
            return AGAIN
        return [float(c) for c in np.asarray(solved)]


def inner_products(models: torch.Tensor) -> torch.Tensor:
    """Inner products of rows, shape (e, e), float64.

    Args:
        models: shape (e, n); products of float32 are made in float32 and summed, block by block,
            in float64.
    """
    import torch

    whole = models.shape[1] // _BLOCK * _BLOCK
    rest = models[:, whole:]
    total = (rest @ rest.T).double()
    if whole:
        blocks = models[:, :whole].reshape(len(models), -1, _BLOCK).transpose(0, 1)
        total += torch.bmm(blocks, blocks.transpose(1, 2)).sum(0, dtype=torch.float64)
    if models.dtype == torch.float32:
        low, high = _SQUARES
        squares = total.diagonal()
        if not bool(((squares > low) & (squares < high)).all()):
            return inner_products(models.double())
    return total


def combine(
    models: torch.Tensor, base: torch.Tensor | None, coefficients: Sequence[float]
) -> torch.Tensor:
    """`sum_i c_i expert_i`, or `base + sum_i c_i (expert_i - base)`; shape (n,).

    Args:
        models: shape (e, n), overwritten.
        base: None where `models` are weights of their own, or deltas already.
    """
    if base is not None:
        models.sub_(base)
    total = models[0].mul_(coefficients[0])
    for row, c in zip(models[1:], coefficients[1:], strict=True):
        total.add_(row.mul_(c))
    return total if base is None else total.add_(base)
