"""Iso-C: the sum of the deltas, with all singular values made equal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from zoo import Method, hookimpl, method
from zoo.stages.spectrum import matrices, mean, polar, scratch, total

if TYPE_CHECKING:
    import torch


def _trivial(p: Any, experts: int) -> int | None:
    return -1 if p.lambda_ == 0 else None


@method(
    "iso_c",
    version="1.0.0",
    needs="tensor",
    scratch=scratch,
    replay="platform",
    tolerance=1e-4,
    shortcut=_trivial,
)
def iso_c(
    deltas: torch.Tensor,
    *,
    lambda_: Annotated[float, "scale of the merged delta, dimensionless; tune it"] = 1.0,
    tolerance: Annotated[
        float, Ge(0), "singular values up to this fraction of the largest count as zero"
    ] = 1e-6,
    convolutions: Annotated[
        Literal["mean", "matrix"], "average them, or take them as matrices (out, rest)"
    ] = "mean",
) -> torch.Tensor:
    """Sum the deltas and give all singular directions of the sum the same strength.

        sum_i delta_i = U diag(s) V^T
        merged = base + lambda * mean(s) * U V^T           matrices
        merged = base + lambda * mean_i delta_i            all other tensors

    When: experts of different tasks, where the sum is ruled by a few directions that the tasks
    share. The norm of the delta changes, so try several `lambda`, 0.1 to 3. Not for a single
    expert: it comes back distorted.

    Args:
        deltas: shape (e, *shape), overwritten.
    Returns:
        The merged delta, shape `shape`.
    Cost: O(m n min(m, n)) time, one decomposition for each matrix; memory for one tensor of each
        model, and as much again.
    Source: Marczak et al. 2025, arXiv:2502.04959, section 4 (Iso-C).
    Departs: singular values that count as zero stay zero, and the mean is over the others; the
        authors' code gives their arbitrary directions full strength. Low-rank experts that were
        rounded to bfloat16 have small ones, not zeros: raise `tolerance` to about 0.01.
        The authors average `text_projection` too.
    """
    tasks = matrices(deltas, convolutions)
    if tasks is None:
        return mean(deltas).mul_(lambda_)
    factor, values = polar(total(tasks), tolerance)
    strength = float(values.mean()) if len(values) else 0.0
    return factor.mul_(lambda_ * strength).reshape(deltas.shape[1:])


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(iso_c)
