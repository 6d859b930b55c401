"""Prove that a zoo is whole: every object hashed again, the database checked, damage traced."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.digest import tree_key, weights_digest
from zoo.errors import InvalidCheckpoint, NotFound
from zoo.hashing import HashPool
from zoo.progress import NoProgress, Progress
from zoo.safetensors_checkpoint import SafetensorsCheckpoint, open_files

if TYPE_CHECKING:
    from zoo.registry import Registry

_AHEAD = 64
"""Objects in work at once: enough to keep the threads busy, few enough to be open files."""


@dataclass(frozen=True, slots=True)
class Damage:
    """One object whose bytes are not those its key names, or that is gone."""

    object: str
    problem: str
    versions: tuple[str, ...]
    """References of the versions that hold it."""
    descendants: tuple[str, ...]
    """References of the versions merged or fine-tuned from those."""


@dataclass(frozen=True, slots=True)
class FsckReport:
    """What was found."""

    ok: bool
    checked_objects: int
    checked_bytes: int
    damaged: tuple[Damage, ...]
    problems: tuple[str, ...]
    """What is wrong with the database: its file, the audit chain, digests that do not add up."""
    notes: tuple[str, ...]
    """What is harmless: garbage, directories to rebuild."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def fsck(
    registry: Registry, *, progress: Progress | None = None, threads: int | None = None
) -> FsckReport:
    """Check everything and change nothing. Others may work meanwhile.

    Every object is read whole, so every flipped bit is found: in a weights file's header, in a
    tensor, in any other file. Cost: one read of the store, at the speed of sha256 on all cores.
    """
    # What is alive first: objects are placed before the commit, so each of these must be there.
    live = registry.catalog.live_objects()
    stored = {key: (path, size) for key, path, size in registry.store.objects()}
    progress = progress or NoProgress()
    progress.start(sum(size for _, size in stored.values()), "check")
    problems: dict[str, str] = {}
    try:
        with HashPool(threads, progress) as pool:
            work = ((key, path) for key, (path, _) in stored.items())
            for key, problem in _in_flight(work, pool):
                if problem:
                    problems[key] = problem
    finally:
        progress.done()
    for key in live - stored.keys():
        problems[key] = "it is missing"
    if problems:
        # Removed and collected while we looked: gone, and rightly so.
        still_live = registry.catalog.live_objects()
        problems = {k: p for k, p in problems.items() if k in still_live or registry.store.has(k)}
    damaged = tuple(_trace(registry, key, problems[key]) for key in sorted(problems))
    wrong = tuple(_database_problems(registry))
    garbage = stored.keys() - live
    notes = list(_view_notes(registry))
    if garbage:
        size = sum(stored[key][1] for key in garbage)
        notes.insert(0, f"{len(garbage)} objects of {size:,} bytes are in no version: `zoo gc`.")
    return FsckReport(
        ok=not damaged and not wrong,
        checked_objects=len(stored),
        checked_bytes=sum(size for _, size in stored.values()),
        damaged=damaged,
        problems=wrong,
        notes=tuple(notes),
    )


def _in_flight(work: Iterator[tuple[str, Path]], pool: HashPool) -> Iterator[tuple[str, str]]:
    """(key, problem or "") of each object, with the next ones already being hashed."""
    started: deque[tuple[str, Callable[[], str]]] = deque()
    with ExitStack() as stack:
        for key, path in work:
            started.append((key, _start(key, path, pool, stack)))
            if len(started) >= _AHEAD:
                key, finish = started.popleft()
                yield key, finish()
        while started:
            key, finish = started.popleft()
            yield key, finish()


def _start(key: str, path: Path, pool: HashPool, stack: ExitStack) -> Callable[[], str]:
    """Begin to hash an object; the result waits for it and says what is wrong."""
    if key.startswith("flat:"):
        flat = pool.file(path)
        return lambda: _problem(lambda: flat.result()[0], key, path)
    try:
        checkpoint = open_files({"": path}, str(path))
    except (InvalidCheckpoint, NotFound) as error:
        problem = _sentence(error, path)
        return lambda: problem
    stack.callback(checkpoint.close)
    header = checkpoint.headers[""]
    futures = [pool.tensor(checkpoint, info) for info in header.tensors]
    return lambda: _problem(lambda: _tree(checkpoint, futures), key, path)


def _tree(checkpoint: SafetensorsCheckpoint, futures: list[Future[str]]) -> str:
    key = tree_key(checkpoint.headers[""].raw, [future.result() for future in futures])
    checkpoint.close()
    return key


def _problem(actual: Callable[[], str], key: str, path: Path) -> str:
    try:
        return "" if actual() == key else "its bytes have changed"
    except (InvalidCheckpoint, NotFound) as error:
        return _sentence(error, path)


def _sentence(error: InvalidCheckpoint | NotFound, path: Path) -> str:
    if path.is_symlink() and not path.exists():
        return f"it is a link to `{path.readlink()}`, which is gone"
    return str(error.facts.get("problem") or error.why.rstrip(".") or error.what)


def _trace(registry: Registry, key: str, problem: str) -> Damage:
    """Who is hit: the versions that hold the object, and all that came of them."""
    versions = registry.catalog.versions_with_object(key)
    descendants = {
        (d.name, d.version): d.ref for v in versions for d in registry.catalog.descendants(v.id)
    }
    return Damage(
        key,
        problem,
        tuple(v.ref for v in versions),
        tuple(descendants[place] for place in sorted(descendants)),
    )


def _database_problems(registry: Registry) -> Iterator[str]:
    yield from registry.catalog.check_integrity()
    yield from registry.catalog.check_audit()
    seen: set[str] = set()
    for version in registry.catalog.select():
        if version.digest in seen:
            continue
        seen.add(version.digest)
        tensors = registry.catalog.tensors(version.id)
        actual = weights_digest((t.name, t.digest) for t in tensors)
        if actual != version.digest:
            yield (
                f"The tensors recorded for {version.ref} add up to {actual}, "
                f"and its digest is {version.digest}."
            )


def _view_notes(registry: Registry) -> Iterator[str]:
    views = set(registry.store.views())
    known = {(v.name, v.version): v for v in registry.catalog.select()}
    for name, number in sorted(views):
        version = known.get((name, number))
        if version is None:
            yield f"The directory of {name}@{number} is left over: `zoo gc`."
        elif not registry.store.view_is_current(name, number, registry.catalog.files(version.id)):
            yield f"The directory of {version.ref} was changed: `zoo path` rebuilds it."
