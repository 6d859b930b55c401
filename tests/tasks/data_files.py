"""Writers of small data files, independent of the readers."""

from __future__ import annotations

import gzip
import struct
from math import prod
from pathlib import Path

IDX = {"B": 8, "b": 9, "h": 11, "i": 12, "f": 13, "d": 14}
"""Letter of `struct` -> type of IDX."""


def idx(shape, values, letter="B"):
    """The bytes of an IDX file."""
    head = struct.pack(f">BBBB{len(shape)}I", 0, 0, IDX[letter], len(shape), *shape)
    return head + struct.pack(f">{len(values)}{letter}", *values)


def idx_pair(directory: Path, inputs=None, targets=(0, 1, 1), compress=False):
    """Three images of 2 x 2 pixels with their labels; the declaration of a task of them."""
    shape, values = (len(targets), 2, 2), range(4 * len(targets))
    pixels = idx(shape, list(values)) if inputs is None else inputs
    assert len(range(4 * len(targets))) == prod(shape)
    for name, data in (("x", pixels), ("y", idx((len(targets),), list(targets)))):
        (directory / name).write_bytes(gzip.compress(data) if compress else data)
    return {
        "name": "small",
        "format": "idx",
        "path": str(directory),
        "splits": {"test": {"inputs": "x", "targets": "y"}},
    }
