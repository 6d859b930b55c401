"""Give staged files their places, and make them last: many at once.

A disk makes files durable one after another when it is asked one after another, at some
milliseconds each. Asked for many at once, a file system writes its journal once for all of them.
"""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
import stat
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from zoo.storage.links import link

_AT_ONCE = 32
"""Files that the disk is asked to make durable at one time."""


def move_in(files: Iterable[tuple[Path, Path]]) -> None:
    """Make staged files durable, and move each to its place.

    A file replaces what is there already: it was hashed just now, and what is there may be damaged
    since it was. Who has the old one open keeps reading it. But a link never replaces an own copy,
    which somebody asked for: it lends its bytes if they differ.

    Args:
        files: (staged, place); of those for one place, which hold the same, one is moved.
    """
    moves: dict[Path, Path] = {}
    for staged, place in sorted(files, key=lambda file: _own(file[0])):  # own copies win
        moves[place] = staged
    for place, staged in list(moves.items()):
        if _same_file(staged, place):
            del moves[place]
        elif _own(place) and not _own(staged):
            if filecmp.cmp(staged, place, shallow=False):
                del moves[place]
            else:
                moves[place] = _own_copy(staged)
    sync_all(moves.values())
    for folder in {place.parent for place in moves}:
        folder.mkdir(exist_ok=True)
    for place, staged in moves.items():
        staged.rename(place)


def make_last(paths: Iterable[Path]) -> None:
    """Make objects durable under their names, and read-only.

    Also those found in place: who put them there may not have come this far. Their mode changes
    after their name does, so that what is staged can be made again whenever we die.
    """
    folders: set[Path] = set()
    for path in paths:
        _protect(path)
        folders |= {path.parent, path.parent.parent}
    sync_all(folders)


def sync_all(paths: Collection[Path]) -> None:
    """Make files and directories durable."""
    if len(paths) < 2:
        for path in paths:
            sync(path)
        return
    with ThreadPoolExecutor(min(_AT_ONCE, len(paths)), "zoo-sync") as pool:
        for _ in pool.map(sync, paths):
            pass


def sync(path: Path) -> None:
    """Make a file, or a directory's list of names, durable."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _own(path: Path) -> bool:
    """Whether there is a file, and no other name leads to its bytes."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1


def _own_copy(staged: Path) -> Path:
    """A file beside a staged link, with its bytes."""
    copy = staged.with_name(f".{staged.name}.copy")
    if not link(staged, copy, "clone"):
        shutil.copyfile(staged, copy)
    return copy


def _same_file(a: Path, b: Path) -> bool:
    """Whether both lead to one file, as when a stored file itself was registered by link."""
    try:
        return a.samefile(b)
    except FileNotFoundError:
        return False


def _protect(path: Path) -> None:
    """Take away the right to write to a file, unless it is also the user's: a link of any kind."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP:
            return
        raise
    try:
        found = os.fstat(fd)
        if found.st_nlink == 1 and found.st_mode & 0o222:
            with suppress(PermissionError):  # another user of the store made it
                os.fchmod(fd, 0o444)
    finally:
        os.close(fd)
