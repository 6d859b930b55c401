"""How a file's bytes come into the store without being written twice, in uv's words."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Literal, get_args

from zoo.errors import StoreError

LinkMode = Literal["clone", "copy", "hardlink", "symlink", "share"]
LINK_MODES: tuple[str, ...] = get_args(LinkMode)

_FICLONE = 0x40049409
"""Linux: share the blocks of another file, copy on write (btrfs, XFS, bcachefs)."""

_SMALL = 16 << 10
"""Bytes of a file that is copied sooner than the file system is asked to share its blocks."""


def link(source: Path, target: Path, mode: LinkMode) -> bool:
    """Make `target` hold the bytes of `source`; True when it does, False when they must be copied.

        clone      own copy sharing blocks; False where the file system cannot
        copy       always False
        hardlink   the same file under a second name: editing the source edits the store
        symlink    a pointer: editing, moving or deleting the source damages the store
        share      hardlink where that can be, else clone: for caches, whose files nobody edits

    Raises:
        StoreError: a hardlink across file systems.
    """
    source = source.resolve()
    if mode == "symlink":
        target.symlink_to(source)
        return True
    if mode in ("hardlink", "share"):
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
                raise
            if mode == "share":
                return _clone(source, target)
            raise StoreError(
                f"`{source}` cannot be hard-linked into the store:",
                f"{error.strerror}.",
                "Use `--link-mode clone`, which copies where it must.",
                path=source,
            ) from error
        return True
    return mode == "clone" and _clone(source, target)


def _clone(source: Path, target: Path) -> bool:
    if source.stat().st_size <= _SMALL:
        return False
    with source.open("rb") as reader, target.open("xb") as writer:
        try:
            fcntl.ioctl(writer, _FICLONE, reader.fileno())
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            target.unlink()
            return False
    return True
