"""RAM: average where experts overlap, keep whole what only one of them changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from zoo import Chunk, Mergekit, Method, Statistic, hookimpl, method
from zoo.stages.signs import add_up, weigh

if TYPE_CHECKING:
    import torch


def _changes(deltas: torch.Tensor, epsilon: float) -> torch.Tensor:
    """How many experts changed each entry, shape (n,); smaller changes are zeroed in place."""
    import torch

    count, active = torch.zeros_like(deltas[0]), torch.empty_like(deltas[0])
    for delta in deltas:
        torch.hardshrink(delta, epsilon, out=delta)
        count.add_(torch.ne(delta, 0, out=active))
    return count


class _Overlap(Statistic):
    """The factor of what each expert alone changed, from counts: `stats["overlap"]`."""

    name = "overlap"
    reads = ("epsilon", "r", "alpha")

    def __init__(self, p: Any, experts: int) -> None:
        self.scope = "model" if p.scope == "global" else "tensor"
        self._p = p
        self._experts = experts

    def start(self, tensor: str, shape: tuple[int, ...], parameters: Any) -> list[list[int]]:
        return [[0, 0] for _ in range(self._experts)]

    def add(
        self,
        state: list[list[int]],
        models: torch.Tensor,
        base: torch.Tensor | None,
        chunk: Chunk,
        stats: Mapping[str, Any],
    ) -> None:
        import torch

        count = _changes(models, self._p.epsilon)
        shared = torch.gt(count, 1, out=count)
        for delta, seen in zip(models, state, strict=True):
            changed = int(torch.count_nonzero(delta))
            common = int(torch.count_nonzero(delta.mul_(shared)))
            seen[0] += common
            seen[1] += changed - common

    def finish(self, states: Mapping[str, list[list[int]]]) -> list[float]:
        p = self._p
        factors = []
        for expert in range(self._experts):
            shared = sum(state[expert][0] for state in states.values())
            unique = sum(state[expert][1] for state in states.values())
            # Without unique entries the factor scales nothing.
            ratio = shared / unique if unique else 0.0
            factors.append(1 + p.r * min(ratio, p.alpha))
        return factors


def _statistics(p: Any, experts: int) -> Sequence[Statistic]:
    return [_Overlap(p, experts)] if p.variant == "ram_plus" else []


def _untouched(p: Any, experts: int) -> int | None:
    return 0 if experts == 1 and p.epsilon == 0 else None


@method(
    "ram",
    version="1.0.0",
    needs="statistics",
    statistics=_statistics,
    shortcut=_untouched,
    mergekit=[
        Mergekit("ram", {"epsilon": "epsilon"}),
        Mergekit(
            "ramplus_tl",
            {"epsilon": "epsilon", "r": "r", "alpha": "alpha"},
            {"variant": "ram_plus", "scope": "tensor"},
        ),
    ],
)
def ram(
    deltas: torch.Tensor,
    *,
    epsilon: Annotated[float, Ge(0), "a change counts above this, in units of the weights"] = 1e-5,
    variant: Annotated[
        Literal["ram", "ram_plus"], "RAM+ amplifies what one expert alone changed"
    ] = "ram",
    r: Annotated[float, Ge(0), "RAM+: gain per shared/unique ratio, dimensionless"] = 0.1,
    alpha: Annotated[float, Ge(0), "RAM+: most that ratio may count, dimensionless"] = 0.2,
    scope: Annotated[
        Literal["global", "tensor"], "RAM+: count over the model or tensor by tensor"
    ] = "global",
    stats: Mapping[str, Any],
) -> torch.Tensor:
    """Average the changes that experts share, and keep whole those of one expert.

        c      = number of experts with |delta_i| > epsilon            entry by entry
        merged = base + sum of these delta_i / c
        RAM+:    where c = 1, times 1 + r * min(shared_i / unique_i, alpha)

    When: for sparse deltas, as reinforcement learning leaves them: plain averaging would dilute by
    1/N what one expert alone learned. Dense deltas overlap everywhere and are just averaged.

    Args:
        deltas: shape (e, n), overwritten.
    Returns:
        The merged delta, shape (n,).
    Cost: one pass; one more for RAM+.
    Source: arXiv:2601.13572; mergekit's `ram` and `ramplus_tl`.
    Departs: the paper counts RAM+ over the whole model, mergekit over each tensor
        (`scope=tensor`).
    """
    import torch

    count = _changes(deltas, epsilon)
    factors: list[float] = stats.get("overlap", [1.0] * len(deltas))
    mean = add_up(deltas).div_(torch.clamp_min(count, 1))
    if all(factor == 1 for factor in factors):
        return mean
    gain = add_up(weigh(deltas, [factor - 1 for factor in factors]))
    return mean.add_(gain.mul_(torch.eq(count, 1, out=count)))


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(ram)
