"""A checkpoint whose embeddings have other rows than the files: those of another vocabulary.

Nothing is copied: the rows are read where they are, from this model or from another one. See
`zoo.vocabulary` for which rows those are.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.checkpoint import Checkpoint, TensorInfo
from zoo.dtypes import DTYPES, torch_dtype

if TYPE_CHECKING:
    import torch

_BLOCK = 4 << 20
"""Bytes read at a time for the mean of all rows."""
ZERO, MEAN, AVERAGE = -1, -2, -3
"""In place of a model: a row of zeros, the mean of all tokens' rows, the average of some rows."""


class Row(NamedTuple):
    """Where a row comes from: a model and its row there; or, for `model` below 0, what it is."""

    model: int
    row: int = 0


@dataclass(frozen=True)
class Rows:
    """All rows of one model's embeddings, as the result counts them.

    Consecutive rows that lie together are one run: (first, model, row there); see `Row`.
    """

    count: int
    firsts: Sequence[int]
    runs: Sequence[Row]
    averages: Mapping[int, tuple[Row, ...]]
    """Row -> the rows it is the average of."""
    tokens: int
    """Rows that have a token; those after them are their mean."""

    def pieces(self, first: int, last: int) -> Iterable[tuple[int, int, Row]]:
        """(first, last, where that row comes from) of runs that cover rows first to last."""
        at = bisect_right(self.firsts, first) - 1
        while first < last:
            end = self.firsts[at + 1] if at + 1 < len(self.firsts) else self.count
            end, run = min(end, last), self.runs[at]
            offset = first - self.firsts[at]
            yield first, end, Row(run.model, run.row + offset if run.model >= 0 else 0)
            first, at = end, at + 1


class Reindexed(Checkpoint):
    """A model whose embeddings have the rows of another vocabulary.

    Args:
        models: all models that rows come from; this one's number is in `rows`.
        shown: embeddings and heads, as they will appear.
    """

    def __init__(
        self,
        own: Checkpoint,
        models: Sequence[Checkpoint],
        rows: Rows,
        shown: Mapping[str, TensorInfo],
    ) -> None:
        self._own, self._models, self._rows, self._shown = own, models, rows, shown
        self.tensors = {n: shown.get(n, t) for n, t in own.tensors.items()}
        self.opened = own.opened
        self._means: dict[str, torch.Tensor] = {}
        self._lock = threading.Lock()

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        if name not in self._shown:
            self._own.read_into(name, start, buffer)
            return
        info = self._shown[name]
        width = _row_bytes(info)
        end = start + len(buffer)
        if start == end:
            return
        for first, last, source in self._rows.pieces(start // width, -(-end // width)):
            low, high = max(start, first * width), min(end, last * width)
            part = buffer[low - start : high - start]
            self._fill(info, first, last, source, low - first * width, part)

    def _fill(
        self, info: TensorInfo, first: int, last: int, source: Row, at: int, part: memoryview
    ) -> None:
        """Bytes `at` and on of the rows `first` to `last`, which have one source."""
        if source.model == ZERO:
            part[:] = bytes(len(part))
        elif source.model == AVERAGE:
            row = _row_bytes(info)
            for token in range(first + at // row, first + -(-(at + len(part)) // row)):
                data = _bytes(self._average(info, self._rows.averages[token]))
                low = max(at, (token - first) * row)
                high = min(at + len(part), (token - first + 1) * row)
                part[low - at : high - at] = data[low - (token - first) * row :][: high - low]
        elif source.model == MEAN:
            row = _row_bytes(info)
            data = memoryview(bytes(_bytes(self._mean(info))) * (last - first))
            part[:] = data[at : at + len(part)]
        else:
            model = self._models[source.model]
            theirs = model.tensors[info.name]
            ours = DTYPES[info.dtype].bits // 8
            element = source.row * prod(info.shape[1:]) + at // ours
            if theirs.dtype == info.dtype:
                model.read_into(info.name, element * ours, part)
            else:
                values = _values(model, theirs, element, len(part) // ours)
                part[:] = _bytes(values.to(torch_dtype(info.dtype)))

    def _average(self, info: TensorInfo, rows: Sequence[Row]) -> torch.Tensor:
        """Summed in the models' order and rounded once."""
        import torch

        n = prod(info.shape[1:])
        found = []
        for source in rows:
            model = self._models[source.model]
            found.append(_values(model, model.tensors[info.name], source.row * n, n))
        wide = torch.float64 if any(f.dtype == torch.float64 for f in found) else torch.float32
        total = torch.zeros(n, dtype=wide)
        for values in found:
            total += values.to(wide)
        return (total / len(found)).to(torch_dtype(info.dtype))

    def _mean(self, info: TensorInfo) -> torch.Tensor:
        """The mean of all rows that have a token: halves are added until one row is left, so that
        the sum is the same whatever the machine."""
        import torch

        with self._lock:
            if info.name not in self._means:
                n, width = prod(info.shape[1:]), _row_bytes(info)
                total = torch.zeros(n, dtype=torch.float64)
                step = max(1, _BLOCK // max(width, 1))
                for first in range(0, self._rows.tokens, step):
                    last = min(first + step, self._rows.tokens)
                    data = bytearray((last - first) * width)
                    self.read_into(info.name, first * width, memoryview(data))
                    block = _viewed(data, info.dtype).view(last - first, n).to(torch.float64)
                    while len(block) > 1:
                        half = len(block) // 2
                        rest = block[2 * half :]
                        block = torch.cat([block[:half] + block[half : 2 * half], rest])
                    total += block[0]
                mean = total / max(1, self._rows.tokens)
                self._means[info.name] = mean.to(torch_dtype(info.dtype))
            return self._means[info.name]


def _row_bytes(info: TensorInfo) -> int:
    return prod(info.shape[1:]) * DTYPES[info.dtype].bits // 8


def _values(checkpoint: Checkpoint, info: TensorInfo, start: int, count: int) -> torch.Tensor:
    """Elements of a tensor, in its own type."""
    width = DTYPES[info.dtype].bits // 8
    data = bytearray(count * width)
    checkpoint.read_into(info.name, start * width, memoryview(data))
    return _viewed(data, info.dtype)


def _viewed(data: bytearray, dtype: str) -> torch.Tensor:
    import torch

    return torch.frombuffer(data, dtype=torch_dtype(dtype)) if data else torch.empty(0)


def _bytes(values: torch.Tensor) -> memoryview:
    import torch

    raw: Any = values.contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(raw)
