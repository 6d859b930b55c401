"""Hash tensors and files on many threads, each byte read once into buffers that are reused."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

from zoo.checkpoint import Checkpoint, TensorInfo
from zoo.digest import BLOCK, PREFIX, tensor_hasher
from zoo.errors import InvalidCheckpoint
from zoo.progress import NoProgress, Progress

SMALL = 32 << 10
"""Bytes that the caller hashes itself: to hand them to another thread would take longer."""
T = TypeVar("T")


class HashPool:
    """Threads that hash, and on request write what they hash: the bytes hashed are the bytes kept.

    hashlib lets go of the interpreter lock for large blocks, so the threads run at once. Memory is
    one block of 4 MiB per thread, for tensors of any size.
    """

    def __init__(self, threads: int | None = None, progress: Progress | None = None) -> None:
        self._threads = threads
        self._local = threading.local()
        self._progress = progress or NoProgress()

    def __enter__(self) -> HashPool:
        return self

    def __exit__(self, *exc: object) -> None:
        if "_pool" in self.__dict__:
            self._pool.shutdown(wait=True, cancel_futures=True)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads or min(16, os.cpu_count() or 1), "zoo-hash")

    def tensor(
        self, checkpoint: Checkpoint, info: TensorInfo, sink: int | None = None, offset: int = 0
    ) -> Future[str]:
        """The tensor's digest; with `sink`, an open file, its bytes are written there too.

        Args:
            offset: where in `sink` the tensor begins, in bytes.
        """
        if info.nbytes <= SMALL:
            return _done(self._tensor, checkpoint, info, sink, offset)
        return self._pool.submit(self._tensor, checkpoint, info, sink, offset)

    def file(self, source: Path, target: Path | None = None) -> Future[tuple[str, int]]:
        """A file's flat key and its bytes; with `target`, copied there in the same pass."""
        with suppress(OSError):  # said when it is opened
            if source.stat().st_size <= SMALL:
                return _done(self._file, source, target)
        return self._pool.submit(self._file, source, target)

    def _tensor(
        self, checkpoint: Checkpoint, info: TensorInfo, sink: int | None, offset: int
    ) -> str:
        h = tensor_hasher(info.dtype, info.shape)
        buffer = self._buffer(info.nbytes)
        for start in range(0, info.nbytes, BLOCK):
            block = buffer[: min(BLOCK, info.nbytes - start)]
            checkpoint.read_into(info.name, start, block)
            h.update(block)
            if sink is not None:
                write_at(sink, block, offset + start)
            self._progress.advance(len(block))
        return PREFIX + h.hexdigest()

    def _file(self, source: Path, target: Path | None) -> tuple[str, int]:
        h = hashlib.sha256()
        size = 0
        sink = None
        if target is not None:
            sink = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with _open(source) as file:
                buffer = self._buffer(os.fstat(file.fileno()).st_size)
                while n := _read(file.fileno(), buffer, source):
                    h.update(buffer[:n])
                    if sink is not None:
                        write_at(sink, buffer[:n], size)
                    size += n
                    self._progress.advance(n)
        finally:
            if sink is not None:
                os.close(sink)
        return "flat:" + h.hexdigest(), size

    def _buffer(self, wanted: int) -> memoryview:
        """This thread's own: a block, or less where all is small."""
        buffer: memoryview | None = getattr(self._local, "buffer", None)
        if buffer is None or len(buffer) < min(wanted, BLOCK):
            size = SMALL if wanted <= SMALL else BLOCK
            buffer = self._local.buffer = memoryview(bytearray(size))
        return buffer


def _done(call: Callable[..., T], *arguments: Any) -> Future[T]:
    """A call's outcome, at once."""
    future: Future[T] = Future()
    try:
        future.set_result(call(*arguments))
    except Exception as error:
        future.set_exception(error)
    return future


def write_at(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of the bytes at an offset; the kernel may take them in parts."""
    view = memoryview(data)
    while view:
        n = os.pwrite(fd, view, offset)
        view = view[n:]
        offset += n


def _open(path: Path) -> FileIO:
    try:
        return path.open("rb", buffering=0)
    except OSError as error:
        raise _unreadable(path, error) from error


def _read(fd: int, buffer: memoryview, path: Path) -> int:
    try:
        return os.readv(fd, [buffer])
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> InvalidCheckpoint:
    return InvalidCheckpoint(f"`{path}` cannot be read:", f"{error.strerror}.", path=path)
