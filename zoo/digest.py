"""Names for bytes: sha256 of tensors, of whole sets of weights, of files and of plain data.

    tensor digest    sha256:HEX   over (dtype, shape, raw little-endian bytes)
    weights digest   sha256:HEX   over the sorted (tensor name, tensor digest) pairs
    tree key         tree:HEX     over a safetensors header and its tensors' digests
    flat key         flat:HEX     plain sha256 of a file's bytes
    json digest      sha256:HEX   over canonical JSON

Every preimage begins with its own tag and length-prefixes what varies, so that no two different
inputs, of one kind or of two, are ever hashed as the same bytes. These encodings are part of the
on-disk format: changing one orphans every zoo in existence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hashlib import _Hash

PREFIX = "sha256:"
BLOCK = 4 << 20
"""Bytes read at a time: large enough that hashlib releases the GIL for nearly all the work."""


def tensor_hasher(dtype: str, shape: Sequence[int]) -> _Hash:
    """A hash to feed a tensor's raw little-endian bytes; its digest is the tensor's identity."""
    extent = ",".join(map(str, shape))
    return hashlib.sha256(f"zoo.tensor.1\0{dtype}\0{extent}\0".encode())


def tensor_digest(dtype: str, shape: Sequence[int], data: bytes | memoryview) -> str:
    """Digest of a tensor whose bytes are at hand."""
    h = tensor_hasher(dtype, shape)
    h.update(data)
    return PREFIX + h.hexdigest()


def weights_digest(pairs: Iterable[tuple[str, str]]) -> str:
    """Identity of a set of weights, whatever files they lie in and in whatever order.

    Args:
        pairs: (tensor name, tensor digest).
    """
    h = hashlib.sha256(b"zoo.weights.1\0")
    for name, digest in sorted(pairs):
        encoded = name.encode()
        h.update(len(encoded).to_bytes(8, "little") + encoded + _raw(digest))
    return PREFIX + h.hexdigest()


def tree_key(header: bytes, digests: Sequence[str]) -> str:
    """Object key of a safetensors file, from hashes a merge has made anyway.

    The header pins every byte range and the digests pin what fills them, and a strict header
    leaves no byte uncovered: so the key pins the file, though no byte was hashed twice.

    Args:
        header: the first 8 + N bytes of the file.
        digests: tensor digests in file order (ascending offset).
    """
    h = hashlib.sha256(b"zoo.tree.1\0" + len(header).to_bytes(8, "little") + header)
    for digest in digests:
        h.update(_raw(digest))
    return "tree:" + h.hexdigest()


def flat_key(data: bytes | memoryview) -> str:
    """Object key of a small file at hand."""
    return "flat:" + hashlib.sha256(data).hexdigest()


def flat_key_of_file(path: Path) -> str:
    """Object key of a file of any size, read in blocks."""
    h = hashlib.sha256()
    buffer = memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as file:
        while n := file.readinto(buffer):
            h.update(buffer[:n])
    return "flat:" + h.hexdigest()


def canonical_json(value: Any) -> bytes:
    """One spelling per value: sorted keys, no spaces, UTF-8; NaN and infinities refused."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def json_digest(value: Any) -> str:
    """Digest of plain data: recipes, audit rows."""
    return PREFIX + hashlib.sha256(canonical_json(value)).hexdigest()


def _raw(digest: str) -> bytes:
    return bytes.fromhex(digest.removeprefix(PREFIX))
