"""A directory outside the store that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zoo.errors import InvalidRecipe, StoreError
from zoo.names import check_entry_name
from zoo.storage.locks import try_lock
from zoo.storage.refusals import writing_beside


def check_target(target: Path) -> Path:
    """The absolute path of a directory that can be made, or exists and is empty.

    Raises:
        StoreError: it is taken, or lies where nothing can be written.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100  (resolve() would follow a link)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StoreError(
            f"`{target}` exists and is not an empty directory.",
            how="Choose another place, or remove it.",
            path=str(target),
        )
    above = next(p for p in target.parents if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise StoreError(
            f"`{target}` cannot be made:",
            f"`{above}` is no directory that you may write to.",
            "Choose another place.",
            path=str(target),
        )
    return target


def check_result(name: str | None, out: Path | None) -> Path | None:
    """The absolute path of `out`, where a result that is named, or written there, can be had.

    Raises:
        InvalidRecipe: it is neither named nor written anywhere.
        InvalidName, StoreError
    """
    if name is None and out is None:
        raise InvalidRecipe("Name the result, or say where to write it.")
    if name is not None:
        check_entry_name(name)
    return None if out is None else check_target(out)


@contextmanager
def becoming(target: Path) -> Iterator[Path]:
    """A directory beside `target`, ours alone, that takes its name when the block ends well.

    An error removes it. A killed process leaves it, for the next call to go on with or to clear.

    Raises:
        StoreError: another process is making the same directory.
    """
    target = check_target(target)
    partial = target.parent / f".{target.name}.partial"
    with writing_beside(target):
        lock = hold(partial, target)
        try:
            yield partial
            if target.exists():
                target.rmdir()
            partial.rename(target)
        except Exception:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        finally:
            os.close(lock)


def hold(partial: Path, target: Path) -> int:
    """Make the directory and lock it, until the descriptor is closed. The lock is on the directory
    itself, so it goes along when the directory is renamed; afterwards we make sure that it is still
    the one with this name.

    Raises:
        StoreError: another process has it.
    """
    while True:
        partial.mkdir(exist_ok=True)
        try:
            fd = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        if not try_lock(fd):
            os.close(fd)
            raise StoreError(
                f"Another process is writing `{target}`.",
                "Both would take the same name.",
                "Wait for it, or choose another place.",
                path=str(target),
            )
        try:
            if os.path.samestat(os.fstat(fd), partial.stat()):
                return fd
        except FileNotFoundError:
            pass
        os.close(fd)
