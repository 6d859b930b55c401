"""Opening a file to read its header, and nothing that only looks like a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

T = TypeVar("T")


def header_of(
    path: Path, read: Callable[[int, Path], T], refuse: Callable[[Path, str], NoReturn]
) -> T:
    """What `read` makes of an open descriptor, which is closed afterwards.

    Args:
        refuse: called where the file cannot be opened; does not wait for a pipe's other end.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        refuse(path, f"it cannot be opened ({error.strerror})")
    try:
        return read(fd, path)
    finally:
        os.close(fd)
