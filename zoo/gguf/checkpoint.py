"""A GGUF file as a lazy checkpoint: headers are read when it is opened, weights by offset."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.checkpoint import Checkpoint, Opened, TensorInfo
from zoo.dtypes import DTYPES, torch_dtype
from zoo.errors import InvalidCheckpoint
from zoo.gguf.blocks import BLOCK, BYTES, values_of
from zoo.gguf.header import TYPE_NUMBERS, TYPES
from zoo.gguf.tensors import Piece

if TYPE_CHECKING:
    import numpy as np
    import torch

DEQUANTIZED = "F16"
"""The type that Q8_0 becomes. Its rounding, 2^-11 of a value, is far below the step of the codes,
2^-8 of the largest of 32; bfloat16's, 2^-8, is not."""
READABLE = {
    **{n: n for n in ("F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64")},
    "Q8_0": DEQUANTIZED,
}
"""ggml's types -> ours."""
STEP = 1 << 20
"""Elements worked out at a time."""


class GgufCheckpoint(Checkpoint):
    """The tensors of one or several files, as transformers has them.

    Args:
        files: (path, its tensors); they stay open.
        dtypes: name of a file's tensor -> the type it had before it was written as F32.
        exact: name of a file's shifted tensor -> its values, where adding 1 has lost bits.
        keep: closed with the checkpoint: what holds generated files.
    """

    def __init__(
        self,
        files: Sequence[tuple[Path, Sequence[Piece]]],
        opened: Opened,
        dtypes: Mapping[str, str],
        exact: Mapping[str, np.ndarray],
        keep: ExitStack,
    ) -> None:
        self.opened = opened
        self._exact = exact
        self._keep = keep
        self._pieces: dict[str, tuple[int, Path, Piece]] = {}
        tensors: dict[str, TensorInfo] = {}
        for path, pieces in files:
            fd = _open(path)
            keep.callback(os.close, fd)
            for piece in pieces:
                if piece.name in tensors:
                    raise InvalidCheckpoint(
                        f"`{path}` has two tensors for `{piece.name}`:",
                        "one of them would be lost.",
                        "Convert it again.",
                        tensor=piece.name,
                        path=path,
                    )
                dtype = READABLE[piece.source.type]
                if dtype == "F32":
                    dtype = dtypes.get(piece.source.name, dtype)
                tensors[piece.name] = TensorInfo(piece.name, dtype, piece.shape, path.name)
                self._pieces[piece.name] = fd, path, piece
        self.tensors = dict(sorted(tensors.items()))

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        fd, path, piece = self._pieces[name]
        info = self.tensors[name]
        width = DTYPES[info.dtype].bits // 8
        if not piece.change and piece.source.type == info.dtype:
            _read(fd, path, piece.source.offset + piece.start * width + start, buffer)
            return
        while buffer:
            first = start // width
            last = min(-(-(start + len(buffer)) // width), first + STEP)
            values = self._values(fd, path, piece, first, last).to(torch_dtype(info.dtype))
            raw = _bytes(values)[start - first * width :][: len(buffer)]
            buffer[: len(raw)] = raw
            buffer, start = buffer[len(raw) :], start + len(raw)

    def close(self) -> None:
        self._keep.close()

    def _values(self, fd: int, path: Path, piece: Piece, first: int, last: int) -> torch.Tensor:
        """Elements [first, last) of a tensor, before they are cast."""
        if piece.change != "permuted":
            values = _elements(fd, path, piece, first, last)
            if piece.change != "shifted":
                return values
            return self._unshifted(piece.source.name, values.float(), first, last)
        columns = piece.shape[-1] if len(piece.shape) > 1 else 1
        head = piece.shape[0] // piece.heads * columns
        top, bottom = first // head * head, -(-last // head) * head
        # llama.cpp has the two halves of a head interleaved: (dim / 2, 2) rows for (2, dim / 2).
        read = _elements(fd, path, piece, top, bottom)
        halves = read.view(-1, head // columns // 2, 2, columns).transpose(1, 2)
        return halves.reshape(-1)[first - top : last - top]

    def _unshifted(self, name: str, values: torch.Tensor, first: int, last: int) -> torch.Tensor:
        """The weights that were stored with 1 added; the noted ones if they fit what is stored."""
        import torch

        if name in self._exact:
            noted = torch.from_numpy(self._exact[name][first:last].astype("<f4"))
            if torch.equal(noted + 1, values):
                return noted
        return values - 1


def _elements(fd: int, path: Path, piece: Piece, first: int, last: int) -> torch.Tensor:
    """Elements [first, last) as they lie in the file; float32 for blocks."""
    import torch

    source = piece.source
    first, last = first + piece.start, last + piece.start
    if source.type != "Q8_0":
        width = TYPES[TYPE_NUMBERS[source.type]].size
        raw = bytearray((last - first) * width)
        _read(fd, path, source.offset + first * width, memoryview(raw))
        return torch.frombuffer(raw, dtype=torch_dtype(source.type))
    begin, end = first // BLOCK, -(-last // BLOCK)
    raw = bytearray((end - begin) * BYTES)
    _read(fd, path, source.offset + begin * BYTES, memoryview(raw))
    return values_of(raw)[first - begin * BLOCK : last - begin * BLOCK]


def _read(fd: int, path: Path, offset: int, buffer: memoryview) -> None:
    while buffer:
        try:
            n = os.preadv(fd, [buffer], offset)
        except OSError as error:
            raise InvalidCheckpoint(f"`{path}` cannot be read:", f"{error.strerror}.") from error
        if n == 0:
            raise InvalidCheckpoint(
                f"`{path}` cannot be read:", "it was cut short after it was opened.", path=path
            )
        buffer, offset = buffer[n:], offset + n


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InvalidCheckpoint(f"`{path}` cannot be opened:", f"{error.strerror}.") from error


def _bytes(values: torch.Tensor) -> memoryview:
    import torch

    return values.contiguous().view(torch.uint8).numpy().data
