"""TSV-Merge: keep the leading singular vectors of every task, made orthogonal to each other."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Annotated, Any, Literal

from zoo import Fraction, Method, PerExpert, hookimpl, method
from zoo.stages.signs import weigh
from zoo.stages.spectrum import matrices, mean, polar, scratch, truncate

if TYPE_CHECKING:
    import torch


def _trivial(p: Any, experts: int) -> int | None:
    if p.lambda_ == 0 or not any(p.weight):
        return -1
    whole = p.rank_fraction in (None, 1) and p.lambda_ == 1
    return 0 if experts == 1 and whole and p.weight == [1] else None


def _kept(shape: tuple[int, ...], experts: int, rank_fraction: float | None) -> int:
    """Singular vectors kept of each delta of a matrix."""
    short = min(shape[0], prod(shape[1:]))
    return short // experts if rank_fraction is None else int(rank_fraction * short)


def _nothing_kept(p: Any, experts: int, shape: tuple[int, ...]) -> str | None:
    matrix = len(shape) == 2 or (len(shape) > 2 and p.convolutions == "matrix")
    if not matrix or not prod(shape) or _kept(shape, experts, p.rank_fraction):
        return None
    return "are too narrow to keep a singular vector of each expert, and stay as in the base"


@method(
    "tsv",
    version="1.0.0",
    needs="tensor",
    scratch=scratch,
    replay="platform",
    tolerance=1e-4,
    shortcut=_trivial,
    remark=_nothing_kept,
)
def tsv(
    deltas: torch.Tensor,
    *,
    weight: Annotated[PerExpert[float], "coefficient of each delta, before it is decomposed"] = 1.0,
    lambda_: Annotated[float, "scale of the merged delta, dimensionless"] = 1.0,
    rank_fraction: Annotated[
        Fraction | None, "singular vectors kept per expert, of min(m, n); 1/e where not given"
    ] = None,
    convolutions: Annotated[
        Literal["mean", "matrix"], "average them, or take them as matrices (out, rest)"
    ] = "mean",
) -> torch.Tensor:
    """Keep the leading singular vectors of each delta, and make them orthogonal jointly.

        delta_i = U_i S_i V_i^T, the floor(min(m, n) / e) largest singular values
        U = [U_1 ... U_e],  U_o = U (U^T U)^(-1/2),  and V_o alike
        merged = base + lambda * U_o diag(S_1 ... S_e) V_o^T          matrices
        merged = base + lambda * mean_i delta_i                       all other tensors

    When: experts of different tasks, each of which changed little but in few directions; by the
    authors' account among the best that need no data. Not for one task trained many times:
    equal experts come back truncated.

    Args:
        deltas: shape (e, *shape), overwritten.
    Returns:
        The merged delta, shape `shape`.
    Cost: O(e m n min(m, n)) time, one decomposition for each expert and matrix; memory for one
        tensor of each model, and as much again. Leave embeddings out with `exclude` where they
        take too long.
    Source: Gargiulo et al. 2025, arXiv:2412.00081, section 4 (TSV-Merge).
    Departs: directions that the experts lack or share, such as those of equal experts, are left
        out of the polar factor (pseudo-inverse), where the authors' code gives them arbitrary
        vectors with real weights. The authors average `text_projection` too: name it in
        `exclude`, or leave it. A matrix with fewer rows or columns than there are experts has
        nothing to keep, and stays the base's.
    """
    import torch

    weights: list[float] = weight  # type: ignore[assignment]
    weigh(deltas, weights)
    tasks = matrices(deltas, convolutions)
    if tasks is None:
        return mean(deltas).mul_(lambda_)
    rank = _kept(tasks.shape[1:], len(tasks), rank_fraction)
    left, values, right = zip(*(truncate(task, rank) for task in tasks), strict=True)
    scaled = polar(torch.cat(left, dim=1))[0] * torch.cat(values)
    merged = scaled @ polar(torch.cat(right, dim=1))[0].T
    return merged.mul_(lambda_).reshape(deltas.shape[1:])


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(tsv)
