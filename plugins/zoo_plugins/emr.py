"""EMR: elect one unified delta, and give each task a mask and a scale."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from zoo import Chunk, Method, Overlay, Parts, Statistic, hookimpl, method
from zoo.errors import GateFailed
from zoo.stages.signs import add_up, elect

if TYPE_CHECKING:
    import torch

_log = logging.getLogger("zoo")


class _Rescalers(Statistic):
    """One scale per expert: `stats["rescalers"]`, how much its mask leaves of its L1 norm.

    global_l1            sum |delta_i| / sum |m_i unified|, over the model
    sum_of_tensor_means  the same of each tensor's mean, added up over tensors
    """

    name = "rescalers"
    scope = "model"

    def __init__(self, experts: int, by_tensor: bool) -> None:
        self._experts = experts
        self._by_tensor = by_tensor

    def start(self, tensor: str, shape: tuple[int, ...], parameters: Any) -> list[list[float]]:
        """For each expert the L1 norm, and that of what its mask keeps of the unified delta."""
        elements = math.prod(shape) if self._by_tensor else 1
        return [[0.0] * self._experts, [0.0] * self._experts, [float(elements)]]

    def add(
        self,
        state: list[list[float]],
        models: torch.Tensor,
        base: torch.Tensor | None,
        chunk: Chunk,
        stats: Mapping[str, Any],
    ) -> None:
        import torch

        assert base is not None
        deltas = models.sub_(base)
        sign = elect(add_up(deltas), -1)
        unified = torch.zeros_like(sign)
        for i, delta in enumerate(deltas):
            state[0][i] += float(delta.abs().sum(dtype=torch.float64))
            torch.maximum(unified, delta.mul_(sign), out=unified)
        for i, agreeing in enumerate(deltas):
            kept = torch.gt(agreeing, 0, out=agreeing).mul_(unified)
            state[1][i] += float(kept.sum(dtype=torch.float64))

    def finish(self, states: Mapping[str, list[list[float]]]) -> list[float]:
        for tensor, (sums, *_) in states.items():
            for i, whole in enumerate(sums):
                if not math.isfinite(whole):
                    raise GateFailed(
                        f"The delta of expert {i} is not finite in tensor `{tensor}`.",
                        "A merge of it would be worthless.",
                        tensor=tensor,
                    )
        scales = []
        for i in range(self._experts):
            whole, kept = (
                math.fsum(s[part][i] / s[2][0] for s in states.values() if s[2][0])
                for part in (0, 1)
            )
            if whole and not kept:
                _log.warning("expert %d loses every election: its task's model is the base", i)
            scales.append(whole / kept if kept else 0.0)
        return scales


def _statistics(p: Any, experts: int) -> Sequence[Statistic]:
    return [_Rescalers(experts, p.rescaler == "sum_of_tensor_means")]


def _overlays(p: Any, experts: int, shape: tuple[int, ...]) -> Overlay:
    return Overlay("mask", scaled=True)


@method(
    "emr",
    version="1.0.0",
    needs="statistics",
    statistics=_statistics,
    base="required",
    replay="platform",
    tolerance=1e-6,
    overlays=_overlays,
)
def emr(
    experts: torch.Tensor,
    base: torch.Tensor,
    *,
    rescaler: Annotated[
        Literal["global_l1", "sum_of_tensor_means"],
        "scale by L1 norms of the whole model, or of each tensor's mean as the authors' scripts do",
    ] = "global_l1",
    stats: Mapping[str, Any],
) -> Parts:
    """Store a family of experts as one unified delta, and a mask and a scale for each task.

        sign    = sign(sum_i delta_i), - where that is 0
        unified = sign * the largest |delta_i| among those of that sign
        m_i     = delta_i has that sign
        scale_i = sum |delta_i| / sum |m_i unified|, over the whole model
        trunk   = base + unified
        task i  = base + scale_i * unified where m_i, base elsewhere

    When: experts of one base are to be kept, and the task is known when the model is used: each
    costs a bit per weight and a number. Nothing is to be tuned. The trunk alone is no good merge.

    Args:
        experts: shape (e, n), overwritten.
        base: shape (n,).
    Returns:
        The trunk, shape (n,), the masks, shape (e, n), and a scale for each expert.
    Cost: two passes, O(e n) time. Each task takes n / 8 bytes.
    Source: Huang et al. 2024, arXiv:2405.17461, section 3.
    Departs: base plus the largest delta is one of the weights at hand, and is taken from there, so
        that the trunk is free of rounding. A task without a delta, or whose delta loses
        everywhere, has scale 0 and gets the base.
    """
    import torch

    highest, lowest = base.clone(), base.clone()
    for expert in experts:
        torch.maximum(highest, expert, out=highest)
        torch.minimum(lowest, expert, out=lowest)
    deltas = experts.sub_(base)
    sign = elect(add_up(deltas), -1)
    # Of two zeros of different sign, which one is larger is up to the machine: make it +0.
    trunk = torch.where(sign > 0, highest, lowest).add_(0.0)
    return Parts(trunk, masks=deltas.mul_(sign) > 0, scales=stats["rescalers"])


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(emr)
