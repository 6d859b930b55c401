"""Where merged values go: cast, hashed, and handed to whoever wants the bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from zoo.checkpoint import TensorInfo
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
