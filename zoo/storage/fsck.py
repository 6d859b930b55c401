"""Prove that a zoo is whole: every object hashed again, the database checked, damage traced."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from zoo.checkpoints.hashing import HashPool
from zoo.checkpoints.safetensors import SafetensorsCheckpoint, open_files
from zoo.digest import tree_key, weights_digest
from zoo.errors import InvalidCheckpoint, NotFound, ZooError
from zoo.progress import NoProgress, Progress

if TYPE_CHECKING:
    from zoo.records import Version
    from zoo.registry import Registry

_AHEAD = 64
"""Objects in work at once: enough to keep the threads busy, few enough to be open files."""


DATABASE = "database"
"""What stands for an object's key when it is the database that is damaged."""


class Damage(TypedDict):
    """One object whose bytes are not those its key names, or that is gone."""

    object: str
    """Its key, or `database`."""
    problem: str
    versions: list[str]
    """References of the versions that hold it."""
    descendants: list[str]
    """References of the versions merged or fine-tuned from those, removed ones included."""


@dataclass(frozen=True, slots=True)
class FsckReport:
    """What was found; `ok` when nothing is damaged."""

    ok: bool
    checked_objects: int
    checked_bytes: int
    damaged: list[Damage]
    notes: list[str]
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
    stored = {key: size for key, _, size in registry.store.objects()}
    damaged = [*damaged_objects(registry, progress, threads), *_database_damage(registry)]
    notes = list(_view_notes(registry))
    if garbage := stored.keys() - registry.catalog.live_objects():
        size = sum(stored[key] for key in garbage)
        notes.insert(0, f"{len(garbage)} objects of {size:,} bytes are in no version: `zoo gc`.")
    return FsckReport(
        ok=not damaged,
        checked_objects=len(stored),
        checked_bytes=sum(stored.values()),
        damaged=damaged,
        notes=notes,
    )


def damaged_objects(
    registry: Registry, progress: Progress | None = None, threads: int | None = None
) -> list[Damage]:
    """Hash every object again; the store's part of `fsck`."""
    # What is alive first: objects are placed before the commit, so each of these must be there.
    live = registry.catalog.live_objects()
    stored = {key: (path, size) for key, path, size in registry.store.objects()}
    progress = progress or NoProgress()
    progress.start(sum(size for _, size in stored.values()), "check")
    try:
        with HashPool(threads, progress) as pool:
            work = ((key, path) for key, (path, _) in stored.items())
            problems = {
                key: problem for key, problem in _in_flight(work, pool, progress) if problem
            }
    finally:
        progress.done()
    problems.update((key, "it is missing") for key in live - stored.keys())
    if problems:
        # Removed and collected while we looked: gone, and rightly so.
        live = registry.catalog.live_objects()
        problems = {k: p for k, p in problems.items() if k in live or registry.store.has(k)}
    return [_trace(registry, key, problems[key]) for key in sorted(problems)]


def _in_flight(
    work: Iterator[tuple[str, Path]], pool: HashPool, progress: Progress
) -> Iterator[tuple[str, str]]:
    """(key, problem or "") of each object, with the next ones already being hashed."""
    started: deque[tuple[str, Callable[[], str]]] = deque()
    with ExitStack() as stack:
        for key, path in work:
            started.append((key, _start(key, path, pool, progress, stack)))
            if len(started) >= _AHEAD:
                key, finish = started.popleft()
                yield key, finish()
        while started:
            key, finish = started.popleft()
            yield key, finish()


def _start(
    key: str, path: Path, pool: HashPool, progress: Progress, stack: ExitStack
) -> Callable[[], str]:
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
    progress.advance(len(header.raw))
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
        object=key,
        problem=problem,
        versions=[v.ref for v in versions],
        descendants=[descendants[place] for place in sorted(descendants)],
    )


def _database_damage(registry: Registry) -> Iterator[Damage]:
    """SQLite's own check, the audit chain, and digests that do not add up."""
    for problem in [*_pages(registry), *registry.catalog.check_audit()]:
        yield Damage(object=DATABASE, problem=problem, versions=[], descendants=[])
    by_digest: dict[str, list[Version]] = {}
    for version in registry.catalog.select():
        by_digest.setdefault(version.digest, []).append(version)
    for digest, versions in by_digest.items():
        if problem := _manifest_problem(registry, versions[0].id, digest):
            refs = [v.ref for v in versions]
            yield Damage(object=DATABASE, problem=problem, versions=refs, descendants=[])


def _pages(registry: Registry) -> Iterator[str]:
    from sqlalchemy import text

    if registry.catalog.database.path is None:
        return  # PostgreSQL checks its own pages
    with registry.catalog.database.read() as connection:
        for (line,) in connection.execute(text("PRAGMA integrity_check")):
            if line != "ok":
                yield str(line)
        for row in connection.execute(text("PRAGMA foreign_key_check")):
            yield f"Row {row[1]} of table {row[0]} names a row of {row[2]} that is not there."


def _manifest_problem(registry: Registry, version_id: int, digest: str) -> str:
    try:
        tensors = registry.catalog.tensors(version_id)
        actual = weights_digest((t.name, t.digest) for t in tensors)
    except (ZooError, ValueError, zlib.error) as error:
        return f"The list of tensors cannot be read: {error}"
    return "" if actual == digest else f"The list of tensors adds up to {actual}, not to {digest}."


def _view_notes(registry: Registry) -> Iterator[str]:
    views = set(registry.store.views())
    known = {(v.name, v.version): v for v in registry.catalog.select()}
    for name, number in sorted(views):
        version = known.get((name, number))
        if version is None:
            yield f"The directory of {name}@{number} is left over: `zoo gc`."
        elif not registry.store.view_is_current(name, number, registry.catalog.files(version.id)):
            yield f"The directory of {version.ref} was changed: `zoo path` rebuilds it."
