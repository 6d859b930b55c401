"""TSV-Compress: every expert as the base plus a delta of low rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from zoo import Fraction, Method, Overlay, Parts, hookimpl, method
from zoo.stages.low_rank import factors, low_rank, short_side
from zoo.stages.spectrum import scratch

if TYPE_CHECKING:
    import torch


def _rank(rank_fraction: float | None, experts: int, shape: tuple[int, ...]) -> int:
    short = short_side(shape)
    return short // experts if rank_fraction is None else int(rank_fraction * short)


def _overlays(p: Any, experts: int, shape: tuple[int, ...]) -> Overlay | None:
    if len(shape) < 2 or (len(shape) > 2 and p.convolutions == "full"):
        return Overlay("full")
    return low_rank(shape, _rank(p.rank_fraction, experts, shape))


def _nothing_kept(p: Any, experts: int, shape: tuple[int, ...]) -> str | None:
    if p.rank_fraction != 0 and 0 not in shape and not _overlays(p, experts, shape):
        return (
            f"have {short_side(shape)} singular values, too few to keep any; they stay the base's"
        )
    return None


@method(
    "tsv_compress",
    version="1.0.0",
    needs="tensor",
    base="required",
    scratch=scratch,
    replay="platform",
    tolerance=1e-4,
    overlays=_overlays,
    remark=_nothing_kept,
)
def tsv_compress(
    experts: torch.Tensor,
    base: torch.Tensor,
    *,
    rank_fraction: Annotated[
        Fraction | None, "singular vectors kept per expert, of min(m, n); 1/e where not given"
    ] = None,
    convolutions: Annotated[
        Literal["full", "matrix"], "keep them whole, or take them as matrices (out, rest)"
    ] = "full",
) -> Parts:
    """Store each expert as the base and the leading singular vectors of its delta.

        delta_i = U_i S_i V_i^T, the floor(min(m, n) / e) largest singular values
        trunk   = base
        task i  = base + U_i S_i V_i^T         matrices
        task i  = expert_i                     all other tensors

    When: experts of one base are to be kept, and their deltas have few directions. Tasks do not
    meet: each is as good as its rank, whatever the others are. See `tsv` for one merged model.

    Args:
        experts: shape (e, *shape), overwritten.
        base: shape `shape`.
    Returns:
        The base, and for each expert two factors (m, rank), (rank, n).
    Cost: O(e m n min(m, n)) time; memory for one tensor of each model, and as much again. A task
        takes rank (m + n) numbers of a matrix.
    Source: Gargiulo et al. 2025, arXiv:2412.00081, section 4 (TSV-Compress).
    Departs: convolutions may be taken as matrices too.
    """
    shape = tuple(base.shape)
    if len(shape) < 2 or (len(shape) > 2 and convolutions == "full"):
        return Parts(base)
    rank = _rank(rank_fraction, len(experts), shape)
    if not rank or rank == short_side(shape):
        return Parts(base)
    return Parts(base, factors=[factors(expert.sub_(base), rank) for expert in experts])


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(tsv_compress)
