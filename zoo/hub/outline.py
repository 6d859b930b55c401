"""The outline of a model on a hub: small files whole, weights files by their headers.

A weights file becomes a sparse file of its true size, whose content is its header and nothing. What
is read over the network is bounded, whatever sizes and headers the other side claims.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NoReturn

from zoo.checkpoints.safetensors_header import LONGEST_HEADER, MOST_TENSORS
from zoo.errors import InvalidCheckpoint, StoreError
from zoo.hub.chosen import Chosen
from zoo.hub.listing import HubFile, Revision
from zoo.hub.transport import Transport

SMALL = 100_000_000
"""Bytes of one file that are read whole; what parses such files refuses larger ones."""
SMALL_IN_ALL = 300_000_000
"""Bytes of all files that are read whole: a large tokenizer has 40 MB."""
HEADERS_IN_ALL = LONGEST_HEADER
"""Bytes of all headers. Those of a model of 700 B parameters in 163 files have 12 MB."""
TEXTS = {
    *(".json", ".txt", ".md", ".model", ".jinja", ".yaml", ".yml", ".py", ".toml", ".merges"),
    *(".spm", ".tiktoken", ".vocab", ""),
}
"""What is read before a merge, by its ending. Other files beside the weights are left empty."""
LENGTH = 8
"""Bytes at the beginning of a safetensors file that say how long its header is."""
AT_ONCE = 8
"""Headers that are asked for at a time."""
GGUF_FIRST = 48_000_000
"""Bytes of the beginning of a GGUF file: its vocabulary is in there, and no length says so."""


def write_outline(
    transport: Transport, revision: Revision, chosen: Chosen, folder: Path
) -> dict[str, bytes]:
    """Write the outline of the chosen files into an empty folder.

    Returns:
        the small files' contents, by path.
    Raises:
        InvalidCheckpoint: claims that no model makes.
        NotFound, StoreError
    """
    small = {p: f for p, f in chosen.beside.items() if _is_text(p) and f.size <= SMALL}
    total = sum(f.size for f in small.values())
    if total > SMALL_IN_ALL:
        _refuse(revision, f"files beside the weights have {total:,} bytes together")
    contents = {p: read_whole(transport, revision, f) for p, f in sorted(small.items())}
    for path, file in chosen.beside.items():
        _sparse(folder / path, contents.get(path, b""), file.size)
    if not chosen.pickled:
        for path, header in _headers(transport, revision, chosen.weights).items():
            _sparse(folder / path, header, chosen.weights[path].size)
    return contents


def read_whole(transport: Transport, revision: Revision, file: HubFile) -> bytes:
    """The content of a small file, checked against its hash.

    Raises:
        InvalidCheckpoint: it is not what was listed, or larger than any small file.
    """
    from zoo.hub.blobs import matches

    if file.size > SMALL:
        _refuse(revision, f"`{file.path}` has {file.size:,} bytes")
    data = transport.part(revision.url(file.path), 0, file.size + 1, revision.commit)
    if not matches(data, file):
        _refuse(revision, f"`{file.path}` is not the file that is listed")
    return data


def read_index(transport: Transport, revision: Revision, file: HubFile) -> set[str]:
    """The files that an index names."""
    try:
        found = json.loads(read_whole(transport, revision, file))
    except (ValueError, RecursionError):
        found = None
    named = found.get("weight_map") if isinstance(found, Mapping) else None
    if not isinstance(named, Mapping) or not all(isinstance(n, str) for n in named.values()):
        _refuse(revision, f"`{file.path}` is no index")
    return set(named.values())


def _headers(
    transport: Transport, revision: Revision, weights: Mapping[str, HubFile]
) -> dict[str, bytes]:
    """The first bytes of each weights file, up to where its tensors begin."""

    def first(file: HubFile) -> bytes:
        """The length of the header, which is all that a file without one can be asked for."""
        return _part(transport, revision, file, b"", min(file.size, LENGTH))

    def rest(file: HubFile, have: bytes) -> bytes:
        return _part(transport, revision, file, have, _end(revision, file, have))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        firsts = list(pool.map(first, weights.values()))
        ends = [_end(revision, f, d) for f, d in zip(weights.values(), firsts, strict=True)]
        if sum(ends) > HEADERS_IN_ALL:
            _refuse(revision, f"its headers claim {sum(ends):,} bytes")
        found = list(pool.map(rest, weights.values(), firsts))
    tensors = sum(
        data.count(b"{")
        for path, data in zip(weights, found, strict=True)
        if path.endswith(".safetensors")
    )
    if tensors > MOST_TENSORS + 2 * len(weights):
        _refuse(revision, f"its headers describe over {MOST_TENSORS:,} tensors")
    return dict(zip(weights, found, strict=True))


def _end(revision: Revision, file: HubFile, first: bytes) -> int:
    """Where the tensors of a file begin, by its first bytes, in bytes."""
    if file.path.endswith(".gguf"):
        return min(file.size, GGUF_FIRST)
    length = LENGTH + int.from_bytes(first, "little") if len(first) == LENGTH else len(first)
    if length > file.size:
        _refuse(
            revision,
            f"the header of `{file.path}` claims {length:,} bytes, and the file has {file.size:,}",
        )
    return length


def _part(transport: Transport, revision: Revision, file: HubFile, have: bytes, stop: int) -> bytes:
    """The bytes of a file up to `stop`, of which some are here."""
    url = revision.url(file.path)
    if len(have) < stop:
        have += transport.part(url, len(have), stop, revision.commit)
    if len(have) < stop:
        _refuse(revision, f"`{file.path}` is shorter than it is listed")
    return have


def _sparse(path: Path, content: bytes, size: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(content)
            os.ftruncate(file.fileno(), size)
    except OSError as error:
        raise StoreError(
            f"No outline of `{PurePosixPath(path.name)}` can be made:",
            f"{error.strerror}, for {size:,} bytes that the hub says it has.",
            "Set TMPDIR to a file system that keeps sparse files.",
            size=size,
        ) from error


def _is_text(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in TEXTS


def _refuse(revision: Revision, problem: str) -> NoReturn:
    raise InvalidCheckpoint(
        f"`{revision.pinned}` is no model that can be used:",
        f"{problem}.",
        "Nothing was downloaded.",
        source=revision.pinned,
        problem=problem,
    )
