"""Sparse soup: the mean of experts that share one pruning mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from zoo import Chunk, Method, PerExpert, Statistic, hookimpl, method
from zoo.errors import IncompatibleModels
from zoo.stages.signs import add_up

if TYPE_CHECKING:
    import torch

_NAMED = 5
"""Tensors an error lists by name."""


class _OneMask(Statistic):
    """Counts entries that are zero in some experts and not in all; refuses the merge on any."""

    name = "mask"
    scope = "model"

    def start(self, tensor: str, shape: tuple[int, ...], parameters: Any) -> list[int]:
        return [0]

    def add(
        self,
        state: list[int],
        models: torch.Tensor,
        base: torch.Tensor | None,
        chunk: Chunk,
        stats: Mapping[str, Any],
    ) -> None:
        import torch

        e = len(models)
        for row in models:
            torch.ne(row, 0, out=row)
        # Whole numbers, so the product is zero just where none or all of them are kept.
        kept = add_up(models)
        state[0] += int(torch.count_nonzero(kept * (e - kept)))

    def finish(self, states: Mapping[str, list[int]]) -> None:
        found = {tensor: state[0] for tensor, state in states.items() if state[0]}
        if found:
            named = ", ".join(f"`{t}` ({n})" for t, n in list(found.items())[:_NAMED])
            more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
            raise IncompatibleModels(
                f"{sum(found.values())} weights are exactly zero in some experts and not in "
                f"all, in {len(found)} tensors: {named}{more}.",
                "Their masks differ, so the mean would be less sparse than they are.",
                "Choose experts retrained from one pruned parent, or pass allow_union=true.",
                tensors=found,
            )


def _statistics(p: Any, experts: int) -> Sequence[Statistic]:
    return [] if p.allow_union else [_OneMask()]


def _only_one(p: Any, experts: int) -> int | None:
    return 0 if experts == 1 else None


def _zero_sum(p: Any, experts: int) -> str | None:
    return f"weights {p.weight} sum to zero" if sum(p.weight) == 0 else None


@method(
    "sparse_soup",
    version="1.0.0",
    needs="statistics",
    statistics=_statistics,
    shortcut=_only_one,
    check=_zero_sum,
)
def sparse_soup(
    experts: torch.Tensor,
    *,
    weight: Annotated[PerExpert[float], "share of each expert, divided by their sum"] = 1.0,
    allow_union: Annotated[
        bool, "average experts with different masks too: their union, less sparse"
    ] = False,
) -> torch.Tensor:
    """Average pruned experts that share one mask, and stay as sparse.

        merged = sum_i w_i * expert_i / sum_i w_i,     where the experts' zeros agree

    When: for models retrained, with different settings, from one pruned parent. The mean keeps the
    mask and can be pruned further. Experts pruned apart have different masks and are refused.

    Args:
        experts: shape (e, n), overwritten.
    Returns:
        Shape (n,).
    Cost: two passes: masks are compared over the whole model before anything is merged; one pass
        with `allow_union`.
    Source: Zimmer et al. 2024, arXiv:2306.16788.
    Departs: masks are not stored but read off exact zeros. A trained weight of exactly zero, in one
        expert, counts as another mask.
    """
    weights: list[float] = weight  # type: ignore[assignment]
    total = experts[0].mul_(weights[0])
    for expert, w in zip(experts[1:], weights[1:], strict=True):
        total.add_(expert if w == 1 else expert.mul_(w))
    return total.div_(sum(weights))


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(sparse_soup)
