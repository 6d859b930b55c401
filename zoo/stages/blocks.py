"""Sparsify in blocks: the n largest of every m entries, and each position to one expert.

Source: Yang et al. 2025, arXiv:2503.01874, section 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from zoo.stages.rows import by_magnitude

if TYPE_CHECKING:
    import torch

Tail = Literal["drop", "proportional"]


def share_out(
    deltas: torch.Tensor, n: int, m: int, *, tail: Tail = "drop", dense: bool = False
) -> torch.Tensor:
    """Keep, in place, the n largest entries of each block that no expert before has kept.

    Args:
        deltas: whole blocks, but for the end of the tensor; shape (e, n).
        n, m: entries kept of a block, and its length.
        tail: what becomes of an incomplete block: nothing, or floor(n b / m) of its b entries.
        dense: the second of two experts keeps all that the first does not, and the floor(m / 2)
            largest of what it does.
    """
    import torch

    size = deltas.shape[1]
    free = torch.ones(size, dtype=torch.uint8, device=deltas.device)
    if tail == "drop":
        free[size - size % m :] = 0
    for i, delta in enumerate(deltas):
        if dense and i == 1:
            kept = free + largest(delta * (1 - free), m // 2, m, tail)
        else:
            kept = largest(delta.mul_(free), n, m, tail)
        delta.mul_(kept)
        # A position counts as used even where the delta is zero.
        free.mul_(1 - kept.clamp_max_(1))
    return deltas


def largest(values: torch.Tensor, n: int, m: int, tail: Tail) -> torch.Tensor:
    """1 at the n largest magnitudes of each block of m, else 0; uint8, shape (n,).

    Of equal magnitudes the first counts as the largest.
    """
    import torch

    size = values.numel()
    whole = size - size % m
    kept = torch.zeros(size, dtype=torch.uint8, device=values.device)
    parts = [(slice(0, whole), m, n)]
    if tail == "proportional" and size > whole:
        parts.append((slice(whole, size), size - whole, n * (size - whole) // m))
    for part, length, count in parts:
        order = by_magnitude(values[part].view(-1, length), first="larger")
        kept[part].view(-1, length).scatter_(1, order[:, length - count :], 1)
    return kept
