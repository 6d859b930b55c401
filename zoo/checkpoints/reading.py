"""Streams the values of a tensor of several checkpoints, chunk by chunk, in reused buffers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from zoo.checkpoint import Checkpoint
from zoo.contract import CHUNK, Chunk, Unit, chunk_length
from zoo.dtypes import DTYPES, torch_dtype

if TYPE_CHECKING:
    import torch


class Reader:
    """Reads on any number of threads, each with buffers of its own.

    Args:
        chunk: elements per chunk.
        blocks: chunks read from a file at a time: a large read costs less per byte, and small
            chunks stay in cache.
        device: where the values are wanted.
        wide: float64 rather than float32. One type for all tensors of a merge, so that
            magnitudes can be compared across tensors.
        on_bytes: told how many bytes were read.
    """

    def __init__(
        self,
        chunk: int = CHUNK,
        blocks: int = 4,
        device: str = "cpu",
        wide: bool = False,
        on_bytes: Callable[[int], None] = lambda n: None,
    ) -> None:
        self.chunk = chunk
        self.blocks = blocks
        self.device = device
        self.wide = wide
        self._on_bytes = on_bytes
        self._local = threading.local()

    def chunks(
        self,
        name: str,
        checkpoints: Sequence[Checkpoint],
        wants: Callable[[Chunk], bool] | None = None,
        whole: Chunk | None = None,
        unit: Unit = "element",
    ) -> Iterator[tuple[Chunk, torch.Tensor]]:
        """(chunk, values (m, n)) of one tensor of m checkpoints.

        The values lie in a buffer that the next chunk overwrites.

        Args:
            whole: what all chunks say of the tensor: the name it goes by, and its layer.
            unit: what a chunk holds whole.
        """
        infos = [c.tensors[name] for c in checkpoints]
        shape, n = infos[0].shape, infos[0].elements
        length = chunk_length(shape, self.chunk, unit)
        work = self._work(len(infos) * min(length, n))
        count = -(-n // length)
        per_block = length * self.blocks
        whole = whole or Chunk(name, shape, 0, n, 0, 1)
        for block in range(0, n, per_block):
            chunks = [
                replace(whole, start=at, stop=min(at + length, n), index=at // length, count=count)
                for at in range(block, min(block + per_block, n), length)
            ]
            chunks = [c for c in chunks if wants is None or wants(c)]
            if not chunks:
                continue
            first, last = chunks[0].start, chunks[-1].stop
            if n <= per_block:
                first, last = 0, n  # all of it, for the passes that follow
            raws = self._fetch(name, checkpoints, first, last)
            for chunk in chunks:
                size = chunk.stop - chunk.start
                values = work[: len(infos) * size].view(len(infos), size)
                for row, raw in zip(values, raws, strict=True):
                    row.copy_(raw[chunk.start - first : chunk.stop - first])
                yield chunk, values

    def _fetch(
        self, name: str, checkpoints: Sequence[Checkpoint], first: int, last: int
    ) -> list[torch.Tensor]:
        """Elements [first, last) as stored, in this thread's buffers.

        A tensor of one block is read once for all passes that follow each other.
        """
        import torch

        wanted = (name, first, last, tuple(map(id, checkpoints)))
        known = getattr(self._local, "holds", None) == wanted
        raws = []
        for i, checkpoint in enumerate(checkpoints):
            dtype = checkpoint.tensors[name].dtype
            width = DTYPES[dtype].bits // 8
            view = self.raw((last - first) * width, i)
            if not known:
                checkpoint.read_into(name, first * width, view)
            raws.append(torch.frombuffer(view, dtype=torch_dtype(dtype)))
            self._on_bytes(len(view))
        self._local.holds = wanted
        return raws

    def raw(self, size: int, index: int = 0) -> memoryview:
        """This thread's buffer number `index`, at least `size` bytes, kept between calls."""
        self._local.holds = None
        raws: dict[int, bytearray] = self._local.__dict__.setdefault("raws", {})
        if len(raws.get(index, b"")) < size:
            raws[index] = bytearray(size)
        return memoryview(raws[index])[:size]

    def _work(self, elements: int) -> torch.Tensor:
        import torch

        held: torch.Tensor | None = self._local.__dict__.get("work")
        if held is None or held.numel() < elements:
            dtype = torch.float64 if self.wide else torch.float32
            held = torch.empty(elements, dtype=dtype, device=self.device)
            self._local.work = held
        return held
