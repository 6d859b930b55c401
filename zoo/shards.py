"""Writes merged tensors in place into preallocated shards, with a journal to resume from.

The layout is known before the first value: the header goes in first, the room is reserved (so a
full disk is found at once), and tensors are written where they belong, in any order. The journal
gets a line for each finished tensor. It only promises; on resume each promised tensor is hashed
again, so a torn write is done over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from zoo.checkpoint import TensorInfo
from zoo.digest import flat_key, json_digest, tree_key
from zoo.hashing import HashPool, write_at
from zoo.progress import Progress
from zoo.records import FileRecord
from zoo.safetensors_checkpoint import INDEX, open_files
from zoo.safetensors_header import Layout, index, layout, shards

_JOURNAL = "journal.jsonl"


class ShardWriter:
    """A `Sink` that makes the weights files of a version in a directory.

    Args:
        directory: exists; files are made or resumed in it.
        tensors: all tensors of the output.
        key: what is being made; a journal of anything else is thrown away.
    """

    def __init__(self, directory: Path, tensors: Sequence[TensorInfo], key: str) -> None:
        self.directory = directory
        self._groups = shards(list(tensors))
        self.layouts: dict[str, Layout] = {f: layout(group) for f, group in self._groups.items()}
        self._places = {
            t.name: (file, t.offset) for file, laid in self.layouts.items() for t in laid.tensors
        }
        self._key = json_digest([key, [laid.header.hex() for laid in self.layouts.values()]])
        self._files: dict[str, int] = {}
        self._journal = -1

    def open(self, threads: int, progress: Progress | None = None) -> dict[str, str]:
        """Make or resume the files; the digests of tensors that are finished already."""
        finished = self._resume(threads, progress)
        if finished is None:
            finished = {}
            for old in self.directory.iterdir():
                if old.name.endswith(".safetensors") or old.name == _JOURNAL:
                    old.unlink()
        for file, laid in self.layouts.items():
            fd = os.open(self.directory / file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._files[file] = fd
            if os.fstat(fd).st_size != laid.size:
                os.posix_fallocate(fd, 0, laid.size)
                write_at(fd, laid.header, 0)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._journal = os.open(self.directory / _JOURNAL, flags, 0o644)
        if os.fstat(self._journal).st_size == 0:
            self._note({"key": self._key})
        return finished

    def write(self, info: TensorInfo, start: int, data: memoryview) -> None:
        file, offset = self._places[info.name]
        write_at(self._files[file], data, offset + start)

    def finished(self, info: TensorInfo, digest: str) -> None:
        self._note({"tensor": info.name, "digest": digest})

    def files(self, digests: Mapping[str, str]) -> dict[FileRecord, Path]:
        """The weights files and the index, with their object keys, ready to place."""
        found = {
            FileRecord(file, key, self.layouts[file].size): self.directory / file
            for file, key in weight_keys(self.layouts, digests).items()
        }
        if len(self.layouts) > 1:
            data = index(self._groups)
            (self.directory / INDEX).write_bytes(data)
            found[FileRecord(INDEX, flat_key(data), len(data))] = self.directory / INDEX
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

    def _resume(self, threads: int, progress: Progress | None) -> dict[str, str] | None:
        """Digests of the tensors that really are finished, or None to begin anew."""
        try:
            lines = (self.directory / _JOURNAL).read_text().splitlines()
            entries = [_parse(line) for line in lines]
        except (FileNotFoundError, UnicodeDecodeError):
            return None
        if not entries or entries[0].get("key") != self._key:
            return None
        paths = {file: self.directory / file for file in self.layouts}
        if any(
            not p.is_file() or p.stat().st_size != self.layouts[f].size for f, p in paths.items()
        ):
            return None
        promised = {e["tensor"]: e["digest"] for e in entries if "tensor" in e and "digest" in e}
        with open_files(paths, "an unfinished merge") as view, HashPool(threads, progress) as pool:
            found = {n: pool.tensor(view, view.tensors[n]) for n in promised if n in view.tensors}
            return {n: promised[n] for n, f in found.items() if f.result() == promised[n]}


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
