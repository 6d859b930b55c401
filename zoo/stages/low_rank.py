"""Matrices as two thin factors: what a task keeps of its own at a fraction of the bytes."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from zoo.contract import Overlay
from zoo.stages.spectrum import truncate

if TYPE_CHECKING:
    import torch


def short_side(shape: tuple[int, ...]) -> int:
    """Singular values of a tensor taken as a matrix: its first axis, and the rest."""
    return min(shape[0], prod(shape[1:]))


def low_rank(shape: tuple[int, ...], rank: int) -> Overlay | None:
    """Factors of this rank; the whole tensor where the rank leaves nothing out; None for rank 0."""
    if rank >= short_side(shape):
        return Overlay("full")
    return Overlay("factors", rank=rank) if rank else None


def factors(tensor: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best approximation of this rank, as (m, rank) and (rank, n) with equal norms.

        left = U sqrt(S),  right = sqrt(S) V^T        of the largest singular triples

    Args:
        tensor: shape (m, ...), taken as a matrix of m rows.
    """
    left, values, right = truncate(tensor.flatten(1), rank)
    root = values.sqrt()
    return left * root, (right * root).T
