"""Where merged values go: cast, hashed, and handed to whoever wants the bytes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

from zoo.checkpoint import Checkpoint, TensorInfo
from zoo.digest import PREFIX, tensor_hasher
from zoo.dtypes import DTYPES, torch_dtype

if TYPE_CHECKING:
    import torch


class Sink(Protocol):
    """Where merged bytes go. Called from many threads, for different tensors."""

    def write(self, info: TensorInfo, start: int, data: memoryview) -> None:
        """Bytes of a tensor from byte `start` on; in order within one tensor."""

    def finished(self, info: TensorInfo, digest: str) -> None:
        """All bytes of a tensor were written, and this is their digest."""


class Discard:
    """A sink for those who want digests only."""

    def write(self, info: TensorInfo, start: int, data: memoryview) -> None:
        pass

    def finished(self, info: TensorInfo, digest: str) -> None:
        pass


class Distances:
    """A sink for those who want to know how far what is made is from what is stored."""

    def __init__(self, stored: Checkpoint) -> None:
        self._stored = stored
        self._squares: dict[str, tuple[float, float]] = {}
        """Of each tensor: |made - stored|^2, |stored|^2."""

    def write(self, info: TensorInfo, start: int, data: memoryview) -> None:
        import torch

        if info.name not in self._stored.tensors or not len(data):
            return
        stored = bytearray(len(data))
        self._stored.read_into(info.name, start, memoryview(stored))
        dtype = torch_dtype(info.dtype)
        before = torch.frombuffer(stored, dtype=dtype).double()
        change = torch.frombuffer(data, dtype=dtype).double() - before
        sums = self._squares.get(info.name, (0.0, 0.0))
        new = float(change.dot(change)), float(before.dot(before))
        self._squares[info.name] = sums[0] + new[0], sums[1] + new[1]

    def finished(self, info: TensorInfo, digest: str) -> None:
        pass

    def relative(self, name: str) -> float:
        """|made - stored| / |stored|, dimensionless; infinite where nothing but zeros is stored."""
        change, size = self._squares[name]
        return math.sqrt(change / size) if size else math.inf


class Writer:
    """Casts one tensor's values, hashes them and hands them on."""

    def __init__(self, info: TensorInfo, sink: Sink) -> None:
        self._info = info
        self._sink = sink
        self._hash = tensor_hasher(info.dtype, info.shape)
        self._at = 0
        self._out: bytearray = bytearray()

    def write(self, values: torch.Tensor) -> None:
        import torch

        dtype = torch_dtype(self._info.dtype)
        size = values.numel() * DTYPES[self._info.dtype].bits // 8
        if len(self._out) < size:
            self._out = bytearray(size)
        view = memoryview(self._out)[:size]
        if size:
            out = torch.frombuffer(view, dtype=dtype)
            out.copy_(values.reshape(-1))
        self.write_raw(view)

    def write_raw(self, view: memoryview) -> None:
        self._hash.update(view)
        self._sink.write(self._info, self._at, view)
        self._at += len(view)

    def close(self) -> str:
        digest = PREFIX + self._hash.hexdigest()
        self._sink.finished(self._info, digest)
        return digest
