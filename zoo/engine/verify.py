"""Verify: are the bytes those on record, and does the recipe make them again?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from zoo.checkpoints.components import stems_of, weight_files
from zoo.checkpoints.hashing import HashPool
from zoo.checkpoints.safetensors import SafetensorsCheckpoint, open_files
from zoo.digest import flat_key, flat_key_of_file, tree_key
from zoo.dtypes import DTYPES, torch_dtype
from zoo.engine.beside import tokenizer_files
from zoo.engine.inputs import Inputs
from zoo.engine.merging import Prepared, Resources, data_of
from zoo.engine.opener import Opener, open_version
from zoo.engine.plan import plan
from zoo.engine.presented import presented
from zoo.engine.shards import weight_keys
from zoo.engine.sinks import Discard, Distances
from zoo.environment import environment
from zoo.errors import InvalidRecipe, NotFound, VerificationFailed
from zoo.families.renamed import with_common_names
from zoo.overlays.overlay import is_overlay, name_in_merge, overlay_layouts
from zoo.progress import NoProgress, Progress
from zoo.recipes.recipe import ABSENT
from zoo.records import FileRecord, RunDraft, Version
from zoo.tokenizers.vocabulary import shown

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
    """`exact`: the method gives the same bytes anywhere. `platform`: on one platform, and values
    within its tolerance elsewhere. None: the version was read, not replayed."""
    notes: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    """Names of tensors that a replay on another platform made within the method's tolerance, and
    not to the byte."""

    def as_dict(self) -> dict[str, Any]:
        lists = {"mismatched", "notes", "near"}
        return {k: list(v) if k in lists else v for k, v in asdict(self).items()}


CODE_CHANGED = "the method's code differs from the code that made this version"
PLATFORM = ("torch", "numpy", "machine", "cpu_capability", "device")
"""Of a run's environment: what the bytes of a method of the class `platform` depend on."""


def verify(
    registry: Registry, version: Version, *, threads: int, progress: Progress | None = None
) -> Verdict:
    """Hash every stored byte of a version and compare with the digests on record."""
    recorded = {t.name: t.digest for t in registry.catalog.tensors(version.id)}
    files = registry.catalog.files(version.id)
    overlays = [f for f in files if is_overlay(f.path) and f.object.startswith("tree:")]
    with ExitStack() as stack:
        checkpoint = open_version(registry, version, stack)
        views = {f.path: _open_file(registry, f, stack) for f in overlays}
        listening = progress or NoProgress()
        listening.start(version.bytes + sum(f.bytes for f in overlays), "verify")
        stack.callback(listening.done)
        pool = stack.enter_context(HashPool(threads, listening))
        work = {n: pool.tensor(checkpoint, t) for n, t in checkpoint.tensors.items()}
        keys = {path: _tree_key(path, view, pool) for path, view in views.items()}
        found = {name: f.result() for name, f in work.items()}
    headers = checkpoint.headers
    wrong = [n for n in sorted(recorded.keys() | found) if recorded.get(n) != found.get(n)]
    for file in files:
        if file.path in keys:
            if keys[file.path] != file.object:
                wrong.append(file.path)
        elif file.path in headers:
            header = headers[file.path]
            key = tree_key(header.raw, [found[t.name] for t in header.tensors])
            if key != file.object and not any(t.name in wrong for t in header.tensors):
                wrong.append(file.path)  # the header says something else of the same tensors
        elif flat_key_of_file(registry.store.path(file.object)) != file.object:
            wrong.append(file.path)
    return Verdict(not wrong, len(recorded), tuple(wrong))


def _open_file(registry: Registry, file: FileRecord, stack: ExitStack) -> SafetensorsCheckpoint:
    return stack.enter_context(open_files({file.path: registry.store.path(file.object)}, file.path))


def _tree_key(path: str, view: SafetensorsCheckpoint, pool: HashPool) -> str:
    header = view.headers[path]
    digests = [pool.tensor(view, t) for t in header.tensors]
    return tree_key(header.raw, [d.result() for d in digests])


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
    if run is not None and run.kind == "transform":
        from zoo.engine.transforming import replayed

        return replayed(
            registry, version, run, sample=sample, resources=resources, progress=progress
        )
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
        apart = [t.info.name for t in ready.plan.apart if sample is None]
        made = ready.execute(resources, sink=Discard(), only=[*chosen, *apart], progress=progress)
        wrong = [n for n in chosen if made.get(n) != recorded[n]]
        method = ready.plan.method
        elsewhere = _elsewhere(run, resources) if method.replay == "platform" else ()
        near: list[str] = []
        if wrong and elsewhere:
            near = _near(registry, version, ready, wrong, resources, progress)
            wrong = [n for n in wrong if n not in near]
            made |= {n: recorded[n] for n in near}
        if not wrong:
            differing = _files_that_differ if sample is None else _parts_that_differ
            wrong = differing(registry, version, ready, made)
        notes = [] if method.code_hash == run.code_hash else [CODE_CHANGED]
        notes += [f"it was made on another platform: {', '.join(elsewhere)}"] if elsewhere else []
        return Verdict(
            not wrong, len(chosen), tuple(wrong), method.replay, tuple(notes), tuple(near)
        )


