"""A strict, bounded reader and a byte-stable writer of safetensors headers. No torch.

A file is 8 bytes (little-endian length N), N bytes of JSON, then the tensors' bytes:

    {"__metadata__": {"k": "v"}, "name": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}

We refuse what the library lets through or leaves open (duplicate keys, holes), because a tree
key pins a file only if the header accounts for every byte once. We write our own headers because
the library's bytes vary with two or more metadata keys.

Source: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from zoo.checkpoint import TensorInfo
from zoo.checkpoints.headers import header_of
from zoo.dtypes import DTYPES
from zoo.errors import InvalidCheckpoint
from zoo.names import tensor_name_problem

LONGEST_HEADER = 100_000_000
"""Bytes; the library's own limit."""
MOST_TENSORS = 200_000
"""In one file; the largest models have half as many in all their files together."""
MOST_VALUES = 2_000_000
"""In one JSON text, counted by its commas. A parsed value takes up to 350 bytes."""
MOST_DIMENSIONS = 64
"""torch and numpy stop here."""
LARGEST_INTEGER = 2**63 - 1
SHARD_BYTES = 5_000_000_000
DEFAULT_METADATA: Mapping[str, str] = MappingProxyType({"format": "pt"})
"""transformers refuses files that do not say which framework wrote them."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says about itself, checked against its size."""

    metadata: dict[str, str]
    tensors: tuple[TensorInfo, ...]
    """In file order; offsets count from the start of the file; `file` is empty."""
    raw: bytes
    """The first 8 + N bytes of the file, exactly."""
    size: int
    """Bytes of the whole file."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a file we write will have its tensors."""

    header: bytes
    tensors: tuple[TensorInfo, ...]
    """In file order, with absolute offsets."""
    size: int


def read_header(path: Path) -> Header:
    """The checked header of a file.

    Raises:
        InvalidCheckpoint: says what is wrong; `path` and `problem` are attributes.
    """
    return header_of(path, read_header_from, _refuse)


def read_header_from(fd: int, path: Path) -> Header:
    """As `read_header`, from an open file, so that nobody can swap the file in between."""
    try:
        size = os.fstat(fd).st_size
        prefix = os.pread(fd, 8, 0)
        if len(prefix) < 8:
            _refuse(path, f"it has {size} bytes, too few for a header")
        length = int.from_bytes(prefix, "little")
        if length > LONGEST_HEADER:
            _refuse(path, f"its header claims {length} bytes; {LONGEST_HEADER} is the most allowed")
        if 8 + length > size:
            _refuse(path, f"its header claims {length} bytes, but the file has only {size}")
        raw = prefix + _read_exactly(fd, length, 8, path)
    except OSError as error:
        _refuse(path, f"it cannot be read ({error.strerror})")
    return parse_header(raw, size, path)


def parse_header(raw: bytes, size: int, path: Path) -> Header:
    """Check the header of a file of `size` bytes; `path` is for messages only."""
    _check_count(raw, path)
    content = _parse_json(raw[8:], path)
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        _refuse(path, "its `__metadata__` is not a map from text to text")
    tensors = tuple(
        sorted(
            (_parse_tensor(name, entry, len(raw), path) for name, entry in content.items()),
            key=_place,
        )
    )
    end = len(raw)
    for tensor in tensors:
        if tensor.offset != end:
            kind = "overlap the bytes before" if tensor.offset < end else "leave a hole before"
            _refuse(path, f"tensors {kind} `{tensor.name}` (byte {tensor.offset}, expected {end})")
        end += tensor.nbytes
    if end > size:
        _refuse(path, f"it is cut short: {size} bytes, but its header describes {end}")
    if end < size:
        _refuse(path, f"it has {size - end} bytes after its last tensor")
    return Header(metadata, tensors, raw, size)


def layout(tensors: Sequence[TensorInfo], metadata: Mapping[str, str] = DEFAULT_METADATA) -> Layout:
    """Lay out one file: widest types first, then by name, so that every tensor is aligned.

    The header's keys are sorted and it is padded with spaces to 8 bytes: same tensors, same bytes,
    whatever order they come in.
    """
    ordered = sorted(tensors, key=lambda t: (-DTYPES[t.dtype].bits, t.name))
    content: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for t in ordered:
        if (problem := tensor_name_problem(t.name)) or t.name in content:
            raise InvalidCheckpoint(
                f"Cannot write a tensor named {t.name!a}:", problem or "the name is there twice."
            )
        content[t.name] = {
            "dtype": t.dtype,
            "shape": list(t.shape),
            "data_offsets": [start, start + t.nbytes],
        }
        start += t.nbytes
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    placed = [replace(t, offset=len(header) + content[t.name]["data_offsets"][0]) for t in ordered]
    return Layout(header, tuple(sorted(placed, key=_place)), len(header) + start)


