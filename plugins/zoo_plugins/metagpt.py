"""Task arithmetic with closed-form coefficients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from zoo import Chunk, Method, Statistic, hookimpl, method
from zoo.stages.gram import combine

if TYPE_CHECKING:
    import torch


class _Shares(Statistic):
    """`stats["shares"]`: the squared norm of each delta over the sum of all of them.

    Zeros where every delta is zero: nothing is to be added then.
    """

    name = "shares"

    def __init__(self, scope: Literal["model", "tensor"], experts: int) -> None:
        self.scope = scope
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
        for i, delta in enumerate(models):
            wide = delta.double()
            state[i] += float(wide.dot(wide))

    def finish(self, states: Mapping[str, list[float]]) -> list[float]:
        norms = [sum(parts) for parts in zip(*states.values(), strict=True)]
        total = sum(norms)
        return [norm / total if total else 0.0 for norm in norms]


def _statistics(p: Any, experts: int) -> Sequence[Statistic]:
    return [_Shares("model" if p.scope == "global" else "tensor", experts)]


def _alone(p: Any, experts: int) -> int | None:
    return 0 if experts == 1 else None


@method(
    "metagpt",
    version="1.0.0",
    needs="statistics",
    statistics=_statistics,
    replay="platform",
    tolerance=1e-6,
    shortcut=_alone,
)
def metagpt(
    deltas: torch.Tensor,
    *,
    scope: Annotated[Literal["global", "tensor"], "norms of the whole model or of each tensor"] = (
        "global"
    ),
    stats: Mapping[str, Any],
) -> torch.Tensor:
    """Weigh each delta by its squared norm, and add.

        lambda_i = |delta_i|^2 / sum_j |delta_j|^2
        merged   = base + sum_i lambda_i * (expert_i - base)

    When: task arithmetic without data to tune its coefficients, for experts whose deltas point in
    different directions. Not when one expert was trained much longer than the others: the larger
    delta gets nearly everything.

    Args:
        deltas: shape (e, n), overwritten.
    Returns:
        The merged delta, shape (n,).
    Cost: two passes, O(e n) time.
    Source: Zhou et al. 2024, arXiv:2406.11385. Minimizes a bound of the mean loss, with linearized
        networks and orthogonal deltas.
    Departs: nothing; scope=tensor is ours. Where all deltas are zero the result is the base.
    """
    return combine(deltas, None, stats["shares"])


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(metagpt)
