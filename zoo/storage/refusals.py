"""What the operating system refuses to do, as errors that say what to do instead."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zoo.errors import StoreError

REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "its file system is read-only",
    errno.EACCES: "permission was denied",
    errno.EPERM: "permission was denied",
    errno.EIO: "the disk failed",
}


def refusal(error: OSError, place: str, how: str) -> StoreError | None:
    """The error in our words; None for one that is no matter of disks and permissions."""
    reason = REASONS.get(error.errno or 0)
    if reason is None:
        return None
    return StoreError(
        f"Cannot write to {place}:", f"{reason}.", how, errno=error.errno, path=error.filename
    )


@contextmanager
def writing_beside(target: Path) -> Iterator[None]:
    """Make the directories above `target`, which lies in no store; with an error they vanish again.

    Raises:
        StoreError: `errno` is an attribute; full disk, quota, read-only, no permission, missing.
    """
    above = target.parent
    missing = [p for p in (above, *above.parents) if not p.exists()]
    try:
        above.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        with suppress(OSError):  # it holds what others made meanwhile
            for directory in missing:
                directory.rmdir()
        if not isinstance(error, OSError):
            raise
        told = refusal(error, f"`{above}`", "Free some space, or choose another place.")
        if told is None and error.errno == errno.ENOENT and not above.is_dir():
            told = StoreError(
                f"The directory `{above}` cannot be made.", how="Choose another place.", path=above
            )
        if told is None:
            raise
        raise told from error
