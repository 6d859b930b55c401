"""File locks between processes and threads. They die with their holder: no stale locks, ever.

`flock` locks belong to an open file, and each call here opens its own, so two threads of one
process exclude each other as two processes do.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Turnstile:
    """A shared and an exclusive lock that cannot starve each other.

    Plain `flock` lets a stream of sharers keep an exclusive waiter out for ever. Here everybody
    passes a gate first, and the exclusive waiter stands in the gate.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._gate = path.with_name(path.name + ".gate")

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Waits while somebody holds, or waits for, the exclusive lock."""
        with _open(self._path) as fd:
            with _open(self._gate) as gate:
                fcntl.flock(gate, fcntl.LOCK_SH)
                fcntl.flock(fd, fcntl.LOCK_SH)
            yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Waits for all sharers to leave, and keeps new ones out meanwhile."""
        with _open(self._gate) as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            with _open(self._path) as fd:
                fcntl.flock(fd, fcntl.LOCK_EX)
                yield


def try_lock(fd: int) -> bool:
    """Take the exclusive lock of an open file; False when somebody has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _open(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        yield fd
    finally:
        os.close(fd)
