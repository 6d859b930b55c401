"""Singular vectors of task matrices, and what the spectral methods build of them.

Weights are float32, and so good to seven digits; but a product of them with themselves squares
their condition. Inner products here are therefore summed in float64, a block of rows at a time.
That makes the cheap way to a singular value decomposition good enough: the eigenvectors of the
Gram matrix of the short side, in a fraction of the time, and in memory of the short side squared,
which matters for embeddings. Only float64 matrices are decomposed directly.

Singular vectors are defined up to sign, those of equal singular values up to a rotation: use them
only in products where that cancels. Those of singular values that are zero up to rounding are
arbitrary, so they are left out everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Convolutions = Literal["mean", "matrix"]

_BLOCK = 1 << 20
"""Elements of a matrix that are in float64 at one time. Sums go block by block, so this number is
part of the result."""


def matrices(models: torch.Tensor, convolutions: Convolutions) -> torch.Tensor | None:
    """The deltas of one tensor as matrices, shape (e, m, n); None where it is not one.

    Args:
        models: shape (e, *shape).
        convolutions: `matrix` flattens what follows the first axis of 3-D and larger tensors.
    """
    axes = models.dim() - 1
    if models.numel() == 0 or axes < 2 or (axes > 2 and convolutions == "mean"):
        return None
    return models.flatten(2)


def mean(models: torch.Tensor) -> torch.Tensor:
    """The mean of (e, *shape), added up in the order of the experts, in the memory of the first."""
    return total(models).div_(len(models))


def total(models: torch.Tensor) -> torch.Tensor:
    """The sum of (e, *shape) in the order of the experts, in the memory of the first."""
    found = models[0]
    for model in models[1:]:
        found.add_(model)
    return found


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
        U (m, k), S (k,) descending, V (n, k), in the type of `matrix`. Triples that count as
        zero are zero in all three.
    """
    import torch

    m, n = matrix.shape
    rank = max(0, min(rank, m, n))
    tolerance = negligible(matrix.dtype) if tolerance is None else tolerance
    if rank == 0:
        return matrix.new_zeros(m, 0), matrix.new_zeros(0), matrix.new_zeros(n, 0)
    if matrix.dtype == torch.float64:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        keep = values[:rank] > tolerance * values[0]
        return left[:, :rank] * keep, values[:rank] * keep, right[:rank].T * keep
    if m < n:
        right, values, left = truncate(matrix.T, rank, tolerance)
        return left, values, right
    values, vectors = _right(matrix)
    keep = values[:rank] > tolerance * values[0]
    right = vectors[:, :rank] * keep
    left = times(matrix, right / values[:rank].where(keep, values.new_ones(())))
    return left, (values[:rank] * keep).to(matrix.dtype), right.to(matrix.dtype)


def polar(
    matrix: torch.Tensor, tolerance: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The orthogonal polar factor `U V^T` of `U diag(S) V^T`, over the S that are not zero.

    The same as `matrix (matrix^T matrix)^(-1/2)` with the pseudo-inverse: directions that the
    matrix lacks stay lacking, where the plain factor would make some up.

    Args:
        matrix: shape (m, n).
        tolerance: as for `truncate`.
    Returns:
        The factor, shape (m, n), and the S that count, descending, in float64.
    """
    import torch

    tolerance = negligible(matrix.dtype) if tolerance is None else tolerance
    if 0 in matrix.shape:
        return torch.zeros_like(matrix), matrix.new_zeros(0, dtype=torch.float64)
    if matrix.dtype == torch.float64:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        count = int((values > tolerance * values[0]).sum())
        return left[:, :count] @ right[:count], values[:count]
    if matrix.shape[0] < matrix.shape[1]:
        factor, values = polar(matrix.T, tolerance)
        return factor.T, values
    values, vectors = _right(matrix)
    count = int((values > tolerance * values[0]).sum())
    values, vectors = values[:count], vectors[:, :count]
    return times(matrix, (vectors / values) @ vectors.T), values


def _right(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All singular values and right singular vectors of a tall matrix, in float64."""
    import torch

    squares, vectors = torch.linalg.eigh(gram(matrix))
    return squares.flip(0).clamp_min_(0).sqrt_(), vectors.flip(1)


def left_vectors(
    matrix: torch.Tensor, tolerance: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Left singular vectors, shape (m, k), and singular values, (k,), of those that count.

    Args:
        matrix: shape (m, n).
        tolerance: as for `truncate`.
    """
    import torch

    if matrix.dtype == torch.float64 or matrix.shape[0] > matrix.shape[1]:
        left, values, _ = truncate(matrix, matrix.shape[1], tolerance)
    else:
        tolerance = negligible(matrix.dtype) if tolerance is None else tolerance
        exact, vectors = _right(matrix.T)
        values = (exact * (exact > tolerance * exact[:1])).to(matrix.dtype)
        left = vectors.to(matrix.dtype)
    count = int((values > 0).sum())
    return left[:, :count], values[:count]


def gram(matrix: torch.Tensor) -> torch.Tensor:
    """`matrix^T matrix`, shape (n, n), float64."""
    return inner(matrix, matrix)


def inner(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`left^T right`, shape (n, k), float64.

    Args:
        left: shape (m, n).
        right: shape (m, k).
    """
    import torch

    found = torch.zeros(left.shape[1], right.shape[1], dtype=torch.float64, device=left.device)
    for rows in _blocks(left):
        a = left[rows].double()
        found.addmm_(a.T, a if right is left else right[rows].double())
    return found


def times(matrix: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`matrix right`, summed in float64, in the type of `matrix`.

    Args:
        matrix: shape (m, n).
        right: shape (n, k), float64.
    """
    product = matrix.new_empty(matrix.shape[0], right.shape[1])
    for rows in _blocks(matrix):
        product[rows] = matrix[rows].double() @ right
    return product


def _blocks(matrix: torch.Tensor) -> Iterator[slice]:
    rows = max(1, _BLOCK // max(1, matrix.shape[1]))
    for start in range(0, matrix.shape[0], rows):
        yield slice(start, start + rows)


def scratch(shape: tuple[int, ...], models: int, width: int) -> int:
    """Bytes that decomposing one tensor of each model takes, whatever is then made of it.

    Left and right singular vectors of all experts, as found, put together and made orthogonal;
    and the eigenvectors of the short side, in float64, with what LAPACK needs for them.
    """
    elements = prod(shape)
    if len(shape) < 2 or not elements:
        return 0
    short = min(shape[0], elements // shape[0])
    vectors = elements + short * short
    return width * (3 * vectors + elements) + 8 * (5 * short * short + 2 * _BLOCK)
