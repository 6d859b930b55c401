"""Verify: are the bytes those on record, and does the recipe make them again?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from zoo.digest import flat_key_of_file, tree_key
from zoo.errors import InvalidRecipe, NotFound, VerificationFailed
from zoo.hashing import HashPool
from zoo.inputs import Inputs, Opener, open_version
from zoo.merging import Prepared, Resources, data_of
from zoo.plan import plan
from zoo.progress import NoProgress, Progress
from zoo.records import RunDraft, Version
from zoo.safetensors_header import layout, shards
from zoo.shards import weight_keys
from zoo.sinks import Discard

if TYPE_CHECKING:
    from zoo.registry import Registry


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verification found."""

    ok: bool
    checked: int
    """Tensors compared."""
    mismatched: tuple[str, ...]
    """Names of tensors, and paths of files, whose bytes are not those on record."""
    replay_class: str | None = None
    """`exact`: the method gives the same bytes anywhere. `platform`: on this platform. None: the
    version was read, not replayed."""
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        found = asdict(self)
        found["mismatched"] = list(self.mismatched)
        found["notes"] = list(self.notes)
        return found


def verify(
    registry: Registry, version: Version, *, threads: int, progress: Progress | None = None
) -> Verdict:
    """Hash every stored byte of a version and compare with the digests on record."""
    recorded = {t.name: t.digest for t in registry.catalog.tensors(version.id)}
    with ExitStack() as stack:
        checkpoint = open_version(registry, version, stack)
        listening = progress or NoProgress()
        listening.start(version.bytes, "verify")
        stack.callback(listening.done)
        pool = stack.enter_context(HashPool(threads, listening))
        work = {n: pool.tensor(checkpoint, t) for n, t in checkpoint.tensors.items()}
        found = {name: f.result() for name, f in work.items()}
    headers = checkpoint.headers
    wrong = [n for n in sorted(recorded.keys() | found) if recorded.get(n) != found.get(n)]
    for file in registry.catalog.files(version.id):
        if file.path in headers:
            header = headers[file.path]
            key = tree_key(header.raw, [found[t.name] for t in header.tensors])
            if key != file.object and not any(t.name in wrong for t in header.tensors):
                wrong.append(file.path)  # the header says something else of the same tensors
        elif flat_key_of_file(registry.store.path(file.object)) != file.object:
            wrong.append(file.path)
    return Verdict(not wrong, len(recorded), tuple(wrong))


def replay(
    registry: Registry,
    version: Version,
    *,
    sample: int | None,
    resources: Resources,
    progress: Progress | None = None,
) -> Verdict:
    """Merge again from the recorded parents and compare every byte, without writing any.

    Args:
        sample: derive only this many tensors, chosen by their digest so that anybody who repeats
            the check sees the same ones. Statistics of the whole model are computed all the same.
    Raises:
        NotFound: the version was not merged, or a parent's bytes are gone.
        VerificationFailed: the method is not the one that made it.
        InvalidRecipe: a sample of none.
    """
    if sample is not None and sample < 1:
        raise InvalidRecipe(f"A sample of {sample} tensors proves nothing.", sample=sample)
    run = registry.catalog.run_of(version.id)
    if run is None or run.kind != "merge":
        raise NotFound(
            f"`{version.ref}` was registered, not merged; there is no recipe to replay.",
            how=f"Compare its bytes with those on record: `zoo verify {version.ref}`.",
            ref=version.ref,
        )
    recorded = {t.name: t.digest for t in registry.catalog.tensors(version.id)}
    with _reopened(registry, run, resources) as ready:
        names = sorted(recorded, key=lambda n: hashlib.sha256(f"{run.id}{n}".encode()).digest())
        chosen = sorted(names[:sample])
        made = ready.execute(resources, sink=Discard(), only=chosen, progress=progress)
        wrong = [n for n in chosen if made.get(n) != recorded[n]]
        if sample is None and not wrong:
            wrong = _files_that_differ(registry, version, ready, made)
        method = ready.plan.method
        notes = [] if method.code_hash == run.code_hash else [_CODE_CHANGED]
        return Verdict(not wrong, len(chosen), tuple(wrong), method.replay, tuple(notes))


_CODE_CHANGED = "the method's code differs from the code that made this version"


def _files_that_differ(
    registry: Registry, version: Version, ready: Prepared, digests: Mapping[str, str]
) -> list[str]:
    """Weights files whose bytes the replay would not write: another header or another order."""
    laid = {
        f: layout(g)
        for f, g in shards([t.info for t in ready.plan.tasks], ready.lock["shard_bytes"]).items()
    }
    keys = weight_keys(laid, digests)
    stored = {
        f.path: f.object
        for f in registry.catalog.files(version.id)
        if f.path.endswith(".safetensors")
    }
    return sorted(p for p in keys.keys() | stored if keys.get(p) != stored.get(p))


@contextmanager
def _reopened(registry: Registry, run: RunDraft, resources: Resources) -> Iterator[Prepared]:
    """The recorded merge, ready to be carried out again."""
    method = registry.plugins.method(run.method)
    if method.version != run.method_version:
        raise VerificationFailed(
            f"Method `{run.method}` is version {method.version} here, and {run.method_version} "
            "made this version.",
            "Another version of a method may give other bytes.",
            f"Install `{run.plugin}` {run.plugin_version} and replay again.",
            method=run.method,
        )
    with ExitStack() as stack:
        opener = Opener(registry, stack, resources.threads)
        by_digest = {i.digest: registry.catalog.by_id(i.version) for i in run.inputs}
        lock = dict(run.recipe)
        experts = tuple(opener.version(by_digest[d]) for d in lock["experts"])
        base = opener.version(by_digest[lock["base"]]) if lock["base"] else None
        work = plan(
            method,
            lock,
            [e.model for e in experts],
            base.model if base else None,
            memory=resources.memory,
            threads=resources.threads,
        )
        yield Prepared(work, Inputs(experts, base, None), data_of(registry, lock))
