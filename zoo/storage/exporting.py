"""Writes a version in a format that is not the store's own."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import UnsupportedFormat
from zoo.networks.loading import opened
from zoo.progress import Progress
from zoo.storage.becoming import becoming

if TYPE_CHECKING:
    from zoo.registry import Registry

_log = logging.getLogger("zoo")

FORMATS = ("gguf",)


def export_as(
    registry: Registry,
    format: str,
    ref: str,
    directory: Path,
    task: str | None = None,
    base: str | Path | None = None,
    *,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a version, a directory, or the model that either has for a task, into a new directory.

    Returns:
        The file that was written.
    Raises:
        UnsupportedFormat: there is no such format.
        InvalidCheckpoint: the model has no place in it.
    """
    from zoo.gguf.writing import write_gguf

    if format not in FORMATS:
        raise UnsupportedFormat(
            f"There is no format `{format}` to export to.",
            how="Known: `gguf`. Without --format, a version is copied as it is.",
            format=format,
        )
    with ExitStack() as stack:
        found = opened(registry, ref, task, base, stack)
        label = ref.partition("@")[0] if not Path(ref).exists() else Path(ref).resolve().name
        name = "-".join([label.rpartition("/")[2], *([task] if task else [])])
        file = f"{name}.gguf"
        with becoming(directory) as partial:
            notes = write_gguf(
                found.model,
                found.beside,
                partial / file,
                name=name,
                dtype=dtype,
                progress=progress,
            )
    for note in notes:
        _log.warning("`%s`: %s", file, note)
    return directory / file
