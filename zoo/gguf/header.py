"""A strict, bounded reader of GGUF headers.

A file is

    "GGUF", version u32, tensors u64, pairs u64
    pairs     key string, type u32, value        a string is its length, u64, and UTF-8
    tensors   name string, axes u32, sizes u64 (fastest first), type u32, offset u64
    padding to `general.alignment`, then the tensors' bytes, each padded alike

all little-endian. The library `gguf` maps the file and believes its counts: a few bytes can make
it ask for terabytes. So headers are read here, every count held against the bytes there are.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from zoo.checkpoints.headers import header_of
from zoo.errors import InvalidCheckpoint
from zoo.names import tensor_name_problem

if TYPE_CHECKING:
    import numpy as np

    Value = bool | int | float | str | list[str] | np.ndarray

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
"""Bytes, where a file says nothing else."""
LONGEST_HEADER = 256 << 20
"""Bytes. The largest tokenizers take 40 MB."""
LONGEST_STRING = 64 << 20
LONGEST_KEY = 65_535
LONGEST_NAME = 1_024
"""Bytes of a tensor's name; llama.cpp stops at 63."""
MOST_PAIRS = 10_000
MOST_TENSORS = 200_000
MOST_ITEMS = 4_000_000
"""Of one array; the largest vocabularies have 262,144 tokens and twice as many merges."""
MOST_AXES = 4
LARGEST_ALIGNMENT = 1 << 20
LARGEST_SIZE = 2**62

