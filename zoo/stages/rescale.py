"""Rescale what a sparsified delta has left to the L1 norm it had, tensor by tensor.

It is what mergekit does where papers divide by the chance to survive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zoo.contract import Chunk, Statistic
from zoo.stages.sums import row_sums

if TYPE_CHECKING:
    import numpy as np
    import torch

    from zoo.random import Random

    Sparsify = Callable[[torch.Tensor, Chunk, Mapping[str, Any], Random], torch.Tensor]

_NEGLIGIBLE = 1e-7
"""mergekit's floor: a norm below it, before or after, leaves the tensor as it is."""


@dataclass(slots=True)
class Left:
    """What a sparsifier has left of one tensor."""

    before: list[float]
    """L1 norm of each expert's delta."""
    after: list[float]
    """That of what is left of it."""
    masks: list[np.ndarray] = field(default_factory=list)
    """Per chunk: a bit per entry, shape (e, ceil(n / 8)); 0 where it is zero now."""

    @property
    def ratios(self) -> list[float]:
        """What to multiply the rest of each delta with."""
        return [
            1.0 if before < _NEGLIGIBLE or after < _NEGLIGIBLE else before / after
            for before, after in zip(self.before, self.after, strict=True)
        ]


class L1(Statistic):
    """`stats["l1"]`: what `recall` needs to sparsify and rescale the deltas of a tensor.

    The sparsifier runs here, and only once: it may be expensive, and its outcome is one bit
    per entry.

    Args:
        sparsify: zeroes entries of deltas in place, and does not scale them.
        experts: how many there are.
    """

    name = "l1"
    scope = "tensor"

    def __init__(self, sparsify: Sparsify, experts: int) -> None:
        self._sparsify = sparsify
        self._experts = experts
        self.memory_per_element = experts / 8

    def start(self, tensor: str, shape: tuple[int, ...], parameters: Any) -> Left:
        return Left([0.0] * self._experts, [0.0] * self._experts)

    def add(
        self,
        state: Left,
        models: torch.Tensor,
        base: torch.Tensor | None,
        chunk: Chunk,
        stats: Mapping[str, Any],
    ) -> None:
        import numpy as np

        for i, norm in enumerate(row_sums(models.abs())):
            state.before[i] += norm
        self._sparsify(models, chunk, stats, self.draw(chunk))
        state.masks.append(np.packbits(models.cpu().numpy() != 0, axis=1))
        for i, norm in enumerate(row_sums(models.abs_())):
            state.after[i] += norm

    def finish(self, states: Mapping[str, Left]) -> Left:
        (left,) = states.values()
        return left


def recall(deltas: torch.Tensor, left: Left, chunk: Chunk) -> torch.Tensor:
    """Sparsify and rescale deltas, in place, as `L1` has found."""
    import numpy as np
    import torch

    mask = np.unpackbits(left.masks[chunk.index], axis=1, count=deltas.shape[1])
    deltas.mul_(torch.from_numpy(mask).to(deltas.device))
    for delta, ratio in zip(deltas, left.ratios, strict=True):
        delta.mul_(ratio)
    return deltas
