"""Takes a version's files out of the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.progress import NoProgress, Progress
from zoo.storage.links import link

if TYPE_CHECKING:
    from zoo.records import FileRecord
    from zoo.storage.store import Store

BLOCK = 1 << 20
"""Bytes that are copied at a time."""


def copy_files(
    store: Store, files: Sequence[FileRecord], directory: Path, progress: Progress | None = None
) -> None:
    """Write plain files that share nothing with the store but, where the disk can, blocks."""
    progress = progress or NoProgress()
    progress.start(sum(file.bytes for file in files), "copy")
    try:
        for file in files:
            source, target = store.path(file.object), directory / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if link(source, target, "clone"):
                progress.advance(file.bytes)
            else:
                _copy(source, target, progress)
    finally:
        progress.done()


def _copy(source: Path, target: Path, progress: Progress) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        while block := reader.read(BLOCK):
            writer.write(block)
            progress.advance(len(block))
