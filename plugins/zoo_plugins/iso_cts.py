"""Iso-CTS: Iso-C over what the tasks share, with room for directions of each task alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from zoo import Fraction, Method, hookimpl, method
from zoo.stages.spectrum import matrices, mean, polar, scratch, truncate

if TYPE_CHECKING:
    import torch


def _trivial(p: Any, experts: int) -> int | None:
    return -1 if p.lambda_ == 0 else None


@method(
    "iso_cts",
    version="1.0.0",
    needs="tensor",
    scratch=scratch,
    replay="platform",
    tolerance=1e-4,
    shortcut=_trivial,
)
def iso_cts(
    deltas: torch.Tensor,
    *,
    common_space_fraction: Annotated[
        Fraction, "share of the singular directions that is taken from the sum"
    ] = 0.8,
    lambda_: Annotated[float, "scale of the merged delta, dimensionless; tune it"] = 1.0,
    tolerance: Annotated[
        float, Ge(0), "singular values up to this fraction of the largest count as zero"
    ] = 1e-6,
    convolutions: Annotated[
        Literal["mean", "matrix"], "average them, or take them as matrices (out, rest)"
    ] = "mean",
) -> torch.Tensor:
    """Make the common and the task-specific directions of the deltas equally strong.

        r = min(m, n),  q = round((r - floor(f r)) / e),  c = r - e q
        U_c, s_c, V_c   the c leading singular triples of sum_i delta_i
        U_i, s_i, V_i   the q leading ones of delta_i - U_c U_c^T delta_i
        U = [U_1 ... U_e U_c],  U_o = U (U^T U)^(-1/2),  and V_o alike
        merged = base + lambda * mean(s_1 ... s_e s_c) * U_o V_o^T     matrices
        merged = base + lambda * mean_i delta_i                        all other tensors

    When: as `iso_c`, with many or unlike tasks, whose own directions the sum drowns. With so
    many experts that q is 0 it is `iso_c`.

    Args:
        deltas: shape (e, *shape), overwritten.
    Returns:
        The merged delta, shape `shape`.
    Cost: O(e m n min(m, n)) time, e + 3 decompositions for each matrix; memory for one tensor of
        each model, and as much again.
    Source: Marczak et al. 2025, arXiv:2502.04959, section 4 (Iso-CTS).
    Departs: as `iso_c`; besides, directions that several experts share are not made up anew
        (pseudo-inverse in the polar factor).
    """
    import torch

    tasks = matrices(deltas, convolutions)
    if tasks is None:
        return mean(deltas).mul_(lambda_)
    short = min(tasks.shape[1:])
    # Python rounds halves to even, as the authors' code does.
    own = round((short - int(common_space_fraction * short)) / len(tasks))
    common = tasks[0].clone()
    for task in tasks[1:]:
        common.add_(task)
    shared = truncate(common, short - own * len(tasks), tolerance)
    del common
    parts = []
    if own:
        for task in tasks:
            task.sub_(shared[0] @ (shared[0].T @ task))
            parts.append(truncate(task, own, tolerance))
    left, values, right = (torch.cat(part, dim=-1) for part in zip(*parts, shared, strict=True))
    # What is left of an expert without directions of its own is rounding of the sum.
    counts = values > tolerance * values.max()
    if not counts.any():
        return torch.zeros_like(deltas[0])
    merged = polar(left[:, counts])[0] @ polar(right[:, counts])[0].T
    strength = float(values[counts].mean(dtype=torch.float64))
    return merged.mul_(lambda_ * strength).reshape(deltas.shape[1:])


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(iso_cts)
