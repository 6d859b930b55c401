"""Tensor digests of weights files that have not changed since they were hashed.

Merging the same files again and again, as a sweep over parameters does, would spend most of its
reading on hashing what was hashed before. So a cache keeps, for each weights file, its digests
beside what the file system said of the file then, as git's index and make do. It serves merges
that register nothing, and is never asked about what enters a registry.

Source: https://git-scm.com/docs/racy-git
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from time import time_ns
from typing import Any

from zoo.checkpoint import Checkpoint
from zoo.checkpoints.safetensors import SafetensorsCheckpoint, read_small
from zoo.checkpoints.safetensors_header import parse_strict_json
from zoo.errors import InvalidCheckpoint

_log = logging.getLogger("zoo")

FORMAT = 1
SETTLED = 2_000_000_000
"""Nanoseconds since a file's last change, before which a second change may bear the same time:
the steps of the coarsest file system, FAT."""
_STAT = ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def cache_directory() -> Path | None:
    """Where digests are kept: None where the user wants none, or has no home."""
    asked = os.environ.get("ZOO_CACHE_DIR")
    if asked is not None:
        return Path(asked) if asked else None
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if shared.is_absolute():  # others are to be ignored, says the XDG specification
        return shared / "zoo"
    try:
        return Path.home() / ".cache" / "zoo"
    except RuntimeError:
        return None


def known_digests(checkpoint: Checkpoint, *, rehash: bool = False) -> KnownDigests | None:
    """What is known of a checkpoint's tensors; None where nothing is to be kept of it either.

    Args:
        rehash: trust nothing, but keep what is hashed now.
    """
    directory = cache_directory()
    # What a class of a plugin reads need not be what lies in its files.
    if directory is None or type(checkpoint) is not SafetensorsCheckpoint:
        return None
    return KnownDigests(checkpoint, directory, rehash)


class KnownDigests:
    """What is known of the tensors of an open checkpoint, looked up before any is hashed."""

    def __init__(self, checkpoint: SafetensorsCheckpoint, directory: Path, rehash: bool) -> None:
        self.digests: dict[str, str] = {}
        """Tensor name -> digest, of the files that are as they were."""
        self._checkpoint = checkpoint
        self._directory = directory
        self._began = time_ns()
        self._unknown: dict[str, dict[str, Any]] = {}
        for file in checkpoint.headers:
            now = self._about(file)
            found = None if rehash else self._read(file, now)
            if found is None:
                self._unknown[file] = now
            else:
                self.digests |= found

    def keep(self, digests: Mapping[str, str]) -> None:
        """Keep what was hashed, of files that nobody changed meanwhile or just before."""
        for file, before in self._unknown.items():
            last = max(before["st_mtime_ns"], before["st_ctime_ns"])
            if last + SETTLED <= self._began and self._about(file) == before:
                own = {name: digests[name] for name in self._names(file)}
                self._write(file, {**before, "tensors": own})

    def _about(self, file: str) -> dict[str, Any]:
        """What must be the same for digests to be trusted. The header, as it was read, gives every
        tensor's name, type, shape and place."""
        state = self._checkpoint.stat(file)
        return {
            "format": FORMAT,
            "path": str(self._real(file)),
            **{key: getattr(state, key) for key in _STAT},
            "header": hashlib.sha256(self._checkpoint.headers[file].raw).hexdigest(),
        }

    def _read(self, file: str, now: Mapping[str, Any]) -> dict[str, str] | None:
        """The digests kept for a file, if they are its own; what cannot be read is not there."""
        entry = self._entry(file)
        try:
            kept = parse_strict_json(read_small(entry), entry)
        except InvalidCheckpoint:
            return None
        found = kept.pop("tensors", None) if isinstance(kept, dict) else None
        if kept != now or not isinstance(found, dict) or found.keys() != self._names(file):
            return None
        good = all(isinstance(d, str) and _DIGEST.fullmatch(d) for d in found.values())
        return found if good else None

    def _write(self, file: str, content: Mapping[str, Any]) -> None:
        """Put an entry in place whole. A cache that cannot be written costs time, not the merge."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd, made = tempfile.mkstemp(".tmp", dir=self._directory)
            try:
                with os.fdopen(fd, "w") as out:
                    out.write(json.dumps(content))
                Path(made).replace(self._entry(file))
            finally:
                Path(made).unlink(missing_ok=True)
        except OSError as error:
            _log.debug("digests are not kept in `%s`: %s", self._directory, error.strerror)

    def _names(self, file: str) -> set[str]:
        return {info.name for info in self._checkpoint.headers[file].tensors}

    def _real(self, file: str) -> Path:
        return self._checkpoint.opened.weight_files[file].resolve()

    def _entry(self, file: str) -> Path:
        name = hashlib.sha256(os.fsencode(self._real(file))).hexdigest()
        return self._directory / f"{name}.json"


LookUp = Callable[[Checkpoint], KnownDigests | None]
