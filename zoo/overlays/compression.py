"""What a version with overlays takes, and how near its tasks come to the experts they stand for."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from zoo.checkpoint import Checkpoint
from zoo.checkpoints.reading import Reader
from zoo.dtypes import DTYPES
from zoo.engine.diff import RUNNING_STATISTICS
from zoo.engine.opener import open_version
from zoo.errors import InvalidRecipe, did_you_mean
from zoo.networks.loading import opened
from zoo.overlays.overlay import is_overlay, task_of
from zoo.progress import NoProgress, Progress

if TYPE_CHECKING:
    from zoo.records import Version
    from zoo.registry import Registry


@dataclass(frozen=True, slots=True)
class TaskSize:
    """What one task adds."""

    task: str
    bytes: int
    """Of its overlay."""
    expert: str | None
    """Reference of the expert it stands for; None where no run tells."""


@dataclass(frozen=True, slots=True)
class Compression:
    """Bytes of a version with overlays beside those of its experts. The base counts in neither:
    it is stored for both."""

    tasks: tuple[TaskSize, ...]
    trunk_bytes: int
    """Of the weights files; 0 where they are the base's own."""
    expert_bytes: int | None
    """Of all experts' tensors; None where no run tells which they were."""

    @property
    def bytes(self) -> int:
        return self.trunk_bytes + sum(t.bytes for t in self.tasks)

    @property
    def ratio(self) -> float | None:
        """How many times more the experts take, dimensionless."""
        return self.expert_bytes / self.bytes if self.expert_bytes and self.bytes else None

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "tasks": [asdict(t) for t in self.tasks]} | {
            "bytes": self.bytes,
            "ratio": self.ratio,
        }


@dataclass(frozen=True, slots=True)
class TaskError:
    """How far a task's model is from the expert it stands for, over all weights, in float64."""

    task: str
    relative: float
    """|task's - expert| / |expert|, dimensionless."""
    of_delta: float | None
    """|task's - expert| / |expert - base|; the base itself would have 1. None where the expert
    is the base."""


@dataclass(frozen=True, slots=True)
class Compressed:
    """A family of experts stored as one version."""

    version: Version
    sizes: Compression
    errors: tuple[TaskError, ...]
    """In the order of the experts."""

    def as_dict(self) -> dict[str, Any]:
        return {
            **self.version.as_dict(),
            "overlays": self.sizes.as_dict(),
            "errors": [asdict(e) for e in self.errors],
        }


def compress(
    registry: Registry,
    recipe: Mapping[str, Any],
    *,
    name: str,
    threads: int | None,
    progress: Progress | None = None,
    **options: Any,
) -> Compressed:
    """Merge by a method that keeps parts per task, and compare each task with its expert.

    Args:
        recipe: as for `Registry.merge`.
        options: others of `Registry.merge`.
    Raises:
        InvalidRecipe: the method makes one model and keeps nothing per task.
    """
    method = registry.plugins.method(str(recipe["method"]))
    if method.overlays is None:
        able = tuple(n for n, m in registry.plugins.methods.items() if m.overlays is not None)
        raise InvalidRecipe(
            f"Method `{method.name}` makes one model and keeps nothing per task.",
            how=did_you_mean(method.name, able),
            method=method.name,
        )
    version = registry.merge(recipe, name=name, threads=threads, progress=progress, **options)
    assert version is not None
    sizes = compression(registry, version)
    assert sizes is not None
    errors = reconstruction_errors(
        registry, version, threads=threads or os.cpu_count() or 1, progress=progress
    )
    return Compressed(version, sizes, errors)


def compression(registry: Registry, version: Version) -> Compression | None:
    """What a version takes; None where it has no overlays."""
    files = registry.catalog.files(version.id)
    sizes = {task_of(f.path): f.bytes for f in files if is_overlay(f.path)}
    if not sizes:
        return None
    base, experts = _parents(registry, version)
    shared = {f.object for b in base for f in registry.catalog.files(b.id)}
    return Compression(
        tuple(
            TaskSize(task, sizes[task], experts[task].ref if experts else None)
            for task in experts or sizes
        ),
        sum(
            f.bytes
            for f in files
            if f.path.endswith(".safetensors") and not is_overlay(f.path) and f.object not in shared
        ),
        sum(v.bytes for v in experts.values()) if experts else None,
    )


def _parents(registry: Registry, version: Version) -> tuple[list[Version], dict[str, Version]]:
    """The base of the version's run, if it has one, and the expert of each task; both empty
    where no run tells, as of a directory that was registered."""
    run = registry.catalog.run_of(version.id)
    if run is None:
        return [], {}
    base, experts = (
        [registry.catalog.by_id(i.version) for i in run.inputs if i.role == role]
        for role in ("base", "expert")
    )
    return base, dict(zip(run.recipe["tasks"], experts, strict=True))


def reconstruction_errors(
    registry: Registry, version: Version, *, threads: int, progress: Progress | None = None
) -> tuple[TaskError, ...]:
    """Compare each task's model with its expert, reading both once, in bounded memory.

    Running statistics of normalization are left out: they describe data, not the model.
    """
    base, experts = _parents(registry, version)
    listening = progress or NoProgress()
    listening.start(sum(v.bytes for v in experts.values()), "compare")
    found = []
    try:
        for task, expert in experts.items():
            with ExitStack() as stack:
                models = [opened(registry, version.ref, task, None, stack).model]
                models += [open_version(registry, v, stack) for v in (expert, *base)]
                found.append(_error(task, models, threads, listening))
    finally:
        listening.done()
    return tuple(found)


def _error(task: str, models: Sequence[Checkpoint], threads: int, progress: Progress) -> TaskError:
    """`models` are the task's, the expert, and the base."""
    reader = Reader(wide=True)
    names = [
        name
        for name, info in models[1].tensors.items()
        if DTYPES[info.dtype].merges and not name.endswith(RUNNING_STATISTICS)
    ]

    def sums(name: str) -> tuple[float, float, float]:
        """|task's - expert|^2, |expert|^2, |expert - base|^2 of one tensor."""
        shape = models[1].tensors[name].shape
        here = [m for m in models if name in m.tensors and m.tensors[name].shape == shape]
        wrong = whole = moved = 0.0
        for _, values in reader.chunks(name, here):
            made, expert = values[0], values[1]
            whole += float(expert.dot(expert))
            # A head that the base lacks came into being with the expert.
            delta = expert - values[2] if len(here) > 2 else expert
            moved += float(delta.dot(delta))
            made.sub_(expert)
            wrong += float(made.dot(made))
        progress.advance(models[1].tensors[name].nbytes)
        return wrong, whole, moved

    with ThreadPoolExecutor(threads, "zoo-compare") as pool:
        found = list(pool.map(sums, names))
    wrong, whole, moved = (math.sqrt(math.fsum(part)) for part in _columns(found))
    return TaskError(task, wrong / whole if whole else wrong, wrong / moved if moved else None)


def _columns(rows: Sequence[tuple[float, float, float]]) -> Iterator[list[float]]:
    for i in range(3):
        yield [row[i] for row in rows]
