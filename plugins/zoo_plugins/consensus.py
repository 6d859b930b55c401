"""Consensus merging: keep what serves several tasks (Consensus TA, Consensus TIES)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from zoo import Chunk, Fraction, Method, PerExpert, hookimpl, method
from zoo.stages.task_masks import (
    MultiTaskVector,
    belongs,
    is_expert,
    multi_task_vector,
    vector_statistics,
)

if TYPE_CHECKING:
    import torch


def _trivial(p: Any, experts: int) -> int | None:
    if p.lambda_ == 0 or p.k > experts:
        return -1
    return 0 if p.lambda_ == 1 and is_expert(p, experts) else None


@method(
    "consensus",
    version="1.0.0",
    needs="statistics",
    statistics=vector_statistics,
    shortcut=_trivial,
)
def consensus(
    deltas: torch.Tensor,
    *,
    k: Annotated[int, Ge(0), "tasks an entry must serve to be kept"] = 2,
    mask_lambda: Annotated[
        PerExpert[Annotated[float, Ge(0)]],
        "how far a delta must outweigh the others for an entry to serve its task",
    ] = 0.4,
    lambda_: Annotated[float, "scale of the merged delta, dimensionless"] = 0.3,
    multi_task_vector_: Annotated[
        MultiTaskVector, "sum of the deltas, or of what TIES keeps of them"
    ] = "sum",
    density: Annotated[
        PerExpert[Fraction], "fraction of each delta that TIES keeps, for ties_sum"
    ] = 0.2,
    stats: Mapping[str, Any],
    chunk: Chunk,
) -> torch.Tensor:
    """Keep the entries of the summed deltas that serve at least k tasks.

        total  = sum_i delta_i, or the sum that TIES makes of them
        m_i    = |delta_i| > mask_lambda_i * |total - delta_i|
        merged = base + lambda * total where sum_i m_i >= k, base elsewhere

    When: many tasks whose deltas interfere; k = 2 drops what serves one task alone or none. With
    two or three experts little survives it: take k = 1. To keep each task whole, see `tall_masks`.

    Args:
        deltas: shape (e, n), overwritten.
    Returns:
        The merged delta, shape (n,).
    Cost: one pass, O(e n) time; two more, over the whole model, for ties_sum.
    Source: Wang et al. 2024, arXiv:2405.07813, section 4.2 (Consensus Merging).
    Departs: the paper picks mask_lambda for each task, and lambda, by accuracy on held-out data;
        the defaults here are what it found typical. Ties of TIES' cut go to the lower index.
    """
    import torch

    limits: list[float] = mask_lambda  # type: ignore[assignment]
    total = multi_task_vector(deltas, multi_task_vector_, stats, chunk)
    serves, mask = torch.zeros_like(total), torch.empty_like(total)
    for delta, limit in zip(deltas, limits, strict=True):
        belongs(delta, total, limit, out=mask)
        serves.add_(mask)
    return total.mul_(serves.ge_(k)).mul_(lambda_)


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(consensus)
