"""Tensors worked out by runs of elements: a matrix of any size costs the memory of a block."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from zoo.checkpoint import Checkpoint, TensorInfo
from zoo.dtypes import DTYPES, torch_dtype

if TYPE_CHECKING:
    import torch

Reader = Callable[[int, memoryview], None]
"""Fills a buffer with a tensor's bytes from a byte on."""


def elements(checkpoint: Checkpoint, info: TensorInfo, start: int, count: int) -> torch.Tensor:
    """Elements of a tensor from one on, in C order; in its own type, shape (count,)."""
    import torch

    width = DTYPES[info.dtype].bits // 8
    if count == 0:
        return torch.empty(0, dtype=torch_dtype(info.dtype))
    data = bytearray(count * width)
    checkpoint.read_into(info.name, start * width, memoryview(data))
    return torch.frombuffer(data, dtype=torch_dtype(info.dtype))


def copied(checkpoint: Checkpoint, name: str) -> Reader:
    """Bytes as they are in another checkpoint."""
    return lambda start, buffer: checkpoint.read_into(name, start, buffer)


def computed(dtype: str, make: Callable[[int, int], torch.Tensor]) -> Reader:
    """Bytes of what `make(start, count)` gives for runs of elements, rounded to a type.

    Args:
        make: gives floating numbers of shape (count,).
    """
    width = DTYPES[dtype].bits // 8

    def read(start: int, buffer: memoryview) -> None:
        import torch

        if not len(buffer):
            return
        first, skip = divmod(start, width)
        count = -(-(skip + len(buffer)) // width)
        made = make(first, count).to(torch_dtype(dtype)).contiguous().view(torch.uint8)
        torch.frombuffer(buffer, dtype=torch.uint8).copy_(made[skip : skip + len(buffer)])

    return read


class Lazy(Checkpoint):
    """A checkpoint of readers. The checkpoints behind it belong to somebody else."""

    def __init__(self, origin: str, tensors: dict[str, tuple[TensorInfo, Reader]]) -> None:
        from zoo.checkpoint import Opened

        self.tensors = {name: tensors[name][0] for name in sorted(tensors)}
        self._readers = {name: reader for name, (_, reader) in tensors.items()}
        self.opened = Opened(origin)

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        self._readers[name](start, buffer)
