"""Select the entries in which experts differ most, and weigh experts by their energy.

Source: Wan et al. 2024, arXiv:2408.07990, section 3.2 (select, calculate).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo.contract import Chunk, Statistic
from zoo.stages.magnitude import Cut, Magnitudes, trim
from zoo.stages.sums import row_sums

if TYPE_CHECKING:
    import torch


def variance(deltas: torch.Tensor) -> torch.Tensor:
    """Population variance over the experts, shape (n,); exactly 0 where all are equal."""
    import torch

    first, *others = deltas
    # Relative to the first, equal deltas are exact zeros; relative to a rounded mean they are not.
    shifted = [other - first for other in others]
    mean = torch.zeros_like(first)
    for difference in shifted:
        mean.add_(difference)
    mean.div_(len(deltas))
    total = mean.square()
    for difference in shifted:
        total.add_(difference.sub_(mean).square_())
    return total.div_(len(deltas))


class TopVariance(Magnitudes):
    """`stats["cut"]`: the cut that `select` needs.

    Args:
        fraction: of the entries that vary, how many are selected, dimensionless.
    """

    def __init__(self, fraction: float) -> None:
        self._fraction = fraction
        self._last = -1
        self._seen = self._varying = 0
        super().__init__([[self._selected]], "tensor", reads=())

    def _selected(self, n: int) -> int:
        """Of n entries; an estimate after a pass that has seen a sample."""
        if self._seen == n:
            return int(self._fraction * self._varying)
        return int(self._fraction * self._varying * n / max(1, self._seen))

    def add(
        self,
        state: Any,
        models: torch.Tensor,
        base: torch.Tensor | None,
        chunk: Chunk,
        stats: Mapping[str, Any],
    ) -> None:
        spread = variance(models)
        if chunk.index <= self._last:  # another pass begins
            self._seen = self._varying = 0
        self._last = chunk.index
        self._seen += len(spread)
        self._varying += int(spread.count_nonzero())
        super().add(state, spread[None], base, chunk, stats)


def select(deltas: torch.Tensor, cut: Cut | None, chunk: Chunk) -> torch.Tensor:
    """Zero, in place, the entries of all experts whose variance does not survive the cut."""
    import torch

    if cut is None:
        return deltas
    spread = trim(variance(deltas)[None], [cut], chunk)[0]
    return deltas.mul_(torch.ne(spread, 0, out=spread))


class Energies(Statistic):
    """`stats["energies"]`: the mean square of each expert's selected entries of a tensor."""

    name = "energies"
    scope = "tensor"

    def __init__(self, experts: int) -> None:
        self._experts = experts

    def start(self, tensor: str, shape: tuple[int, ...], parameters: Any) -> list[float]:
        return [0.0] * self._experts

    def add(
        self,
        state: list[float],
        models: torch.Tensor,
        base: torch.Tensor | None,
        chunk: Chunk,
        stats: Mapping[str, Any],
    ) -> None:
        if "cut" in stats:
            select(models, stats["cut"][0][0], chunk)
        for i, energy in enumerate(row_sums(models.square_())):
            state[i] += energy

    def finish(self, states: Mapping[str, list[float]]) -> list[float]:
        (state,) = states.values()
        return [energy / max(1, self.elements) for energy in state]


def shares(energies: Sequence[float], uniform_below: float) -> list[float]:
    """Energies divided by their sum; equal shares where that is 0 or below the bound."""
    total = math.fsum(energies)
    if total == 0 or total < uniform_below:
        return [1 / len(energies)] * len(energies)
    return [energy / total for energy in energies]
