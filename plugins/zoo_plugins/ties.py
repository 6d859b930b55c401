"""TIES: trim, elect sign, merge what agrees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from zoo import Chunk, Fraction, Mergekit, Method, PerExpert, Statistic, hookimpl, method
from zoo.stages.magnitude import Magnitudes
from zoo.stages.magnitude import trim as cut_off
from zoo.stages.rescale import L1, recall
from zoo.stages.signs import Majority, add_up, elect, fuse, weigh

if TYPE_CHECKING:
    import torch

    from zoo.random import Random


def _statistics(p: Any, experts: int) -> Sequence[Statistic]:
    inclusive = p.trim == "kth_value_inclusive"
    least = int(p.trim == "at_least_one")

    def count(density: float, n: int) -> int:
        return n if density >= 1 else max(least, int(density * n) + inclusive)

    keep = [[partial(count, density)] for density in p.density]
    scope: Literal["model", "tensor"] = "model" if p.scope == "global" else "tensor"
    passes: list[Statistic] = [Magnitudes(keep, scope, inclusive=inclusive)]
    if p.zero_sign == "majority":
        passes.append(Majority())
    if p.rescale == "l1":
        passes.append(L1(_trimmed, experts))
    return passes


def _trimmed(
    deltas: torch.Tensor, chunk: Chunk, stats: Mapping[str, Any], random: Random | None = None
) -> torch.Tensor:
    return cut_off(deltas, [cut for (cut,) in stats["cut"]], chunk)


def _trivial(p: Any, experts: int) -> int | None:
    if p.lambda_ == 0 or not any(p.weight):
        return -1
    if not any(p.density) and p.trim == "exact":
        return -1
    whole = experts == 1 and p.density == [1] and p.lambda_ == 1
    return 0 if whole and (p.merge == "mean" or p.weight == [1]) else None


def _no_majority(p: Any, experts: int) -> str | None:
    if p.scope == "tensor" and p.zero_sign == "majority":
        return (
            "zero_sign=majority is a statistic of the whole model, and scope=tensor trims "
            "tensor by tensor; set zero_sign=positive, or scope=global"
        )
    return None


@method(
    "ties",
    version="1.0.0",
    needs="statistics",
    statistics=_statistics,
    shortcut=_trivial,
    check=_no_majority,
    mergekit=[
        Mergekit(
            "ties",
            {
                "weight": "weight",
                "density": "density",
                "lambda": "lambda",
                "normalize": ("merge", {True: "mean", False: "sum"}),
                "rescale": ("rescale", {True: "l1", False: "none"}),
                "int8_mask": None,
            },
            {
                "density": 1.0,
                "scope": "tensor",
                "trim": "at_least_one",
                "zero_sign": "positive",
            },
        )
    ],
)
def ties(
    deltas: torch.Tensor,
    *,
    density: Annotated[PerExpert[Fraction], "fraction of each delta kept"] = 0.2,
    weight: Annotated[PerExpert[float], "coefficient of each delta, before the election"] = 1.0,
    lambda_: Annotated[float, "scale of the merged delta, dimensionless"] = 1.0,
    merge: Annotated[Literal["mean", "sum", "max"], "how agreeing entries are fused"] = "mean",
    scope: Annotated[Literal["global", "tensor"], "trim over the model or tensor by tensor"] = (
        "global"
    ),
    trim: Annotated[
        Literal["exact", "kth_value_inclusive", "at_least_one"],
        "keep floor(K D) entries; the authors' code keeps one more, mergekit's at least one",
    ] = "exact",
    zero_sign: Annotated[
        Literal["majority", "positive"], "sign of an entry whose sum is exactly zero"
    ] = "majority",
    rescale: Annotated[
        Literal["none", "l1"], "scale what is kept of each delta to the L1 norm its tensor had"
    ] = "none",
    stats: Mapping[str, Any],
    chunk: Chunk,
) -> torch.Tensor:
    """Keep the largest entries of each delta, elect a sign, fuse those that agree.

        t_i    = the floor(density * D) entries of largest |delta_i|, others 0
        sign   = sign(sum_i w_i t_i), the majority of all signs where that is 0
        merged = base + lambda * fuse of { w_i t_i : sign agrees }

    When: experts of different tasks and one base, a first try beyond the plain sum. Not for one
        task's several runs, whose small changes agree and should stay.

    Args:
        deltas: shape (e, n), overwritten.
    Returns:
        The merged delta, shape (n,).
    Cost: three passes for scope=global (two without majority), O(e n) time each; one more, and
        n / 8 bytes per expert, for rescale=l1.
    Source: Yadav et al. 2023, arXiv:2306.01708, section 3.
    Departs: ties at the cut go to the lower index; a draw of the majority is +1.
    """
    weights: list[float] = weight  # type: ignore[assignment]
    scaled = rescale == "l1"
    kept = recall(deltas, stats["l1"], chunk) if scaled else _trimmed(deltas, chunk, stats)
    weigh(kept, weights)
    sign = elect(add_up(kept), stats.get("majority", 1.0))
    return fuse(kept, sign, weights, merge).mul_(lambda_)


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(ties)