def _elsewhere(run: RunDraft, resources: Resources) -> tuple[str, ...]:
    """What differs between the platform of a run and this one; empty when nothing does."""
    here = environment(resources.threads, resources.device, resources.memory)
    return tuple(
        f"{key} {run.environment[key]}, here {here[key]}"
        for key in PLATFORM
        if key in run.environment and run.environment[key] != here[key]
    )


def _near(
    registry: Registry,
    version: Version,
    ready: Prepared,
    names: Sequence[str],
    resources: Resources,
    progress: Progress | None,
) -> list[str]:
    """The tensors that are made again within the method's tolerance of those that are stored, or
    within what their type can tell apart."""
    import torch

    with ExitStack() as stack:
        stored = open_version(registry, version, stack)
        distances = Distances(stored)
        ready.execute(resources, sink=distances, only=names, progress=progress)
        allowed = {
            n: max(ready.plan.method.tolerance, torch.finfo(torch_dtype(info.dtype)).eps)
            for n in names
            if DTYPES[(info := stored.tensors[n]).dtype].merges
        }
        return [n for n in names if n in allowed and distances.relative(n) <= allowed[n]]


def _files_that_differ(
    registry: Registry, version: Version, ready: Prepared, digests: Mapping[str, str]
) -> list[str]:
    """Files whose bytes the replay would not write: weights in another order or with another
    header, and the tokenizer where the merge makes one."""
    stems = stems_of({r.path: p for r, p in ready.inputs.donor.beside.items()})
    tensors = [t.info for t in ready.plan.tasks]
    laid = weight_files(tensors, ready.lock["shard_bytes"], stems).layouts
    keys = weight_keys(laid | overlay_layouts(ready.plan), digests)
    keys |= {name: flat_key(data) for name, data in tokenizer_files(ready).items()}
    stored = {
        f.path: f.object
        for f in registry.catalog.files(version.id)
        if f.path.endswith(".safetensors") or f.path in keys
    }
    return sorted(p for p in keys.keys() | stored if keys.get(p) != stored.get(p))


def _parts_that_differ(
    registry: Registry, version: Version, ready: Prepared, digests: Mapping[str, str]
) -> list[str]:
    """Tensors of stored overlays that are not those of a replay of some tensors."""
    stored = {f.path: f for f in registry.catalog.files(version.id) if is_overlay(f.path)}
    wrong = sorted(overlay_layouts(ready.plan).keys() ^ stored)
    with ExitStack() as stack:
        views = {path: _open_file(registry, file, stack) for path, file in stored.items()}
        pool = stack.enter_context(HashPool(ready.plan.threads))
        work = {
            name: pool.tensor(view, info)
            for path, view in views.items()
            for info in view.tensors.values()
            if (name := name_in_merge(path, info.name)) in digests
        }
        return wrong + sorted(n for n, f in work.items() if f.result() != digests[n])


@contextmanager
def _reopened(registry: Registry, run: RunDraft, resources: Resources) -> Iterator[Prepared]:
    """The recorded merge, ready to be carried out again."""
    if run.method not in registry.plugins.methods:
        given = f"`{run.plugin}` {run.plugin_version}".strip()
        raise NotFound(
            f"Method `{run.method}` made this version, and no plugin here offers it:",
            "a replay runs it again.",
            f"Install {given}, or name its directory with --plugins-dir.",
            method=run.method,
            plugin=run.plugin,
        )
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
        lock = {**ABSENT, **run.recipe}
        # Models of equal weights are told apart by their place.
        by_role = {(i.role, i.position): registry.catalog.by_id(i.version) for i in run.inputs}
        experts = tuple(opener.version(by_role["expert", i]) for i in range(len(lock["experts"])))
        for role, digests in lock.get("artifacts", {}).items():
            found = [opener.artifact(by_digest[d]) for d in digests]
            experts = tuple(
                e.with_artifacts({role: a}) for e, a in zip(experts, found, strict=True)
            )
        base = opener.version(by_role["base", 0]) if lock["base"] else None
        giver = None
        if lock["donor"]:
            giver = opener.version(by_role.get(("donor", 0)) or by_digest[lock["donor"]])
        speaker = by_role.get(("tokenizer", 0))
        voice = opener.version(speaker) if speaker else None
        named, _ = with_common_names(Inputs(experts, base, None, giver, voice))
        inputs, joint = shown(named, lock)
        models = presented(inputs, lock)
        work = plan(
            method,
            lock,
            models.experts,
            models.base,
            memory=resources.memory,
            threads=resources.threads,
            places=models.places,
        )
        yield Prepared(work, inputs, models, data_of(registry, lock), joint)
