"""Non-negative matrices kept as their row and column sums.

    V' = R C^T / sum(R)        R = row sums of V, C = column sums

V' is the rank-1 matrix with the sums of V, and V itself where V has rank 1. A matrix of m rows and
n columns takes m + n numbers; tensors of other shapes stay as they are.

Source: Shazeer & Stern 2018, arXiv:1804.04235, section 3 (Adafactor), for Adam's second moments.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from zoo.checkpoint import Checkpoint, MemoryCheckpoint, TensorInfo
from zoo.dtypes import DTYPES
from zoo.errors import InvalidCheckpoint

if TYPE_CHECKING:
    import numpy as np
    import torch

ROWS, COLUMNS = ".rank1_rows", ".rank1_columns"
"""What the two sums of a tensor are called, after its name."""
_STEP = 1 << 20
"""Elements read at a time."""


def compressed(checkpoint: Checkpoint) -> Checkpoint:
    """The same tensors with each matrix as its sums, in memory; float32, summed in float64."""
    import torch

    from zoo.checkpoints.reading import Reader

    reader = Reader(_STEP, 1, wide=True)
    state: dict[str, torch.Tensor] = {}
    for name, info in checkpoint.tensors.items():
        if not DTYPES[info.dtype].merges:
            continue
        chunks = (values[0] for _, values in reader.chunks(name, [checkpoint], unit="row"))
        if len(info.shape) != 2 or not info.elements:
            parts = [v.float() for v in chunks]
            flat = torch.cat(parts) if parts else torch.empty(0)
            state[name] = flat.reshape(info.shape)
            continue
        rows, columns = [], torch.zeros(info.shape[1], dtype=torch.float64)
        for values in chunks:
            block = values.view(-1, info.shape[1])
            rows.append(block.sum(1))
            columns += block.sum(0)
        state[name + ROWS], state[name + COLUMNS] = torch.cat(rows).float(), columns.float()
    return MemoryCheckpoint(state, replace(checkpoint.opened, weight_files={}))


def expanded(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with whole matrices where it has their sums; itself where it has none."""
    if any(name.endswith(ROWS) for name in checkpoint.tensors):
        return _Expanded(checkpoint)
    return checkpoint


class _Expanded(Checkpoint):
    """Makes the entries of each matrix as they are read."""

    def __init__(self, inner: Checkpoint) -> None:
        self._inner = inner
        self._sums: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.opened = inner.opened
        tensors = {}
        for name, info in inner.tensors.items():
            whole = name.removesuffix(ROWS)
            if name.endswith(COLUMNS):
                continue
            if whole == name:
                tensors[name] = info
                continue
            if whole + COLUMNS not in inner.tensors:
                raise InvalidCheckpoint(
                    f"`{inner.opened.origin}` has `{name}` and no `{whole + COLUMNS}`:",
                    "a matrix is kept as both of its sums.",
                    tensor=whole,
                )
            rows, columns = self._vector(name), self._vector(whole + COLUMNS)
            total = float(rows.sum())
            self._sums[whole] = (rows / total if total else rows, columns)
            tensors[whole] = TensorInfo(whole, "F32", (len(rows), len(columns)))
        self.tensors = dict(sorted(tensors.items()))

    def _vector(self, name: str) -> np.ndarray:
        import numpy as np

        info = self._inner.tensors[name]
        if info.dtype != "F32":
            raise InvalidCheckpoint(
                f"`{name}` of `{self._inner.opened.origin}` is {info.dtype}:",
                "sums of a matrix are kept as F32.",
                tensor=name,
            )
        data = bytearray(info.nbytes)
        self._inner.read_into(name, 0, memoryview(data))
        return np.frombuffer(data, "<f4").astype(np.float64)

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        import numpy as np

        if name not in self._sums:
            self._inner.read_into(name, start, buffer)
            return
        rows, columns = self._sums[name]
        n = len(columns)
        first, last = start // 4, (start + len(buffer) + 3) // 4
        above = first // n if n else 0
        block = np.outer(rows[above : -(-last // n)] if n else rows[:0], columns)
        data = block.astype("<f4").reshape(-1)[first - above * n : last - above * n].tobytes()
        buffer[:] = data[start - first * 4 : start - first * 4 + len(buffer)]

    def close(self) -> None:
        self._inner.close()
