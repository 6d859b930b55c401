"""Files that may be compressed with gzip, by what they begin with."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from zoo.errors import InvalidTask

DENSEST = 1032
"""Deflate makes no more than so many bytes of one."""


@contextmanager
def opened(file: Path) -> Iterator[tuple[BinaryIO, int]]:
    """The file's bytes, decompressed, and how many there are at most.

    Raises:
        OSError: it cannot be read.
        InvalidTask: what is compressed is damaged; raised from within the `with` block too.
    """
    size = file.stat().st_size
    with file.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if not packed:
            yield raw, size
            return
        try:
            with gzip.open(raw) as stream:
                yield cast(BinaryIO, stream), size * DENSEST
        except (EOFError, zlib.error, gzip.BadGzipFile) as e:
            raise InvalidTask(
                f"`{file}` is damaged: {str(e).rstrip('.')}.", how="Get it again.", path=str(file)
            ) from e
