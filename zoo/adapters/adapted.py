"""A base with an adapter applied, as one lazy checkpoint: dense, and never written down."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from math import prod
from typing import TYPE_CHECKING

from zoo.adapters.change import Change
from zoo.adapters.exact import sum_of_squares
from zoo.adapters.updates import matrix
from zoo.checkpoint import Checkpoint, Opened, TensorInfo, tensor_of
from zoo.dtypes import DTYPES, torch_dtype

if TYPE_CHECKING:
    import torch

    Rows = Callable[[int, int], torch.Tensor]

BLOCK = 1 << 17
"""Elements worked out at a time: 1 MiB of float64, which stays in cache."""


class AdaptedCheckpoint(Checkpoint):
    """The tensors of a base, those that the adapter changes as float32.

    float32 keeps what the adapter adds: half precision would round most of it away, and a method in
    delta space would see the rounding. float64 where the base is. A merge still writes the base's
    type, unless the recipe says another.

    An element is the same whatever is read with it: sums are exact (`zoo.adapters.exact`), or taken
    in one order over whole rows.
    """

    def __init__(
        self,
        base: Checkpoint,
        adapter: Checkpoint,
        changes: Mapping[str, Change],
        opened: Opened | None = None,
    ) -> None:
        """
        Args:
            changes: by the name of the base's tensor; found fit for the base.
        """
        self._base, self._adapter, self._changes = base, adapter, changes
        self.opened = opened or base.opened
        self._local = threading.local()
        self._lock = threading.Lock()
        self._factors: dict[str, torch.Tensor] = {}
        """What multiplies each column of a tensor, by its name; needs all of the tensor once."""
        tensors = dict(base.tensors)
        for name, change in changes.items():
            own = base.tensors.get(name)
            shape = (change.replaced or own or change.parts[0]).shape
            kept = own.dtype if own else change.parts[0].dtype
            dtype = "F64" if kept == "F64" else "F32"
            tensors[name] = TensorInfo(name, dtype, shape, written_as=kept)
        self.tensors = dict(sorted(tensors.items()))

    def close(self) -> None:
        self._base.close()
        self._adapter.close()

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        if name not in self._changes:
            self._base.read_into(name, start, buffer)
            return
        if not len(buffer):
            return
        import torch

        info = self.tensors[name]
        size = DTYPES[info.dtype].bits // 8
        first, last = start // size, -(-(start + len(buffer)) // size)
        n = prod(info.shape[1:])
        whole = first * size == start and last * size == start + len(buffer)
        out = (
            torch.frombuffer(buffer, dtype=torch_dtype(info.dtype))
            if whole
            else torch.empty(last - first, dtype=torch_dtype(info.dtype))
        )
        rows = self._rows(name)
        step = max(1, BLOCK // n)
        for at in range(first // n, -(-last // n), step):
            until = min(at + step, -(-last // n))
            values = rows(at, until).reshape(-1)
            low, high = max(first, at * n), min(last, until * n)
            out[low - first : high - first] = values[low - at * n : high - at * n]
        if not whole:
            skip = start - first * size
            buffer[:] = out.numpy().tobytes()[skip : skip + len(buffer)]

    def _rows(self, name: str) -> Rows:
        """What gives rows of a tensor as it is in the end. A thread keeps those of the last tensor:
        it reads one after the other, and factors of all would fill the memory."""
        if getattr(self._local, "name", None) != name:
            self._local.rows = self._made(name)
            self._local.name = name
        rows: Rows = self._local.rows
        return rows

    def _made(self, name: str) -> Rows:
        change, shape = self._changes[name], self.tensors[name].shape
        rows = self._summed(name, change)
        if change.magnitude is not None:
            magnitude = self._read(change.magnitude.values).reshape(-1)
            if change.magnitude.along == "rows":
                rows = _rows_of_norm(rows, magnitude)
            else:
                rows = _scaled(rows, self._column_factors(name, rows, magnitude, shape))
        if change.tokens is not None:
            rows = _with_rows(rows, change.tokens.indices, matrix(self._read(change.tokens.values)))
        return rows

    def _summed(self, name: str, change: Change) -> Rows:
        """The tensor and what is added to it."""
        shape = self.tensors[name].shape
        read = self._read
        added = [u.rows(shape, read) for u in change.updates]
        own: Rows
        if change.replaced is not None:
            values = matrix(read(change.replaced))
            own = lambda first, last: values[first:last].clone()  # noqa: E731  (a row reader)
        else:
            info = self._base.tensors[name]
            own = lambda first, last: self._base_rows(info, first, last)  # noqa: E731

        def rows(first: int, last: int) -> torch.Tensor:
            if not added:
                return own(first, last)
            total = added[0](first, last)
            for more in added[1:]:
                total += more(first, last)
            return total.add_(own(first, last))

        return rows

    def _base_rows(self, info: TensorInfo, first: int, last: int) -> torch.Tensor:
        """Rows of the base's tensor, in its own type; overwritten by the next call."""
        import torch

        n = prod(info.shape[1:])
        size = DTYPES[info.dtype].bits // 8
        wanted = (last - first) * n * size
        held: bytearray = self._local.__dict__.setdefault("raw", bytearray())
        if len(held) < wanted:
            held = self._local.raw = bytearray(wanted)
        view = memoryview(held)[:wanted]
        self._base.read_into(info.name, first * n * size, view)
        return torch.frombuffer(view, dtype=torch_dtype(info.dtype)).view(last - first, n)

    def _column_factors(
        self, name: str, rows: Rows, magnitude: torch.Tensor, shape: tuple[int, ...]
    ) -> torch.Tensor:
        """m / ||W|| for each column, spread over the kernel; worked out once, block by block."""
        import torch

        with self._lock:
            if name not in self._factors:
                m, kernel = shape[0], prod(shape[2:])
                total = torch.zeros(shape[1], dtype=torch.float64)
                step = max(1, BLOCK // prod(shape[1:]))
                for at in range(0, m, step):
                    block = rows(at, min(at + step, m)).to(torch.float64)
                    block = block.reshape(len(block), shape[1], kernel)
                    total += sum_of_squares(block.permute(1, 0, 2).reshape(shape[1], -1))
                self._factors[name] = (magnitude / total.sqrt()).repeat_interleave(kernel)
            return self._factors[name]

    def _read(self, info: TensorInfo) -> torch.Tensor:
        """A tensor of the adapter as float64."""
        return tensor_of(self._adapter, info).double()


def _rows_of_norm(rows: Rows, norms: torch.Tensor) -> Rows:
    def scaled(first: int, last: int) -> torch.Tensor:
        values = rows(first, last).double()
        return values.mul_((norms[first:last] / sum_of_squares(values).sqrt())[:, None])

    return scaled


def _scaled(rows: Rows, factors: torch.Tensor) -> Rows:
    return lambda first, last: rows(first, last).double().mul_(factors)


def _with_rows(rows: Rows, indices: tuple[int, ...], values: torch.Tensor) -> Rows:
    def replaced(first: int, last: int) -> torch.Tensor:
        found = rows(first, last).double()
        for at, index in enumerate(indices):
            if first <= index < last:
                found[index - first] = values[at]
        return found

    return replaced
