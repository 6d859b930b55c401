"""Files of a commit into the hub's own cache: resumed where they stopped, and checked by hash.

    CACHE/models--org--model/
      blobs/KEY                  bytes by their hash; KEY.incomplete while they arrive
      snapshots/COMMIT/PATH      a link to a blob
      refs/REVISION              the commit it stood for

This is where huggingface_hub and transformers keep them too: what they brought is not brought
again, and they find what we brought. Their own download starts anew after a cut, believes a body of
any length, and checks no hash; so only the layout is theirs.

Source: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from zoo.errors import InvalidCheckpoint, StoreError
from zoo.hub import transport as wire
from zoo.hub.listing import HubFile, Revision
from zoo.hub.transport import Interrupted, Reply, Transport
from zoo.progress import Progress

AT_ONCE = 4
"""Files that are downloaded at a time."""
PROGRESS_BYTES = 1 << 16
"""Bytes that have to arrive for a failed try not to count."""
_BLOCK = 1 << 20
_PARTIAL = ".incomplete"

Advance = Callable[[int], None]


def cache_of(repo: str) -> Path:
    """Where the hub's cache keeps a repository."""
    from huggingface_hub import constants

    root = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if root is None and (home := os.environ.get("HF_HOME")):
        root = str(Path(home) / "hub")
    found = Path(os.path.expandvars(root or constants.HF_HUB_CACHE)).expanduser()
    return found.absolute() / f"models--{repo.replace('/', '--')}"


def bring(
    transport: Transport,
    revision: Revision,
    files: Mapping[str, HubFile],
    progress: Progress,
) -> Path:
    """Bring files into the cache, and return the commit's directory there.

    Raises:
        InvalidCheckpoint: what came is not what is listed; it is gone again.
        StoreError: no room, or the network failed; what came is kept, and the next call goes on.
    """
    cache = cache_of(revision.name.repo)
    total = sum(f.size for f in files.values())
    with _friendly(cache):
        (cache / "blobs").mkdir(parents=True, exist_ok=True)
        _check_room(cache, [f for f in files.values() if not _is_here(cache, revision, f)])
        progress.start(total, "download")
        try:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                # Largest first: one thread must not start on the largest when the others are done.
                work = [
                    pool.submit(_bring, transport, revision, file, cache, progress.advance)
                    for file in sorted(files.values(), key=lambda f: -f.size)
                ]
                try:
                    for future in work:
                        future.result()
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
        finally:
            progress.done()
        _note(cache, revision)
    return cache / "snapshots" / revision.commit


def matches(data: bytes, file: HubFile) -> bool:
    """Whether bytes are a file, by size and hash."""
    own = _hash(file)
    own.update(data)
    return len(data) == file.size and own.hexdigest() == file.key


def _bring(
    transport: Transport, revision: Revision, file: HubFile, cache: Path, advance: Advance
) -> None:
    pointer = cache / "snapshots" / revision.commit / file.path
    blob = cache / "blobs" / file.key
    if pointer.exists() and holds(pointer, file):
        advance(file.size)
        return
    if blob.exists() and holds(blob, file):
        advance(file.size)
    else:
        _download(transport, revision, file, blob, advance)
    _point(pointer, blob)


def _download(
    transport: Transport, revision: Revision, file: HubFile, blob: Path, advance: Advance
) -> None:
    """Bring one file; another process that does the same is waited for."""
    partial = blob.with_name(blob.name + _PARTIAL)
    while True:
        with partial.open("ab+") as out:
            fcntl.flock(out, fcntl.LOCK_EX)
            if not _is_same(out, partial):
                if blob.exists() and holds(blob, file):
                    advance(file.size)
                    return
                continue  # it was finished or thrown away while we waited
            whole = _receive(transport, revision, file, out, advance)
            if whole or _again(transport, revision, file, out):
                out.flush()
                os.fsync(out.fileno())
                partial.replace(blob)
                return
            partial.unlink()
        raise InvalidCheckpoint(
            f"`{revision.url(file.path)}` is not the file that is listed:",
            f"its hash is not {file.key}.",
            "What came was thrown away. Try again, or complain to whoever runs the hub.",
            source=revision.pinned,
            path=file.path,
        )


def _again(transport: Transport, revision: Revision, file: HubFile, out: BinaryIO) -> bool:
    """A second try from the start: what an earlier call left may have been damaged."""
    out.truncate(0)
    return _receive(transport, revision, file, out, lambda _: None)


