"""A checkpoint whose embeddings have other rows than the files: those of another vocabulary.

Nothing is copied: the rows are read where they are, from this model or from another one. See
`zoo.tokenizers.vocabulary` for which rows those are.
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
from zoo.tokenizers.pursuit import summed
from zoo.tokenizers.transplant import Lacking, Transplant, row_bytes

if TYPE_CHECKING:
    import torch

_BLOCK = 4 << 20
"""Bytes read at a time for the mean of all rows."""
ZERO, MEAN, AVERAGE, OWN_MEAN, SUM = -1, -2, -3, -4, -5
"""In place of a model: a row of zeros, the mean of all tokens' rows, the average of some rows, the
mean of all rows the model had, a sum of some that it had."""


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
    had: int = 0
    """Rows the model has of its own."""
    lacking: tuple[Lacking, ...] = ()
    """What the rows of kind `SUM` are; `Row.row` counts them one after the other."""

    def pieces(self, first: int, last: int) -> Iterable[tuple[int, int, Row]]:
        """(first, last, where that row comes from) of runs that cover rows first to last."""
        at = bisect_right(self.firsts, first) - 1
        while first < last:
            end = self.firsts[at + 1] if at + 1 < len(self.firsts) else self.count
            end, run = min(end, last), self.runs[at]
            offset = first - self.firsts[at]
            counted = run.model >= 0 or run.model == SUM
            yield first, end, Row(run.model, run.row + offset if counted else 0)
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
        self._sums = Transplant(own, models, rows.lacking)
        self._means: dict[tuple[str, int], torch.Tensor] = {}
        self._lock = threading.RLock()  # a mean may be of rows that are means

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        if name not in self._shown:
            self._own.read_into(name, start, buffer)
            return
        info = self._shown[name]
        width = row_bytes(info)
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
        elif source.model == SUM:
            self._sums.read_into(info, source.row * row_bytes(info) + at, part)
        elif source.model == AVERAGE:
            row = row_bytes(info)
            for token in range(first + at // row, first + -(-(at + len(part)) // row)):
                data = _bytes(self._average(info, self._rows.averages[token]))
                low = max(at, (token - first) * row)
                high = min(at + len(part), (token - first + 1) * row)
                part[low - at : high - at] = data[low - (token - first) * row :][: high - low]
        elif source.model in (MEAN, OWN_MEAN):
            data = memoryview(bytes(_bytes(self._mean(info, source.model))) * (last - first))
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

    def _mean(self, info: TensorInfo, which: int) -> torch.Tensor:
        """The mean of all rows that have a token, or of all that the model had."""
        import torch

        with self._lock:
            if (info.name, which) not in self._means:
                own = which == OWN_MEAN
                view: Checkpoint = self._own if own else self
                shown = view.tensors[info.name]
                count = self._rows.had if own else self._rows.tokens
                n, width = prod(info.shape[1:]), row_bytes(shown)
                total = torch.zeros(n, dtype=torch.float64)
                step = max(1, _BLOCK // max(width, 1))
                for first in range(0, count, step):
                    last = min(first + step, count)
                    values = _values(view, shown, first * n, (last - first) * n)
                    total += summed(values.view(last - first, n).to(torch.float64), 0)
                mean = total / max(1, count)
                self._means[info.name, which] = mean.to(torch_dtype(info.dtype))
            return self._means[info.name, which]


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
