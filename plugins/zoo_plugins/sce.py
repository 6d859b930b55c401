"""SCE: select where experts differ, calculate their shares, erase what disagrees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from zoo import Chunk, Fraction, Mergekit, Method, Statistic, hookimpl, method
from zoo.stages.consensus import consensus
from zoo.stages.variance import Energies, TopVariance, select, shares

if TYPE_CHECKING:
    import torch


def _statistics(p: Any, experts: int) -> Sequence[Statistic]:
    selected = [TopVariance(p.select_topk)] if p.select_topk < 1 else []
    return [*selected, Energies(experts)]


def _trivial(p: Any, experts: int) -> int | None:
    if p.select_topk < 1 and p.select_applies_to == "deltas":
        # One expert has no variance, so that nothing of it is selected.
        return -1 if experts == 1 or p.select_topk == 0 else None
    return 0 if experts == 1 else None


@method(
    "sce",
    version="1.0.0",
    needs="statistics",
    statistics=_statistics,
    shortcut=_trivial,
    mergekit=[
        Mergekit("sce", {"select_topk": "select_topk", "int8_mask": None}, {"uniform_below": 1e-6})
    ],
)
def sce(
    deltas: torch.Tensor,
    *,
    select_topk: Annotated[
        Fraction, "fraction of the entries that vary, those of largest variance, that are selected"
    ] = 1.0,
    select_applies_to: Annotated[
        Literal["deltas", "coefficients"],
        "what the selection is for: all that follows, or only the experts' shares",
    ] = "deltas",
    uniform_below: Annotated[
        float, Ge(0), "sum of mean squares below which all shares are equal"
    ] = 0.0,
    stats: Mapping[str, Any],
    chunk: Chunk,
) -> torch.Tensor:
    """Keep where experts differ most, weigh them by energy, fuse those of the elected sign.

        S      = the floor(select_topk * v) of the v entries that vary, of largest variance over i
        t_i    = delta_i on S, else 0
        eta_i  = mean(t_i^2) / sum_j mean(t_j^2), per tensor
        sign   = sign(sum_i t_i), + where that is 0
        merged = base + sum eta_i t_i / sum eta_i, over { i : sign of t_i agrees }

    When: experts of one base that were trained on different data, without weights to tune. With
        select_topk=1 nothing is dropped.
    Args:
        deltas: shape (e, n), overwritten.
    Returns:
        The merged delta, shape (n,).
    Cost: two passes over each tensor, O(e n) time; one to three more for select_topk below 1.
    Source: Wan et al. 2024, arXiv:2408.07990, section 3.2.
    Departs: the authors' code is select_applies_to=coefficients, their text and mergekit `deltas`.
        mergekit is uniform_below=1e-6, which for language models makes all shares equal; its lower
        bound of 1e-6 for the sum of shares has no counterpart here. Of equal variances the first
        counts as the largest.
    """
    if "cut" in stats and select_applies_to == "deltas":
        deltas = select(deltas, stats["cut"][0][0], chunk)
    weights = shares(stats["energies"], uniform_below)
    return consensus(deltas, weights, by="mass", merge="mean", of="plain")


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(sce)
