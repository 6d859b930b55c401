"""Bring a checkpoint's files into a staging directory, hashing on the way."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from zoo.checkpoint import Checkpoint, TensorInfo
from zoo.checkpoints.components import WeightFiles, stems_of, weight_files
from zoo.checkpoints.hashing import HashPool, write_at
from zoo.checkpoints.safetensors import SafetensorsCheckpoint, open_files
from zoo.digest import flat_key, tree_key, weights_digest
from zoo.errors import StoreError
from zoo.progress import Progress
from zoo.records import FileRecord, TensorRecord
from zoo.storage.links import LinkMode, link


@dataclass(frozen=True, slots=True)
class Ingested:
    """A model's files, staged, with their identities."""

    tensors: tuple[TensorRecord, ...]
    """Names ascending."""
    files: dict[FileRecord, Path]
    """Each file of the version and where it is staged."""

    @property
    def digest(self) -> str:
        """Weights digest."""
        return weights_digest((t.name, t.digest) for t in self.tensors)

    @property
    def records(self) -> tuple[FileRecord, ...]:
        """The files, by path."""
        return tuple(sorted(self.files, key=lambda file: file.path))


@dataclass(frozen=True, slots=True)
class _Weights:
    """One weights file on its way in."""

    record_path: str
    staged: Path
    header: bytes
    tensors: Sequence[TensorInfo]
    """In file order; offsets as they will be in the staged file."""
    size: int
    source: Checkpoint
    copied: bool
    """Whether the bytes still have to be written to `staged`."""


def ingest(
    checkpoint: Checkpoint,
    staging: Path,
    *,
    link_mode: LinkMode,
    threads: int | None,
    progress: Progress,
    stem: str = "model",
    prefix: str = "",
) -> Ingested:
    """Stage a whole model: each byte is read once, hashed, and written if it must be.

    Safetensors files stay as they are, byte for byte; weights of other formats are written as
    safetensors. Files beside the weights are always copied.

    Args:
        staging: gets files that are numbered: no directories, which are slow to remove.
        stem: what weights files that are written are called.
        prefix: what begins the names of the staged files, where others are in the directory.
    Raises:
        InvalidCheckpoint: the source is damaged, or ends while it is read.
        StoreError: no room.
    """
    staging.mkdir(parents=True, exist_ok=True)
    places = (staging / f"{prefix}{number}" for number in itertools.count())
    auxiliary = dict(checkpoint.opened.auxiliary)
    written = WeightFiles({}, {})
    with ExitStack() as stack:
        if checkpoint.opened.weight_files:
            plan = _keep(checkpoint, places, link_mode, stack)
        else:
            written = weight_files(
                list(checkpoint.tensors.values()), stems=stems_of(auxiliary), stem=stem
            )
            plan = _rewrite(checkpoint, places, written)
        beside = sum(path.stat().st_size for path in auxiliary.values())
        _check_room(staging, beside + sum(w.size for w in plan if w.copied))
        progress.start(beside + sum(w.size for w in plan), "hash")
        stack.callback(progress.done)
        progress.advance(sum(len(w.header) for w in plan))
        pool = stack.enter_context(HashPool(threads, progress))
        ingested = _weights(plan, pool, stack)
        for name, data in written.indexes.items():
            staged = next(places)
            staged.write_bytes(data)
            ingested.files[FileRecord(name, flat_key(data), len(data))] = staged
        copies = {
            path: (staged := next(places), pool.file(source, staged))
            for path, source in auxiliary.items()
        }
        for path, (staged, future) in copies.items():
            key, size = future.result()
            ingested.files[FileRecord(path, key, size)] = staged
    return ingested


def _keep(
    checkpoint: Checkpoint, places: Iterator[Path], link_mode: LinkMode, stack: ExitStack
) -> list[_Weights]:
    sources: dict[str, Path] = {}
    staged: dict[str, Path] = {}
    copied: dict[str, bool] = {}
    for file, path in checkpoint.opened.weight_files.items():
        staged[file] = next(places)
        copied[file] = not link(path, staged[file], link_mode)
        sources[file] = path if copied[file] else staged[file]
    if isinstance(checkpoint, SafetensorsCheckpoint) and all(copied.values()):
        source = checkpoint
    else:
        # Opened again, from what was linked: what is hashed is what is kept.
        source = open_files(sources, checkpoint.opened.origin, checkpoint.opened.auxiliary)
        stack.callback(source.close)
    return [
        _Weights(file, staged[file], h.raw, h.tensors, h.size, source, copied[file])
        for file, h in source.headers.items()
    ]


def _rewrite(
    checkpoint: Checkpoint, places: Iterator[Path], written: WeightFiles
) -> list[_Weights]:
    return [
        _Weights(file, next(places), w.header, w.tensors, w.size, checkpoint, True)
        for file, w in written.layouts.items()
    ]


def _weights(plan: list[_Weights], pool: HashPool, stack: ExitStack) -> Ingested:
    sinks: dict[str, int | None] = {}
    for w in plan:
        sinks[w.record_path] = _create(w, stack) if w.copied else None
    # Largest first: one thread must not start on the largest when the others have finished.
    work = [(w, t) for w in plan for t in w.tensors]
    work.sort(key=lambda item: -item[1].nbytes)
    futures = {t.name: pool.tensor(w.source, t, sinks[w.record_path], t.offset) for w, t in work}
    digests = {name: future.result() for name, future in futures.items()}
    tensors = [TensorRecord(t.name, t.dtype, t.shape, digests[t.name]) for _, t in work]
    files = {
        FileRecord(
            w.record_path, tree_key(w.header, [digests[t.name] for t in w.tensors]), w.size
        ): w.staged
        for w in plan
    }
    return Ingested(tuple(sorted(tensors, key=lambda t: t.name)), files)


def _create(weights: _Weights, stack: ExitStack) -> int:
    fd = os.open(weights.staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    stack.callback(os.close, fd)
    os.ftruncate(fd, weights.size)
    write_at(fd, weights.header, 0)
    return fd


def _check_room(folder: Path, needed: int) -> None:
    """Better to refuse now than after an hour of writing."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StoreError(
            f"The store needs {needed:,} bytes and its disk has {free:,} free:",
            "the disk is full.",
            "Free some space, run `zoo gc`, or register with `--link-mode symlink`.",
            needed=needed,
            free=free,
        )