STRING, ARRAY, BOOL = 8, 9, 7
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""Type of a value -> how `struct` calls it."""


class GgmlType(NamedTuple):
    """An element type of ggml: `block` elements take `size` bytes."""

    name: str
    block: int
    size: int


TYPES = {
    n: GgmlType(*about)
    for n, about in {
        0: ("F32", 1, 4),
        1: ("F16", 1, 2),
        2: ("Q4_0", 32, 18),
        3: ("Q4_1", 32, 20),
        6: ("Q5_0", 32, 22),
        7: ("Q5_1", 32, 24),
        8: ("Q8_0", 32, 34),
        9: ("Q8_1", 32, 40),
        10: ("Q2_K", 256, 84),
        11: ("Q3_K", 256, 110),
        12: ("Q4_K", 256, 144),
        13: ("Q5_K", 256, 176),
        14: ("Q6_K", 256, 210),
        15: ("Q8_K", 256, 292),
        16: ("IQ2_XXS", 256, 66),
        17: ("IQ2_XS", 256, 74),
        18: ("IQ3_XXS", 256, 98),
        19: ("IQ1_S", 256, 50),
        20: ("IQ4_NL", 32, 18),
        21: ("IQ3_S", 256, 110),
        22: ("IQ2_S", 256, 82),
        23: ("IQ4_XS", 256, 136),
        24: ("I8", 1, 1),
        25: ("I16", 1, 2),
        26: ("I32", 1, 4),
        27: ("I64", 1, 8),
        28: ("F64", 1, 8),
        29: ("IQ1_M", 256, 56),
        30: ("BF16", 1, 2),
        34: ("TQ1_0", 256, 54),
        35: ("TQ2_0", 256, 66),
        39: ("MXFP4", 32, 17),
    }.items()
}
TYPE_NUMBERS = {t.name: n for n, t in TYPES.items()}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor of a file."""

    name: str
    type: str
    shape: tuple[int, ...]
    """As torch has it: the axis that lies together last."""
    offset: int
    """First byte in the file."""

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        kind = TYPES[TYPE_NUMBERS[self.type]]
        return self.elements // kind.block * kind.size


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a file says of itself, checked against its size."""

    version: int
    pairs: dict[str, Value] = field(repr=False)
    tensors: tuple[GgufTensor, ...] = field(repr=False)
    """In file order."""
    alignment: int


def read_gguf_header(path: Path) -> GgufHeader:
    """The checked header of a file.

    Raises:
        InvalidCheckpoint: says what is wrong; `path` and `problem` are attributes.
    """
    return header_of(path, read_gguf_header_from, _refuse)


def read_gguf_header_from(fd: int, path: Path) -> GgufHeader:
    """As `read_gguf_header`, from an open file."""
    at = _Cursor(fd, path)
    if at.take(4) != MAGIC:
        _refuse(path, "it does not begin with `GGUF`")
    version = at.number("I")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        if swapped in VERSIONS:
            _refuse(path, "it is of a big-endian machine, which zoo does not read")
        _refuse(path, f"it is of version {version}; zoo reads 2 and 3")
    tensor_count, pair_count = at.number("Q"), at.number("Q")
    if tensor_count > MOST_TENSORS:
        _refuse(path, f"it claims {tensor_count:,} tensors; {MOST_TENSORS:,} is the most allowed")
    if pair_count > MOST_PAIRS:
        _refuse(path, f"it claims {pair_count:,} pairs; {MOST_PAIRS:,} is the most allowed")
    pairs: dict[str, Value] = {}
    for _ in range(pair_count):
        key = at.string(LONGEST_KEY)
        if key in pairs:
            _refuse(path, f"key {key[:80]!a} appears twice")
        pairs[key] = _value(at, at.number("I"), key)
    alignment = pairs.get("general.alignment", ALIGNMENT)
    if (
        type(alignment) is not int
        or not 0 < alignment <= LARGEST_ALIGNMENT
        or alignment & (alignment - 1)
    ):
        _refuse(path, f"its alignment cannot be {str(alignment)[:80]}")
    described = [_tensor(at) for _ in range(tensor_count)]
    start = _aligned(at.position, alignment)
    tensors = _placed(described, start, alignment, at.size, path)
    return GgufHeader(version, pairs, tensors, alignment)


def _tensor(at: _Cursor) -> tuple[str, str, tuple[int, ...], int]:
    """(name, type, shape, offset from the first tensor) as written."""
    name = at.string(LONGEST_NAME)
    if problem := tensor_name_problem(name):
        _refuse(at.path, f"tensor {name!a} has a name it cannot have: {problem}")
    axes = at.number("I")
    if axes > MOST_AXES:
        _refuse(at.path, f"tensor `{name}` has {axes:,} axes; {MOST_AXES} is the most allowed")
    shape = tuple(reversed([at.number("Q") for _ in range(axes)]))
    number, offset = at.number("I"), at.number("Q")
    if number not in TYPES:
        _refuse(at.path, f"tensor `{name}` is of type {number}, which zoo does not know")
    return name, TYPES[number].name, shape, offset


def _placed(
    described: list[tuple[str, str, tuple[int, ...], int]],
    start: int,
    alignment: int,
    size: int,
    path: Path,
) -> tuple[GgufTensor, ...]:
    """The tensors where they lie: one after another, padded, inside the file, as llama.cpp has it.

    Padding may be lacking after the last.
    """
    found: list[GgufTensor] = []
    names: set[str] = set()
    end = start
    for name, kind, shape, offset in sorted(described, key=lambda d: (d[3], d[0])):
        tensor = GgufTensor(name, kind, shape, start + offset)
        block = TYPES[TYPE_NUMBERS[kind]].block
        if any(n > LARGEST_SIZE for n in shape) or tensor.elements > LARGEST_SIZE:
            _refuse(path, f"tensor `{name}` has no possible shape: {list(shape)}")
        if (shape[-1] if shape else 1) % block:
            _refuse(path, f"rows of tensor `{name}` ({kind}) do not fill blocks of {block}")
        if name in names:
            _refuse(path, f"tensor `{name}` is there twice")
        names.add(name)
        if tensor.offset != end:
            kind_of = "overlaps what is before it" if tensor.offset < end else "leaves a hole"
            _refuse(path, f"tensor `{name}` {kind_of} (byte {tensor.offset}, expected {end})")
        if tensor.offset + tensor.nbytes > size:
            _refuse(
                path,
                f"it is cut short: {size:,} bytes, but tensor `{name}` ends at byte "
                f"{tensor.offset + tensor.nbytes:,}",
            )
        end = _aligned(tensor.offset + tensor.nbytes, alignment)
        found.append(tensor)
    return tuple(found)


def _value(at: _Cursor, kind: int, key: str) -> Value:
    if kind == STRING:
        return at.string(LONGEST_STRING)
    if kind in _SCALARS:
        found: int | float | bool = struct.unpack("<" + _SCALARS[kind], at.take(_width(kind)))[0]
        return found
    if kind != ARRAY:
        _refuse(at.path, f"the value of {key[:80]!a} is of type {kind}, which does not exist")
    items, count = at.number("I"), at.number("Q")
    if count > MOST_ITEMS:
        _refuse(at.path, f"{key[:80]!a} claims {count:,} items; {MOST_ITEMS:,} is the most allowed")
    if items == STRING:
        at.check_room(8 * count)
        return [at.string(LONGEST_STRING) for _ in range(count)]
    if items not in _SCALARS:
        _refuse(at.path, f"the items of {key[:80]!a} are of type {items}, which arrays cannot hold")
    import numpy as np

    raw = at.take(_width(items) * count)
    return np.frombuffer(raw, dtype=np.dtype(_SCALARS[items]).newbyteorder("<"))


def _width(kind: int) -> int:
    return struct.calcsize("<" + _SCALARS[kind])


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


class _Cursor:
    """Takes bytes from a file, in order, never more than a header may have."""

    def __init__(self, fd: int, path: Path) -> None:
        self.path = path
        self.size = os.fstat(fd).st_size
        self.position = 0
        self._fd = fd
        self._block = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        self.check_room(count)
        if len(self._block) - self._at < count:
            self._fill(count)
        found = self._block[self._at : self._at + count]
        self._at += count
        self.position += count
        return found

    def number(self, kind: str) -> int:
        found: int = struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind)))[0]
        return found

    def string(self, longest: int) -> str:
        length = self.number("Q")
        if length > longest:
            _refuse(self.path, f"a text claims {length:,} bytes; {longest:,} is the most allowed")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            _refuse(self.path, f"the text before byte {self.position:,} is not UTF-8")

    def check_room(self, count: int) -> None:
        """Refuse what the file cannot hold, before any memory is asked for."""
        if self.position + count > self.size:
            _refuse(self.path, f"it has {self.size:,} bytes, and its header goes on")
        if self.position + count > LONGEST_HEADER:
            _refuse(self.path, f"its header has over {LONGEST_HEADER:,} bytes")

    def _fill(self, count: int) -> None:
        parts = [self._block[self._at :]]
        have = len(parts[0])
        while have < count:
            part = os.pread(self._fd, max(count - have, 1 << 20), self.position + have)
            if not part:
                _refuse(self.path, "it ended while it was read")
            parts.append(part)
            have += len(part)
        self._block, self._at = b"".join(parts), 0


def _refuse(path: Path, problem: str) -> NoReturn:
    raise InvalidCheckpoint(
        f"`{path}` is no valid GGUF file:",
        f"{problem}.",
        "Download or convert it again.",
        path=path,
        problem=problem,
    )
