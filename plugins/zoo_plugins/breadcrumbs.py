"""Model Breadcrumbs: keep the middle band of each delta."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from zoo import Chunk, Fraction, Mergekit, Method, PerExpert, Statistic, hookimpl, method
from zoo.contract import Unit
from zoo.stages.band import TensorCuts, row_band, tensor_band
from zoo.stages.consensus import Elect, Merge, consensus, contradiction, trivial
from zoo.stages.mergekit_names import TASK_VECTORS
from zoo.stages.rescale import L1, recall

if TYPE_CHECKING:
    import torch

    from zoo.random import Random

_MERGEKIT_NAMES = {**TASK_VECTORS, "gamma": "gamma"}
_MERGEKIT = {"density": 1.0, "gamma": 0.01, "lambda": 1.0, "scope": "tensor"}


def _unit(p: Any) -> Unit:
    return "row" if p.scope == "row" else "element"


def _band(
    deltas: torch.Tensor,
    chunk: Chunk,
    stats: Mapping[str, Any],
    random: Random | None,
    *,
    density: Sequence[float],
    gamma: Sequence[float],
    scope: Literal["row", "tensor"],
) -> torch.Tensor:
    if scope == "row":
        return row_band(deltas, density, gamma, row=chunk.row)
    return tensor_band(deltas, stats["cut"], chunk)


def _statistics(p: Any, experts: int) -> Sequence[Statistic]:
    found: list[Statistic] = []
    if p.scope == "tensor":
        found.append(TensorCuts(p.density, p.gamma))
    if p.rescale == "l1":
        band = partial(_band, density=p.density, gamma=p.gamma, scope=p.scope)
        found.append(L1(band, experts))
    return found


def _trivial(p: Any, experts: int) -> int | None:
    if not any(p.density):
        return -1
    return trivial(p, experts, whole=p.density == [1] and (p.gamma == [0] or p.scope == "tensor"))


@method(
    "breadcrumbs",
    version="1.0.0",
    needs="statistics",
    unit=_unit,
    statistics=_statistics,
    shortcut=_trivial,
    check=contradiction,
    mergekit=[
        Mergekit("breadcrumbs", _MERGEKIT_NAMES, _MERGEKIT),
        Mergekit("breadcrumbs_ties", _MERGEKIT_NAMES, {**_MERGEKIT, "elect": "mass"}),
    ],
)
def breadcrumbs(
    deltas: torch.Tensor,
    *,
    density: Annotated[PerExpert[Fraction], "fraction of entries kept"] = 0.15,
    gamma: Annotated[PerExpert[Fraction], "fraction of entries, the largest, removed"] = 0.006,
    weight: Annotated[PerExpert[float], "coefficient of each delta, before the election"] = 1.0,
    lambda_: Annotated[float, "scale of the merged delta, dimensionless"] = 0.2,
    scope: Annotated[Literal["row", "tensor"], "a band of every row, or of every tensor"] = "row",
    rescale: Annotated[Literal["none", "l1"], "keep each tensor's L1 norm"] = "none",
    elect: Annotated[
        Elect, "only deltas of the sign of their sum, or of most of them, take part; or all do"
    ] = "none",
    merge: Annotated[
        Merge, "sum; or that over the weights of those that take part; or the largest"
    ] = "sum",
    stats: Mapping[str, Any],
    chunk: Chunk,
) -> torch.Tensor:
    """Drop the largest and the small entries of each delta, add up the rest.

        t_i    = of each row of c entries, sorted by falling |delta_i|: the first floor(gamma c)
                 dropped, the next floor(density c) kept, the rest 0
        merged = base + lambda * sum_i w_i t_i

    When: many task vectors, of which outliers would disturb each other. Rows shorter than
        1 / density keep nothing: take scope=tensor for small layers.
    Args:
        deltas: shape (e, n), overwritten.
    Returns:
        The merged delta, shape (n,).
    Cost: scope=row: one pass with a sort of every row, O(e n log c) time. scope=tensor: three
        passes, O(e n) time each. One more, and n / 8 bytes per expert, for rescale=l1.
    Source: Davari and Belilovsky 2024, arXiv:2312.06795, section 3.
    Departs: of equal magnitudes in a row the first counts as the largest; a convolution's row is
        one output channel. scope=tensor is mergekit's: floor(density n) entries stay, fewer large
        ones go where density + gamma is above 1, and the first of equals counts as the smallest.
        mergekit zeroes the whole delta of a tensor where floor(gamma n) is 0; here nothing large is
        dropped then.
    """
    weights: list[float] = weight  # type: ignore[assignment]
    if rescale == "l1":
        left = recall(deltas, stats["l1"], chunk)
    else:
        left = _band(
            deltas,
            chunk,
            stats,
            None,
            density=density,  # type: ignore[arg-type]
            gamma=gamma,  # type: ignore[arg-type]
            scope=scope,
        )
    return consensus(left, weights, by=elect, merge=merge).mul_(lambda_)


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(breadcrumbs)