def shards(
    tensors: Sequence[TensorInfo], limit: int = SHARD_BYTES, stem: str = "model"
) -> dict[str, list[TensorInfo]]:
    """Deal tensors, names ascending, to files of at most `limit` bytes of tensors each.

    A tensor larger than the limit has a file of its own. Returns file name -> its tensors, with
    `file` set; file names as Hugging Face has them.
    """
    groups: list[list[TensorInfo]] = [[]]
    filled = 0
    for t in sorted(tensors, key=lambda t: t.name):
        if groups[-1] and filled + t.nbytes > limit:
            groups.append([])
            filled = 0
        groups[-1].append(t)
        filled += t.nbytes
    count = len(groups)
    names = (
        [f"{stem}.safetensors"]
        if count == 1
        else [f"{stem}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    )
    return {
        name: [replace(t, file=name) for t in group]
        for name, group in zip(names, groups, strict=True)
    }


def index(shards: Mapping[str, Sequence[TensorInfo]]) -> bytes:
    """`model.safetensors.index.json` of sharded weights; same shards, same bytes."""
    content = {
        "metadata": {"total_size": sum(t.nbytes for group in shards.values() for t in group)},
        "weight_map": {t.name: file for file, group in shards.items() for t in group},
    }
    return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def parse_strict_json(data: bytes, path: Path, kind: str = "JSON file") -> Any:
    """JSON from a file nobody vouches for: no duplicate keys, no NaN, no absurd numbers.

    Args:
        kind: what the file is meant to be; for messages.
    Raises:
        InvalidCheckpoint: also for more values, or deeper nesting, than any model has.
    """
    if data.count(b",") > MOST_VALUES:
        _refuse(path, f"its JSON has over {MOST_VALUES:,} values", kind)
    try:
        return json.loads(
            data.decode(),
            object_pairs_hook=_unique,
            parse_int=_bounded_int,
            parse_constant=_no_constant,
        )
    except RecursionError:
        _refuse(path, "its JSON is nested absurdly deep", kind)
    except UnicodeDecodeError as error:
        _refuse(path, f"its JSON is not UTF-8 (byte {error.start})", kind)
    except ValueError as error:
        _refuse(path, f"its JSON is not valid: {error}", kind)


def _place(tensor: TensorInfo) -> tuple[int, int, str]:
    """File order, which empty tensors would otherwise leave open."""
    return tensor.offset, tensor.nbytes, tensor.name


def _check_count(raw: bytes, path: Path) -> None:
    """Each tensor opens a brace. To count them costs nothing; to take one in, 3 kB."""
    most = MOST_TENSORS + 2  # the header itself, `__metadata__`
    if raw.count(b"{", 8) > most:
        _refuse(path, f"its header describes over {MOST_TENSORS:,} tensors")


def _parse_json(data: bytes, path: Path) -> dict[str, Any]:
    if not data.startswith(b"{"):
        _refuse(path, "its header does not begin with `{`")
    content: dict[str, Any] = parse_strict_json(data, path, "safetensors file")
    return content


def _parse_tensor(name: str, entry: Any, base: int, path: Path) -> TensorInfo:
    if problem := tensor_name_problem(name):
        _refuse(path, f"tensor {name!a} has a name it cannot have: {problem}")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse(path, f"tensor `{name}` is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        _refuse(path, f"tensor `{name}` has unknown dtype {dtype!a}")
    if not _whole_numbers(shape) or len(shape) > MOST_DIMENSIONS:
        _refuse(path, f"tensor `{name}` has no possible shape: {_short(shape)}")
    if not _whole_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _refuse(path, f"tensor `{name}` has no possible data_offsets: {_short(offsets)}")
    info = TensorInfo(name, dtype, tuple(shape), offset=base + offsets[0])
    if info.elements * DTYPES[dtype].bits % 8:
        _refuse(path, f"tensor `{name}` ({dtype}) does not fill whole bytes")
    if offsets[1] - offsets[0] != info.nbytes:
        _refuse(
            path,
            f"tensor `{name}` takes {offsets[1] - offsets[0]} bytes by its offsets, but "
            f"{info.nbytes} by its dtype {dtype} and shape {_short(shape)}",
        )
    return info


def _whole_numbers(value: Any) -> bool:
    """Whether it is a list of integers from 0 up; True and 1.0 are not integers here."""
    return isinstance(value, list) and all(
        type(n) is int and 0 <= n <= LARGEST_INTEGER for n in value
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice[:80]!a} appears twice")
    return found


def _bounded_int(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def _read_exactly(fd: int, count: int, offset: int, path: Path) -> bytes:
    parts = []
    while count:
        part = os.pread(fd, count, offset)
        if not part:
            _refuse(path, "it ended while it was read")
        parts.append(part)
        count -= len(part)
        offset += len(part)
    return b"".join(parts)


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _refuse(path: Path, problem: str, kind: str = "safetensors file") -> NoReturn:
    raise InvalidCheckpoint(
        f"`{path}` is no valid {kind}:",
        f"{problem}.",
        "Download or save it again.",
        path=path,
        problem=problem,
    )
