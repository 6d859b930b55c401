"""TALL masks: one multi-task vector, and for each task a mask that finds its part again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from zoo import Chunk, Fraction, Method, Overlay, Parts, PerExpert, hookimpl, method
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
    return 0 if is_expert(p, experts) else None


def _overlays(p: Any, experts: int, shape: tuple[int, ...]) -> Overlay:
    return Overlay("mask")


@method(
    "tall_masks",
    version="1.0.0",
    needs="statistics",
    statistics=vector_statistics,
    shortcut=_trivial,
    overlays=_overlays,
)
def tall_masks(
    deltas: torch.Tensor,
    *,
    mask_lambda: Annotated[
        PerExpert[Annotated[float, Ge(0)]],
        "how far a delta must outweigh the others for an entry to serve its task; "
        "larger is sparser",
    ] = 0.4,
    multi_task_vector_: Annotated[
        MultiTaskVector, "sum of the deltas, or of what TIES keeps of them"
    ] = "sum",
    density: Annotated[
        PerExpert[Fraction], "fraction of each delta that TIES keeps, for ties_sum"
    ] = 0.2,
    stats: Mapping[str, Any],
    chunk: Chunk,
) -> Parts:
    """Store a family of experts as the sum of their deltas and a mask for each task.

        total  = sum_i delta_i, or the sum that TIES makes of them
        m_i    = |delta_i| > mask_lambda_i * |total - delta_i|
        trunk  = base + total
        task i = trunk where m_i, base elsewhere

    When: experts of one base are to be kept, and the task is known when the model is used: each
    costs a bit per weight. The trunk alone is a plain sum of deltas, and no good merge.

    Args:
        deltas: shape (e, n), overwritten.
    Returns:
        The trunk's delta, shape (n,), and the masks, shape (e, n).
    Cost: one pass, O(e n) time; two more, over the whole model, for ties_sum. Each task takes
        n / 8 bytes.
    Source: Wang et al. 2024, arXiv:2405.07813, section 3 (TALL-masks) and 4.1 (compression).
    Departs: the paper picks mask_lambda for each task by the accuracy of its model on held-out
        data; 0.4 is what it found typical.
    """
    import torch

    limits: list[float] = mask_lambda  # type: ignore[assignment]
    total = multi_task_vector(deltas, multi_task_vector_, stats, chunk)
    masks = torch.empty(deltas.shape, dtype=torch.bool, device=deltas.device)
    for delta, limit, mask in zip(deltas, limits, masks, strict=True):
        belongs(delta, total, limit, out=mask)
    return Parts(total, masks=masks)


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(tall_masks)