def _receive(
    transport: Transport, revision: Revision, file: HubFile, out: BinaryIO, advance: Advance
) -> bool:
    """Go on with a file until it has its size; whether it then has its hash.

    Raises:
        Interrupted: too many tries brought too little.
        InvalidCheckpoint: the body is longer than the file.
    """
    own = _hash(file)
    out.seek(0)
    if os.fstat(out.fileno()).st_size > file.size:
        out.truncate(0)
    have = 0
    while block := out.read(_BLOCK):
        own.update(block)
        have += len(block)
    advance(have)
    attempt = 0
    while have < file.size:
        before = have
        try:
            with transport.get(
                revision.url(file.path), start=have, commit=revision.commit
            ) as reply:
                for block in _after(reply, have):
                    if have + len(block) > file.size:
                        raise InvalidCheckpoint(
                            f"`{revision.url(file.path)}` does not end after {file.size:,} bytes:",
                            "the hub listed it with that size.",
                            source=revision.pinned,
                            path=file.path,
                        )
                    out.write(block)
                    own.update(block)
                    have += len(block)
                    advance(len(block))
            if have < file.size:
                raise Interrupted(
                    f"`{revision.url(file.path)}` ended after {have:,} of {file.size:,} bytes:",
                    "the connection was cut.",
                    "Try again: what has arrived is kept.",
                )
        except Interrupted as error:
            out.flush()
            attempt = 0 if have - before >= PROGRESS_BYTES else attempt + 1
            if attempt >= wire.RETRIES:
                raise
            wire.pause(attempt, error)
    return bool(own.hexdigest() == file.key)


def _after(reply: Reply, have: int) -> Any:
    """The body from byte `have` on; what comes before is dropped where ranges are ignored."""
    drop = have - reply.start
    for block in reply.chunks():
        if drop >= len(block):
            drop -= len(block)
            continue
        yield block[drop:]
        drop = 0


def holds(path: Path, file: HubFile) -> bool:
    """Whether a file in the cache is what is listed."""
    own = _hash(file)
    with path.open("rb") as opened:
        if os.fstat(opened.fileno()).st_size != file.size:
            return False
        while block := opened.read(_BLOCK):
            own.update(block)
    return bool(own.hexdigest() == file.key)


def _hash(file: HubFile) -> Any:
    if file.sha256 is not None:
        return hashlib.sha256()
    # As git names a blob: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
    return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)


def _is_here(cache: Path, revision: Revision, file: HubFile) -> bool:
    pointer = cache / "snapshots" / revision.commit / file.path
    return pointer.exists() or (cache / "blobs" / file.key).exists()


def _is_same(opened: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(opened.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _point(pointer: Path, blob: Path) -> None:
    """Link a commit's file to its blob; a second name of it where links cannot be had."""
    pointer.parent.mkdir(parents=True, exist_ok=True)
    fresh = pointer.with_name(f".{pointer.name[:100]}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    try:
        fresh.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:
        os.link(blob, fresh)
    fresh.replace(pointer)


def _note(cache: Path, revision: Revision) -> None:
    """Say what commit a branch stood for, so that transformers finds it without a network."""
    asked = revision.name.revision
    if asked == revision.commit:
        return
    ref = cache / "refs" / asked
    with suppress(OSError):  # a branch `a` and a branch `a/b` cannot both have a file
        ref.parent.mkdir(parents=True, exist_ok=True)
        fresh = ref.with_name(f".{ref.name[:100]}.{os.getpid()}")
        fresh.write_text(revision.commit)
        fresh.replace(ref)


def _check_room(cache: Path, lacking: list[HubFile]) -> None:
    """Better to refuse now than after an hour of downloading."""
    needed = sum(f.size - _arrived(cache, f) for f in lacking)
    free = shutil.disk_usage(cache).free
    if needed > free:
        raise StoreError(
            f"The download has {needed:,} bytes and the disk of `{cache.parent}` {free:,} free:",
            "it would fill it.",
            "Free some space, or set HF_HOME to a directory on a larger disk.",
            needed=needed,
            free=free,
        )


def _arrived(cache: Path, file: HubFile) -> int:
    partial = cache / "blobs" / (file.key + _PARTIAL)
    return partial.stat().st_size if partial.exists() else 0


@contextmanager
def _friendly(cache: Path) -> Iterator[None]:
    """Errors of the file system in our words."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"The hub's cache `{cache}` cannot be written:",
            f"{error.strerror or error}.",
            "Free some space, or set HF_HOME to a directory that can be written.",
            path=cache,
        ) from error
