"""A task-vector method of one's own: a choice for each of the five stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from zoo import Chunk, Fraction, Method, PerExpert, Statistic, hookimpl, method
from zoo.contract import Unit
from zoo.stages.band import TensorCuts, row_band, tensor_band
from zoo.stages.blocks import share_out
from zoo.stages.consensus import Elect, Merge, consensus, contradiction, trivial
from zoo.stages.drop import drop
from zoo.stages.magnitude import Magnitudes, trim
from zoo.stages.rank import outside, prune
from zoo.stages.rescale import L1, recall

if TYPE_CHECKING:
    import torch

    from zoo.random import Random

_SCOPES = {
    "magnitude": ("global", "tensor", "row"),
    "band": ("row", "tensor"),
    "rank": ("row", "tensor"),
}
"""Where each sparsifier that compares entries may do so; first where its named method does."""
_OWN = {"gamma": "band", "epsilon": "rank", "n": "blocks", "m": "blocks"}
"""Parameters of one sparsifier only."""


@dataclass(frozen=True, slots=True)
class _Sparsifier:
    """The first stage."""

    kind: str
    scope: str | None
    density: Sequence[float]
    gamma: Sequence[float]
    epsilon: Sequence[float]
    n: int
    m: int

    @classmethod
    def of(cls, p: Any) -> _Sparsifier:
        return cls(p.sparsify, p.scope, p.density, p.gamma, p.epsilon, p.n, p.m)

    @property
    def where(self) -> str:
        """What it compares entries over; nothing where it compares none."""
        return self.scope or _SCOPES.get(self.kind, ("",))[0]

    @property
    def unit(self) -> Unit:
        if self.kind == "blocks":
            return self.m
        if self.where == "row":
            return "row"
        return "tensor" if self.kind == "rank" else "element"

    def statistics(self) -> list[Statistic]:
        if self.kind == "magnitude" and self.where != "row":
            keep = [[partial(_share, density)] for density in self.density]
            return [Magnitudes(keep, "model" if self.where == "global" else "tensor")]
        if self.kind == "band" and self.where == "tensor":
            return [TensorCuts(self.density, self.gamma)]
        return []

    def __call__(
        self,
        deltas: torch.Tensor,
        chunk: Chunk,
        stats: Mapping[str, Any],
        random: Random,
        divide: bool = False,
    ) -> torch.Tensor:
        """Zero entries of deltas in place; divide the others by their chance if asked."""
        row = chunk.row if self.where == "row" else deltas.shape[1]
        match self.kind:
            case "random":
                return drop(deltas, self.density, random, divide=divide)
            case "rank":
                return prune(deltas, self.density, self.epsilon, random, row=row, divide=divide)
            case "blocks":
                return share_out(deltas, self.n, self.m)
            case "magnitude" if self.where != "row":
                return trim(deltas, [cut for (cut,) in stats["cut"]], chunk)
            case "band" if self.where != "row":
                return tensor_band(deltas, stats["cut"], chunk)
            case "magnitude" | "band":
                return row_band(deltas, self.density, self.gamma, row=row)
        return deltas


def _share(density: float, n: int) -> int:
    return int(density * n)


def _unit(p: Any) -> Unit:
    return _Sparsifier.of(p).unit


def _statistics(p: Any, experts: int) -> Sequence[Statistic]:
    sparsifier = _Sparsifier.of(p)
    found = sparsifier.statistics()
    return [*found, L1(sparsifier, experts)] if p.rescale == "l1" else found


def _trivial(p: Any, experts: int) -> int | None:
    if p.sparsify not in ("none", "blocks") and not any(p.density):
        return -1
    whole = p.sparsify == "none" or (p.sparsify in ("random", "rank") and p.density == [1])
    return trivial(p, experts, whole=whole)


def _check(p: Any, experts: int) -> str | None:
    for name, owner in _OWN.items():
        value = getattr(p, name)
        if p.sparsify != owner and any(value if isinstance(value, list) else [value]):
            return f"{name} belongs to sparsify={owner}, not to sparsify={p.sparsify}; leave it out"
    if p.sparsify == "blocks" and not 1 <= p.n <= p.m:
        return f"sparsify=blocks keeps n of every m entries, and n={p.n}, m={p.m}; set 1 <= n <= m"
    if p.sparsify in ("none", "blocks") and any(d != 1 for d in p.density):
        return (
            f"sparsify={p.sparsify} takes no density; leave it out, or set sparsify=magnitude, "
            "random, band or rank"
        )
    scopes = _SCOPES.get(p.sparsify, ())
    if p.scope is not None and p.scope not in scopes:
        instead = f"set scope={' or '.join(scopes)}" if scopes else "leave it out"
        return f"sparsify={p.sparsify} has no scope={p.scope}; {instead}"
    if p.rescale == "probability" and p.sparsify not in ("random", "rank"):
        return (
            f"rescale=probability divides by the chance to survive, and sparsify={p.sparsify} "
            "leaves nothing to chance; set rescale=l1 or none"
        )
    if p.rescale == "l1" and p.sparsify == "none":
        return "rescale=l1 makes up for what sparsify removes, and it is none; set rescale=none"
    if p.elect == "none" and p.elect_of == "plain":
        return "elect_of says which deltas vote, and elect=none holds no vote; leave it out"
    return outside(p.density, p.epsilon) or contradiction(p, experts)


@method(
    "task_vectors",
    version="1.0.0",
    needs="statistics",
    unit=_unit,
    statistics=_statistics,
    ordered=True,
    shortcut=_trivial,
    check=_check,
)
def task_vectors(
    deltas: torch.Tensor,
    *,
    sparsify: Annotated[
        Literal["none", "magnitude", "random", "band", "rank", "blocks"],
        "what stays of a delta: all, the largest entries, random ones, all but outliers and small "
        "ones, random ones that the rank favours, or the n largest of m that are still free",
    ] = "none",
    density: Annotated[PerExpert[Fraction], "fraction of entries that stay"] = 1.0,
    scope: Annotated[
        Literal["global", "tensor", "row"] | None,
        "what entries are compared over: the model for sparsify=magnitude, a row for band and "
        "rank, unless said otherwise",
    ] = None,
    gamma: Annotated[PerExpert[Fraction], "band: fraction of entries, the largest, removed"] = 0.0,
    epsilon: Annotated[PerExpert[Fraction], "rank: half the width of the window of chances"] = 0.0,
    n: Annotated[int, Ge(0), "blocks: entries kept of each block"] = 0,
    m: Annotated[int, Ge(0), "blocks: entries of a block"] = 0,
    rescale: Annotated[
        Literal["none", "probability", "l1"],
        "leave what stays; or divide it by its chance; or keep each tensor's L1 norm",
    ] = "none",
    weight: Annotated[PerExpert[float], "coefficient of each delta"] = 1.0,
    elect: Annotated[
        Elect, "only deltas of the sign of their sum, or of most of them, take part; or all do"
    ] = "none",
    elect_of: Annotated[
        Literal["weighted", "plain"], "deltas vote with their weights, or without"
    ] = "weighted",
    merge: Annotated[
        Merge, "sum; or that over the weights of those that take part; or the largest"
    ] = "sum",
    lambda_: Annotated[float, "scale of the merged delta, dimensionless"] = 1.0,
    stats: Mapping[str, Any],
    chunk: Chunk,
    random: Random,
) -> torch.Tensor:
    """Compose a task-vector method: sparsify, weight, elect, fuse, scale.

        t_i    = rescale(sparsify(delta_i))
        sign   = sign of sum_i w_i t_i, of sum_i t_i, or of the sum of their signs; + where it is 0
        merged = base + lambda * fuse of { w_i t_i : sign agrees }

    When: no named method has the combination. These are the stages that `ties`, `dare`, `della`,
        `breadcrumbs` and `cabs` are made of, and the same choices give the same bytes.
    Args:
        deltas: shape (e, n), overwritten.
    Returns:
        The merged delta, shape (n,).
    Cost: one pass; three for sparsify magnitude or band outside rows; one more, and n / 8 bytes per
        expert, for rescale=l1. sparsify=rank with scope=tensor holds the largest tensor of every
        model in memory.
    Source: the five stages are those of mergekit's generalized task arithmetic, and of the methods
        named above.
    Departs: a majority sign for entries that sum to zero is only in `ties`.
    """
    weights: list[float] = weight  # type: ignore[assignment]
    if rescale == "l1":
        left = recall(deltas, stats["l1"], chunk)
    else:
        apply = _Sparsifier(sparsify, scope, density, gamma, epsilon, n, m)  # type: ignore[arg-type]
        left = apply(deltas, chunk, stats, random, divide=rescale == "probability")
    return consensus(left, weights, by=elect, merge=merge, of=elect_of).mul_(lambda_)


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(task_vectors)
