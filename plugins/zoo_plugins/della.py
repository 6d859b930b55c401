"""DELLA: drop entries at random, small ones more often; elect signs; merge what agrees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from zoo import Chunk, Fraction, Mergekit, Method, PerExpert, Statistic, hookimpl, method
from zoo.contract import Unit
from zoo.stages.consensus import Elect, Merge, consensus, contradiction, trivial
from zoo.stages.mergekit_names import TASK_VECTORS
from zoo.stages.rank import outside, prune
from zoo.stages.rescale import L1, recall

if TYPE_CHECKING:
    import torch

    from zoo.random import Random

_MERGEKIT_NAMES = {**TASK_VECTORS, "epsilon": "epsilon"}
_MERGEKIT = {"density": 1.0, "epsilon": 0.15, "rescale": "l1"}


def _unit(p: Any) -> Unit:
    return "tensor" if p.ranking == "layer" else "row"


def _pruned(
    deltas: torch.Tensor,
    chunk: Chunk,
    stats: Mapping[str, Any],
    random: Random,
    *,
    density: Sequence[float],
    epsilon: Sequence[float],
    ranking: Literal["rank", "magnitude", "layer"],
    divide: bool = False,
) -> torch.Tensor:
    return prune(
        deltas,
        density,
        epsilon,
        random,
        row=deltas.shape[1] if ranking == "layer" else chunk.row,
        ranking="magnitude" if ranking == "magnitude" else "rank",
        divide=divide,
    )


def _statistics(p: Any, experts: int) -> Sequence[Statistic]:
    if p.rescale != "l1":
        return []
    sparsify = partial(_pruned, density=p.density, epsilon=p.epsilon, ranking=p.ranking)
    return [L1(sparsify, experts)]


def _trivial(p: Any, experts: int) -> int | None:
    return trivial(p, experts, whole=p.density == [1]) if any(p.density) else -1


def _check(p: Any, experts: int) -> str | None:
    return outside(p.density, p.epsilon) or contradiction(p, experts)


@method(
    "della",
    version="1.0.0",
    needs="statistics",
    unit=_unit,
    statistics=_statistics,
    shortcut=_trivial,
    check=_check,
    mergekit=[
        Mergekit("della", _MERGEKIT_NAMES, {**_MERGEKIT, "elect": "mass", "merge": "mean"}),
        Mergekit("della_linear", _MERGEKIT_NAMES, {**_MERGEKIT, "elect": "none", "merge": "sum"}),
    ],
)
def della(
    deltas: torch.Tensor,
    *,
    density: Annotated[PerExpert[Fraction], "mean chance of an entry to survive"] = 0.7,
    epsilon: Annotated[
        PerExpert[Fraction], "half the width of the window of chances around it"
    ] = 0.07,
    weight: Annotated[PerExpert[float], "coefficient of each delta, before the election"] = 1.0,
    lambda_: Annotated[float, "scale of the merged delta, dimensionless"] = 1.0,
    ranking: Annotated[
        Literal["rank", "magnitude", "layer"],
        "chances grow with the rank in the row, the magnitude in it, or the rank in the tensor",
    ] = "rank",
    rescale: Annotated[
        Literal["probability", "l1", "none"],
        "divide survivors by their chance; or keep each tensor's L1 norm; or leave them",
    ] = "probability",
    elect: Annotated[
        Elect, "only deltas of the sign of their sum, or of most of them, take part; or all do"
    ] = "mass",
    merge: Annotated[
        Merge, "sum; or that over the weights of those that take part; or the largest"
    ] = "mean",
    stats: Mapping[str, Any],
    chunk: Chunk,
    random: Random,
) -> torch.Tensor:
    """Drop entries at random, small ones more often; fuse those of the elected sign.

        q      = density - epsilon + 2 epsilon r / (c - 1), r the rank of |delta_i| in its row of c
        m_i    = 1 with probability q, else 0, for each entry
        t_i    = m_i * delta_i / q
        sign   = sign(sum_i w_i t_i), + where that is 0
        merged = base + lambda * fuse of { w_i t_i : sign agrees }

    When: as DARE, where large entries of a delta matter more than small ones.
    Args:
        deltas: whole rows, shape (e, n), overwritten.
    Returns:
        The merged delta, shape (n,).
    Cost: one pass with a sort of every row, O(e n log c) time; a second pass and n / 8 bytes per
        expert for rescale=l1. ranking=layer holds the largest tensor of every model in memory.
    Source: Deep et al. 2024, arXiv:2406.11617, section 3.
    Departs: the paper's window is 2 epsilon wide (0.14 by default), and it divides by c where this,
        as the authors' code, divides by c - 1. Of equal magnitudes the first has the lower rank; a
        row of one has q = density. A convolution's row is one output channel. mergekit is
        rescale=l1, one factor for a whole tensor.
    """
    weights: list[float] = weight  # type: ignore[assignment]
    if rescale == "l1":
        left = recall(deltas, stats["l1"], chunk)
    else:
        left = _pruned(
            deltas,
            chunk,
            stats,
            random,
            density=density,  # type: ignore[arg-type]
            epsilon=epsilon,  # type: ignore[arg-type]
            ranking=ranking,
            divide=rescale == "probability",
        )
    return consensus(left, weights, by=elect, merge=merge).mul_(lambda_)


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(della)
