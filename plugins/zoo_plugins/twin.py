"""Twin-Merging, its static part: a shared model, and what is each task's own in low rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from zoo import Fraction, Method, Overlay, Parts, hookimpl, method
from zoo.stages.low_rank import factors, low_rank, short_side
from zoo.stages.signs import add_up
from zoo.stages.spectrum import scratch

if TYPE_CHECKING:
    import torch


def _overlays(p: Any, experts: int, shape: tuple[int, ...]) -> Overlay | None:
    if len(shape) < 2:
        return Overlay("full")
    return low_rank(shape, int(p.rank_fraction * short_side(shape)))


def _nothing_kept(p: Any, experts: int, shape: tuple[int, ...]) -> str | None:
    if p.rank_fraction and len(shape) > 1 and 0 not in shape and not _overlays(p, experts, shape):
        return (
            f"have {short_side(shape)} singular values, too few to keep {p.rank_fraction:g} of; "
            "all tasks get the shared ones"
        )
    return None


@method(
    "twin",
    version="1.0.0",
    needs="tensor",
    scratch=scratch,
    replay="platform",
    tolerance=1e-4,
    overlays=_overlays,
    remark=_nothing_kept,
)
def twin(
    deltas: torch.Tensor,
    *,
    lambda_: Annotated[float, "scale of the summed deltas that are shared, dimensionless"] = 0.3,
    rank_fraction: Annotated[
        Fraction, "singular vectors each task keeps of its own part, of min(m, n)"
    ] = 0.1,
) -> Parts:
    """Share a merged model, and keep for each task what it lacks, in low rank.

        trunk  = base + lambda * sum_i delta_i
        own_i  = expert_i - trunk, its floor(rank_fraction * min(m, n)) largest singular triples
        task i = trunk + own_i

    When: experts of one base, the task is known when the model is used, and what is exclusive to
    a task has few directions. More bytes than masks at equal quality where it has many.

    Args:
        deltas: shape (e, *shape).
    Returns:
        The trunk's delta, shape `shape`, and for each expert two factors (m, rank), (rank, n).
    Cost: O(e m n min(m, n)) time; memory for one tensor of each model, and as much again. A task
        takes rank (m + n) numbers of a matrix, and vectors whole.
    Source: Lu et al. 2024, arXiv:2406.15479, section 3 (knowledge modularization and compression).
    Departs: convolutions are matrices (out, rest), where the authors' code slices them along
        other axes. The authors leave out names with `classifier` and `bias`: name them in
        `exclude`. What depends on the input (the router) is not part of this.
    """
    shared = add_up(deltas).mul_(lambda_)
    shape = tuple(shared.shape)
    rank = int(rank_fraction * short_side(shape)) if len(shape) > 1 else 0
    if not rank or rank == short_side(shape):
        return Parts(shared)
    return Parts(shared, factors=[factors(delta.sub_(shared), rank) for delta in deltas])


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(twin)
