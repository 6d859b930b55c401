"""The spectra of a checkpoint's weight matrices, one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch

from zoo.dtypes import DTYPES, torch_dtype
from zoo.errors import InvalidCheckpoint

if TYPE_CHECKING:
    from zoo.checkpoint import Checkpoint, TensorInfo

_BLOCK_BYTES = 16 << 20
"""Rows that are read and multiplied at once, in float64."""


def spectra(checkpoint: Checkpoint) -> Iterator[tuple[str, np.ndarray]]:
    """(name, eigenvalues of W W^T) of each weight matrix, names ascending.

    A tensor of more than two axes, such as a convolution, is the matrix of its first axis by all
    others. Tensors of one axis, or of a side shorter than 2, are no matrices.

    Returns:
        Squared singular values, ascending, float64, as many as the shorter side is long.
    Memory: the square of the shorter side in float64, and a block of the tensor; all of the tensor
        where it is wider than high.
    Raises:
        InvalidCheckpoint: a tensor has entries that are not finite.
    """
    for name, info in checkpoint.tensors.items():
        if not DTYPES[info.dtype].merges or len(info.shape) < 2:
            continue
        rows, columns = info.shape[0], prod(info.shape[1:])
        if min(rows, columns) < 2:
            continue
        gram = _tall(checkpoint, info) if rows >= columns else _wide(checkpoint, info)
        if not bool(gram.isfinite().all()):
            raise InvalidCheckpoint(
                f"Tensor `{name}` of `{checkpoint.opened.origin}` has no spectrum:",
                "it has entries that are not finite, or too large to square.",
                tensor=name,
            )
        yield name, torch.linalg.eigvalsh(gram).clamp_min_(0).numpy()


def _tall(checkpoint: Checkpoint, info: TensorInfo) -> torch.Tensor:
    """W^T W, block of rows by block of rows."""
    rows, columns = info.shape[0], prod(info.shape[1:])
    gram = torch.zeros(columns, columns, dtype=torch.float64)
    step = max(1, _BLOCK_BYTES // (8 * columns))
    for start in range(0, rows, step):
        block = _rows(checkpoint, info, start, min(step, rows - start)).double()
        gram.addmm_(block.T, block)
    return gram


def _wide(checkpoint: Checkpoint, info: TensorInfo) -> torch.Tensor:
    """W W^T, block of columns by block of columns."""
    rows = info.shape[0]
    gram = torch.zeros(rows, rows, dtype=torch.float64)
    whole = _rows(checkpoint, info, 0, rows)
    for block in torch.split(whole, max(1, _BLOCK_BYTES // (8 * rows)), dim=1):
        wide = block.double()
        gram.addmm_(wide, wide.T)
    return gram


def _rows(checkpoint: Checkpoint, info: TensorInfo, start: int, count: int) -> torch.Tensor:
    columns = prod(info.shape[1:])
    row = columns * DTYPES[info.dtype].bits // 8
    data = bytearray(count * row)
    checkpoint.read_into(info.name, start * row, memoryview(data))
    return torch.frombuffer(data, dtype=torch_dtype(info.dtype)).reshape(count, columns)
