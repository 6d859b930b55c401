"""Writes merged tensors in place into preallocated shards, with a journal to resume from.

The layout is known before the first value: the header goes in first, the room is reserved (so a
full disk is found at once), and tensors are written where they belong, in any order. The journal
gets a line for each finished tensor. It only promises; on resume each promised tensor is hashed
again, so a torn write is done over.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.checkpoint import TensorInfo
from zoo.checkpoints.components import weight_files
from zoo.checkpoints.hashing import HashPool, write_at
from zoo.checkpoints.safetensors import open_files
from zoo.checkpoints.safetensors_header import SHARD_BYTES, Layout
from zoo.digest import flat_key, json_digest, tree_key
from zoo.errors import InvalidCheckpoint
from zoo.overlays.overlay import is_overlay
from zoo.progress import Progress
from zoo.records import FileRecord

if TYPE_CHECKING:
    from zoo.storage.store import Store

LOCK = ".lock"
"""What the store keeps in a staging directory to hold it."""
_JOURNAL = "journal.jsonl"


class ShardWriter:
    """A `Sink` that makes the weights files of a version in a directory.

    Args:
        directory: exists; files are made or resumed in it.
        tensors: all tensors of the output.
        key: what is being made; anything else found in the directory is thrown away.
        store: where finished files may lie already, if publishing them was interrupted.
        limit: bytes of tensors per file.
        overlays: files beside the weights, by path, with all their tensors.
        stems: where the weights of components go, see `zoo.checkpoints.components.stems_of`.
    """

    def __init__(
        self,
        directory: Path,
        tensors: Sequence[TensorInfo],
        key: str,
        store: Store | None = None,
        limit: int = SHARD_BYTES,
        overlays: Mapping[str, Layout] | None = None,
        stems: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.digests: dict[str, str] = {}
        """Of the tensors that are finished."""
        self._store = store
        files = weight_files(tensors, limit, stems)
        self.layouts: dict[str, Layout] = files.layouts | dict(overlays or {})
        self._indexes = files.indexes
        self._places = {
            t.name: (file, t.offset) for file, laid in self.layouts.items() for t in laid.tensors
        }
        self._key = json_digest([key, [laid.header.hex() for laid in self.layouts.values()]])
        self._files: dict[str, int] = {}
        self._paths: dict[str, Path] = {}
        self._journal = -1

    def open(self, threads: int, progress: Progress | None = None) -> None:
        """Make the files, or go on with those of the same key; `digests` has what is finished."""
        promised = self._promised()
        placed = self._placed(promised)
        self._clear(keep=promised is not None)
        if promised is not None:
            self.digests = self._proved(promised, placed, threads, progress)
            self._give_up_damaged(placed)
        self._paths = {f: placed.get(f, self.directory / f) for f in self.layouts}
        for file, laid in self.layouts.items():
            if file in placed:
                continue
            (self.directory / file).parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.directory / file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._files[file] = fd
            if os.fstat(fd).st_size != laid.size:
                os.posix_fallocate(fd, 0, laid.size)
                write_at(fd, laid.header, 0)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._journal = os.open(self.directory / _JOURNAL, flags, 0o644)
        if os.fstat(self._journal).st_size == 0:
            self._note({"key": self._key})

    def write(self, info: TensorInfo, start: int, data: memoryview) -> None:
        file, offset = self._places[info.name]
        write_at(self._files[file], data, offset + start)

    def finished(self, info: TensorInfo, digest: str) -> None:
        self.digests[info.name] = digest
        self._note({"tensor": info.name, "digest": digest})

    def files(self) -> dict[FileRecord, Path]:
        """The weights files and their indexes, with their object keys, and where they are."""
        found = {
            FileRecord(file, key, self.layouts[file].size): self._paths[file]
            for file, key in weight_keys(self.layouts, self.digests).items()
        }
        for name, data in self._indexes.items():
            (self.directory / name).parent.mkdir(parents=True, exist_ok=True)
            (self.directory / name).write_bytes(data)
            found[FileRecord(name, flat_key(data), len(data))] = self.directory / name
        return found

    def close(self) -> None:
        for fd in (*self._files.values(), self._journal):
            if fd >= 0:
                os.close(fd)
        self._files, self._journal = {}, -1

    def forget(self) -> None:
        """Remove the journal: the directory holds a finished model now."""
        (self.directory / _JOURNAL).unlink(missing_ok=True)

    def _note(self, line: Mapping[str, str]) -> None:
        os.write(self._journal, json.dumps(line).encode() + b"\n")

    def _promised(self) -> dict[str, str] | None:
        """Tensor -> digest as the journal has it; None when it is not about this merge."""
        try:
            lines = (self.directory / _JOURNAL).read_text().splitlines()
        except (FileNotFoundError, UnicodeDecodeError):
            return None
        entries = [_parse(line) for line in lines]
        if not entries or entries[0].get("key") != self._key:
            return None
        return {
            e["tensor"]: e["digest"]
            for e in entries
            if "digest" in e and e.get("tensor") in self._places
        }

    def _placed(self, promised: Mapping[str, str] | None) -> dict[str, Path]:
        """Files that are no longer here because they are in the store."""
        if self._store is None or promised is None:
            return {}
        whole = {
            file: laid
            for file, laid in self.layouts.items()
            if all(t.name in promised for t in laid.tensors)
            and not (self.directory / file).exists()
        }
        keys = weight_keys(whole, promised)
        return {f: self._store.path(k) for f, k in keys.items() if self._store.has(k)}

    def _give_up_damaged(self, placed: dict[str, Path]) -> None:
        """An object that failed its proof is made again, here and whole.

        With overlays everything is made again: one tensor's parts lie in several files.
        """
        if placed and any(is_overlay(f) for f in self.layouts):
            if self.digests.keys() != self._places.keys():
                placed.clear()
                self.digests = {}
            return
        for file in list(placed):
            names = [t.name for t in self.layouts[file].tensors]
            if any(n not in self.digests for n in names):
                del placed[file]
                for name in names:
                    self.digests.pop(name, None)

    def _clear(self, *, keep: bool) -> None:
        """Remove what is not ours to go on with; with `keep`, our own files stay."""
        ours = {_JOURNAL, *(f.partition("/")[0] for f in self.layouts)} if keep else set()
        for old in self.directory.iterdir():
            if old.name in ours or old.name == LOCK:
                continue
            if old.is_dir() and not old.is_symlink():
                shutil.rmtree(old)
            else:
                old.unlink()

    def _proved(
        self,
        promised: Mapping[str, str],
        placed: Mapping[str, Path],
        threads: int,
        progress: Progress | None,
    ) -> dict[str, str]:
        """The promises that hold: each tensor's bytes are hashed again."""
        paths = {f: placed.get(f, self.directory / f) for f in self.layouts}
        there = {
            f: p
            for f, p in paths.items()
            if p.is_file() and p.stat().st_size == self.layouts[f].size
        }
        with ExitStack() as stack:
            try:
                # One by one: tensors of different files may have the same names in them.
                views = {
                    f: stack.enter_context(open_files({f: p}, "an unfinished merge"))
                    for f, p in there.items()
                }
            except InvalidCheckpoint:
                return {}  # killed between making the room and writing the header
            pool = stack.enter_context(HashPool(threads, progress))
            work = {
                laid.name: pool.tensor(view, info)
                for file, view in views.items()
                if view.headers[file].raw == self.layouts[file].header
                for info, laid in zip(
                    view.headers[file].tensors, self.layouts[file].tensors, strict=True
                )
                if laid.name in promised
            }
            return {n: promised[n] for n, f in work.items() if f.result() == promised[n]}


def weight_keys(layouts: Mapping[str, Layout], digests: Mapping[str, str]) -> dict[str, str]:
    """Object key of each weights file, from the digests of its tensors."""
    return {
        file: tree_key(laid.header, [digests[t.name] for t in laid.tensors])
        for file, laid in layouts.items()
    }


def _parse(line: str) -> dict[str, str]:
    """A journal line; a torn one says nothing."""
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}
