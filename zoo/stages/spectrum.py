"""Singular vectors of task matrices, and what the spectral methods build of them.

Weights are float32, and so good to seven digits; but a product of them with themselves squares
their condition. All inner products here are therefore summed in float64, a block of rows at a time.
That makes the cheap way to a singular value decomposition good enough: the eigenvectors of the
Gram matrix of the short side, which takes a tenth of the time for an embedding and no more memory
than its short side squared. Only float64 matrices, for which it is not good enough, are decomposed
directly.

Singular vectors are defined up to sign, those of equal singular values up to a rotation. Use them
only in products where that cancels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_BLOCK = 1 << 20
"""Elements of a matrix that are in float64 at one time. Sums go block by block, so this number is
part of the result."""


def negligible(dtype: torch.dtype) -> float:
    """Fraction of the largest singular value below which rounding of the inputs decides."""
    import torch

    return 1e-10 if dtype == torch.float64 else 1e-6


def truncate(
    matrix: torch.Tensor, rank: int, tolerance: float | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The largest singular triples of a matrix: `matrix ~ U diag(S) V^T`.

    Args:
        matrix: shape (m, n), float32 or float64.
        rank: triples wanted; all min(m, n) where it is larger.
        tolerance: singular values at or below this fraction of the largest count as zero;
            `negligible` of the type by default.
    Returns:
        U (m, k), S (k,) descending, V (n, k) in the type of `matrix`. Triples that count as
        zero are zero in all three: their vectors would be arbitrary.
    """
    import torch

    m, n = matrix.shape
    rank = min(rank, m, n)
    if tolerance is None:
        tolerance = negligible(matrix.dtype)
    if rank <= 0 or not matrix.any():
        zeros = matrix.new_zeros
        return zeros(m, max(rank, 0)), zeros(max(rank, 0)), zeros(n, max(rank, 0))
    if matrix.dtype == torch.float64:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        keep = (values > tolerance * values[0])[:rank].to(matrix.dtype)
        return left[:, :rank] * keep, values[:rank] * keep, right[:rank].T * keep
    if m < n:
        right, values, left = truncate(matrix.T, rank, tolerance)
        return left, values, right
    squares, vectors = torch.linalg.eigh(gram(matrix))
    values = squares.flip(0).clamp_min_(0).sqrt_()
    keep = (values > tolerance * values[0])[:rank]
    values = values[:rank] * keep
    right = vectors.flip(1)[:, :rank] * keep
    left = times(matrix, right / values.where(keep, 1.0))
    return left, values.to(matrix.dtype), right.to(matrix.dtype)


def gram(matrix: torch.Tensor) -> torch.Tensor:
    """`matrix^T matrix`, shape (n, n), float64."""
    import torch

    total = torch.zeros(matrix.shape[1], matrix.shape[1], dtype=torch.float64, device=matrix.device)
    for block in _blocks(matrix):
        wide = block.double()
        total.addmm_(wide.T, wide)
    return total


def times(matrix: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`matrix right`, summed in float64, in the type of `matrix`.

    Args:
        matrix: shape (m, n).
        right: shape (n, k), float64.
    """
    import torch

    result = matrix.new_empty(matrix.shape[0], right.shape[1])
    start = 0
    for block in _blocks(matrix):
        result[start : start + len(block)] = torch.mm(block.double(), right)
        start += len(block)
    return result


def _blocks(matrix: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return matrix.split(max(1, _BLOCK // max(1, matrix.shape[1])))
