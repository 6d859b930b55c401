"""Where the bytes of a zoo live: files found by their digest, written once, never edited.

    registry.store/
      objects/tree/ab/HEX   weights files, by root over header and tensor digests; mode 0444
      objects/flat/ab/HEX   all other files, by sha256; mode 0444
      views/NAME/NUMBER/    a version's directory, links to objects; derived, rebuilt on demand
      staging/KEY/          work in progress, locked by its owner
      owner                 the id of the zoo it belongs to, and of nobody else
      lock, lock.gate       shared while publishing, exclusive while collecting

A file is complete and durable before it has its final name, so whatever is under `objects/` is
whole. Only a database transaction makes a version; an object no version names is garbage.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from zoo.errors import StoreError
from zoo.names import check_entry_name, check_relative_path
from zoo.records import FileRecord
from zoo.storage.locks import Turnstile, try_lock
from zoo.storage.placing import make_last, move_in, sync
from zoo.storage.refusals import refusal

_log = logging.getLogger("zoo")

KINDS = ("tree", "flat")
_KEY = re.compile(r"(tree|flat):([0-9a-f]{64})")
_STAGING_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
_LOCK = ".lock"
_OWNER = "owner"
_TRASH = ".trash-"
_VIEW = ".view-"
_GRACE = 60.0
"""Seconds that unlocked work in progress is left alone: making a directory, linking a view."""
_RACES = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT)


class Owner(NamedTuple):
    """The zoo a store belongs to."""

    id: str
    """Made with the registry and kept in it, so that both still know each other when moved."""
    registry: str
    """Path or URL of the registry; as it was when the store was claimed. For messages."""


@dataclass(frozen=True, slots=True)
class Abandoned:
    """A staging directory whose owner is gone."""

    path: Path
    age: float
    """Seconds since anything in it changed."""
    resumable: bool


class Store:
    """The files of one zoo. Holds no state: any number of processes may use one directory."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self._turnstile = Turnstile(self.root / "lock")

    @classmethod
    def create(cls, root: Path | str, owner: Owner) -> Store:
        """The store at `root`, made if it is not there. Safe for many processes at once.

        Raises:
            StoreError: it belongs to another zoo.
        """
        store = cls(root)
        with friendly(store.root):
            if store.owner() is None:
                for path in reversed([p for p in store.root.parents if not p.is_dir()]):
                    _make(path)
                for folder in ("", "objects", *(f"objects/{k}" for k in KINDS), "views", "staging"):
                    _make(store.root / folder)
                with store.collecting():
                    store._claim(owner)
        store.check_owner(owner)
        return store

    @classmethod
    def open(cls, root: Path | str, owner: Owner) -> Store:
        """The store at `root`, if it is there; what needs it says so when it is not.

        Raises:
            StoreError: it belongs to another zoo, or holds objects and belongs to none.
        """
        store = cls(root)
        if store.owner() is None and store.holds_objects():
            raise StoreError(
                f"The store `{store.root}` belongs to no zoo:",
                f"its file `{_OWNER}` is gone.",
                f"If it is the store of `{owner.registry}`, run `zoo init` to say so.",
                root=store.root,
            )
        store.check_owner(owner)
        return store

    # Ownership

    def owner(self) -> Owner | None:
        """Whose store this is; None when nobody has claimed it."""
        path = self.root / _OWNER
        if not path.is_file():
            return None
        with friendly(self.root):
            id_, _, registry = path.read_text(encoding="utf-8").partition("\n")
        return Owner(id_, registry.rstrip("\n"))

    def check_owner(self, owner: Owner) -> None:
        """Refuse another zoo's store: to either, the other's objects would be garbage.

        Raises:
            StoreError: names both zoos.
        """
        found = self.owner()
        if found is not None and found.id != owner.id:
            raise StoreError(
                f"The store `{self.root}` belongs to another zoo, made as `{found.registry}` "
                f"({found.id}), and not to `{owner.registry}` ({owner.id}):",
                "`zoo gc` of one would delete what the other needs.",
                "Put the right store there, or make the registry with one of its own: "
                "zoo --registry PATH init --store DIR",
                root=self.root,
                owner=found.id,
                zoo=owner.id,
            )

    def holds_objects(self) -> bool:
        """Whether there is anything in it to lose."""
        return self.root.is_dir() and next(self.objects(), None) is not None

    def _claim(self, owner: Owner) -> None:
        """Write down whose it is, unless somebody has; only inside `collecting()`."""
        if self.owner() is not None:
            return
        draft = self.root / f".{_OWNER}"
        with draft.open("w", encoding="utf-8") as file:
            file.write(f"{owner.id}\n{owner.registry}\n")
            file.flush()
            os.fsync(file.fileno())
        draft.rename(self.root / _OWNER)
        sync(self.root)

    # Staging

    @contextmanager
    def staging(self, key: str, *, keep: bool = False) -> Iterator[Path]:
        """A directory to prepare files in, ours until the block ends.

        It is removed at the end. With `keep`, Ctrl-C leaves it, as a killed process does, for the
        next call with the same key to resume from. An error does not: what failed once will fail
        again, and a full disk wants its room back.

        Raises:
            StoreError: another process (or thread) works under this key: `pid` says which. We do
                not wait for it, because what it will publish is what the caller was about to make.
        """
        if not _STAGING_KEY.fullmatch(key):
            raise ValueError(f"not a staging key: {key!r}")
        path = self.root / "staging" / key
        with friendly(self.root):
            lock = self._hold(path, keep)
        try:
            with friendly(self.root):
                yield path
        except BaseException as error:
            if not keep or isinstance(error, Exception):
                self._leave(path)
            raise
        else:
            self._leave(path)
        finally:
            os.close(lock)

    def abandoned(self) -> Iterator[Abandoned]:
        """Staging directories that no living process holds."""
        for path in self._children(self.root / "staging"):
            found = None
            with friendly(self.root), suppress(FileNotFoundError):  # its owner just removed it
                found = _abandonment(path)
            if found is not None:
                yield found

    def discard(self, abandoned: Abandoned) -> bool:
        """Remove an abandoned staging directory; False when somebody has taken it up again."""
        with friendly(self.root):
            try:
                fd = os.open(abandoned.path / _LOCK, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                self._discard(abandoned.path)
                return True
            try:
                if not try_lock(fd) or not _same(fd, abandoned.path / _LOCK):
                    return False
                self._discard(abandoned.path)
                return True
            finally:
                os.close(fd)

    # Publishing and collecting

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Held from the first `place` until the database has committed.

        While anybody holds it, nothing is collected: an object found in place stays in place.
        """
        with friendly(self.root), self._turnstile.shared():
            yield

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Held while garbage is marked and swept; nobody publishes meanwhile."""
        with friendly(self.root), self._turnstile.exclusive():
            yield

    def place(self, staged: Iterable[tuple[Path, str]]) -> None:
        """Move finished files to the places of their keys; only inside `publishing()`, and
        `settle` them then. They replace what is there; see `zoo.storage.placing.move_in`."""
        with friendly(self.root):
            move_in((path, self.path(key)) for path, key in staged)

    def settle(self, keys: Iterable[str]) -> set[str]:
        """Make objects durable under their names, and read-only; the keys of those not there."""
        paths = {key: self.path(key) for key in keys}
        missing = {key for key, path in paths.items() if not path.exists()}
        with friendly(self.root):
            make_last(path for key, path in paths.items() if key not in missing)
        return missing

    # Objects

    def path(self, key: str) -> Path:
        """Where an object is, or would be."""
        match = _KEY.fullmatch(key)
        if match is None:
            raise ValueError(f"not an object key: {key!r}")
        kind, digest = match.groups()
        return self.root / "objects" / kind / digest[:2] / digest

    def has(self, key: str) -> bool:
        return self.path(key).exists()

    def objects(self) -> Iterator[tuple[str, Path, int]]:
        """Every object: key, path, bytes. Keys ascending within a kind."""
        for kind in KINDS:
            for shelf in self._children(self.root / "objects" / kind):
                for path in self._children(shelf):
                    key = f"{kind}:{path.name}"
                    if not _KEY.fullmatch(key):
                        continue
                    try:
                        size = path.stat().st_size
                    except FileNotFoundError:
                        # Collected while we walk, or a symlink to a source that is gone.
                        if not path.is_symlink():
                            continue
                        size = 0
                    yield key, path, size

    def remove(self, key: str) -> None:
        """Delete an object; only inside `collecting()`."""
        with friendly(self.root):
            self.path(key).unlink(missing_ok=True)

    # Views

    def view(self, name: str, number: int, files: Sequence[FileRecord]) -> Path:
        """A version's directory in Hugging Face layout, built when it is absent or differs.

        It is relative links into `objects/`, so a zoo can be moved; it appears whole or not at all.
        """
        view = self.view_path(name, number)
        links = self._links(name, files)
        if _links_in(view) == links:
            return view
        with friendly(self.root):
            fresh = self.root / "staging" / f"{_VIEW}{uuid4().hex}"
            fresh.mkdir()
            try:
                for path, target in links.items():
                    if "/" in path:
                        (fresh / path).parent.mkdir(parents=True, exist_ok=True)
                    (fresh / path).symlink_to(target)
                while True:
                    try:
                        view.parent.mkdir(parents=True, exist_ok=True)
                        fresh.rename(view)
                        return view  # whoever replaces it now puts the same in its place
                    except OSError as error:
                        # It is there, or its neighbour was dropped between two lines.
                        if error.errno not in _RACES or not fresh.is_dir():
                            raise
                    if _links_in(view) == links:
                        return view  # another process built it
                    self._discard(view)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)

    def view_path(self, name: str, number: int) -> Path:
        return self.root / "views" / check_entry_name(name) / str(int(number))

    def view_is_current(self, name: str, number: int, files: Sequence[FileRecord]) -> bool:
        """Whether a version's directory is there and holds just these links."""
        return _links_in(self.view_path(name, number)) == self._links(name, files)

    def _links(self, name: str, files: Sequence[FileRecord]) -> dict[str, str]:
        """The links of a version's directory: path in it -> relative path of an object."""
        up = "../" * (name.count("/") + 3)
        return {
            check_relative_path(file.path): "../" * file.path.count("/")
            + up
            + self.path(file.object).relative_to(self.root).as_posix()
            for file in files
        }

    def views(self) -> Iterator[tuple[str, int]]:
        """Name and number of every directory that was built."""
        for first in self._children(self.root / "views"):
            for second in self._children(first):
                if second.name.isdigit():
                    yield first.name, int(second.name)
                    continue
                for third in self._children(second):
                    if third.name.isdigit():
                        yield f"{first.name}/{second.name}", int(third.name)

    def drop_view(self, name: str, number: int) -> None:
        """Remove a version's directory; its objects stay."""
        view = self.view_path(name, number)
        with friendly(self.root):
            self._discard(view)
            for folder in view.relative_to(self.root / "views").parents:
                if folder.parts:
                    try:
                        (self.root / "views" / folder).rmdir()
                    except OSError:
                        break

    # Helpers

    def _hold(self, path: Path, keep: bool) -> int:
        """Make a staging directory and lock it. The lock file goes with the directory, so after
        locking we make sure that it is still the one that the path names."""
        while True:
            made = False
            # Not mkdir(exist_ok=True), which looks again, and may find it gone by then.
            with suppress(FileExistsError):
                path.mkdir()
                made = True
            try:
                fd = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except FileNotFoundError:
                continue
            if not try_lock(fd):
                pid = os.pread(fd, 64, 0).decode(errors="replace").split()[:1]
                os.close(fd)
                raise StoreError(
                    f"`{path.name}` is already being worked on by process {' '.join(pid)}:",
                    "both would make the same thing.",
                    "Wait for it, or end it; its finished part will be used.",
                    key=path.name,
                    pid=int(pid[0]) if pid and pid[0].isdigit() else None,
                )
            if _same(fd, path / _LOCK):
                try:
                    os.ftruncate(fd, 0)
                    os.pwrite(fd, f"{os.getpid()} {'resumable' if keep else ''}\n".encode(), 0)
                except OSError:  # the disk is full
                    if made:
                        self._leave(path)
                    os.close(fd)
                    raise
                return fd
            os.close(fd)

    def _discard(self, path: Path) -> None:
        """Remove a directory; it vanishes from its name at once, so a newcomer may reuse it."""
        trash = self.root / "staging" / (_TRASH + uuid4().hex)
        try:
            path.rename(trash)
        except FileNotFoundError:
            return
        shutil.rmtree(trash, ignore_errors=True)

    def _leave(self, path: Path) -> None:
        """Remove what was worked in. Where that fails, `zoo gc` takes it: it must not hide what
        went wrong before, nor take back what is published."""
        try:
            self._discard(path)
        except OSError as error:
            _log.warning("`%s` is left for `zoo gc`: %s", path, error.strerror)

    def _children(self, folder: Path) -> list[Path]:
        try:
            with friendly(self.root):
                return sorted(folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            if not self.root.is_dir():
                raise _missing(self.root) from None
            return []


@contextmanager
def friendly(root: Path) -> Iterator[None]:
    """Turn the operating system's refusals into a StoreError that says what to do.

    Raises:
        StoreError: `errno` is an attribute; full disk, quota, read-only, no permission, missing.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOENT and not root.is_dir():
            raise _missing(root) from error
        told = refusal(error, f"the store `{root}`", _REMEDIES.get(error.errno or 0, ""))
        if told is None:
            raise
        raise told from error


_REMEDIES = {
    errno.ENOSPC: "Free some space, or run `zoo gc`.",
    errno.EDQUOT: "Free some space, or run `zoo gc`.",
    errno.EROFS: "Mount it writable, or copy the zoo.",
    errno.EACCES: "Change its owner or mode, or copy the zoo.",
    errno.EPERM: "Change its owner or mode, or copy the zoo.",
    errno.EIO: "Check the disk, then run `zoo fsck`.",
}


def _missing(root: Path) -> StoreError:
    return StoreError(
        f"The store `{root}` is not there:",
        "the registry's bytes are kept in it.",
        "Put it back beside the registry, or make a new zoo with `zoo init`.",
        root=root,
    )


def _same(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _abandonment(path: Path) -> Abandoned | None:
    """What a dead process left at `path`, or None when its owner lives, or may."""
    age = _age(path)
    if path.name.startswith(_TRASH):
        return Abandoned(path, age, resumable=False)
    try:
        fd = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return Abandoned(path, age, resumable=False) if age > _GRACE else None
    try:
        dead = try_lock(fd)
        words = os.pread(fd, 64, 0).decode(errors="replace").split()
    finally:
        os.close(fd)
    return Abandoned(path, age, resumable="resumable" in words) if dead else None


def _age(path: Path) -> float:
    newest = path.lstat().st_mtime
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                newest = max(newest, Path(folder, name).lstat().st_mtime)
            except FileNotFoundError:
                continue
    return time.time() - newest


def _links_in(view: Path) -> dict[str, str] | None:
    """What a directory holds: path -> where it leads, empty for what is no link; None if there is
    no such directory."""
    if not view.is_dir():
        return None
    found: dict[str, str] = {}
    for folder, _, names in os.walk(view):
        for path in (Path(folder, name) for name in names):
            target = str(path.readlink()) if path.is_symlink() else ""
            found[path.relative_to(view).as_posix()] = target
    return found


def _make(path: Path) -> None:
    """Make a directory, or find it; its name is durable then, whoever made it."""
    path.mkdir(exist_ok=True)
    sync(path.parent)
