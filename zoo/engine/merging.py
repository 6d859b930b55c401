"""Merge: from a request to a published version, or to a plain directory."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from zoo.cards.card import licence_of
from zoo.checkpoints.components import stems_of
from zoo.digest import flat_key, json_digest, weights_digest
from zoo.engine.beside import files_beside
from zoo.engine.execute import execute
from zoo.engine.gates import refuse_untied
from zoo.engine.gathering import gather
from zoo.engine.inputs import Inputs, Made
from zoo.engine.opener import Opener
from zoo.engine.plan import Plan, artifact_digests, plan
from zoo.engine.presented import Presented, presented
from zoo.engine.shards import ShardWriter
from zoo.engine.versioned import registered
from zoo.environment import check_device, run_environment
from zoo.errors import InvalidRecipe, NotFound
from zoo.families.renamed import with_common_names
from zoo.overlays.overlay import overlay_layouts
from zoo.progress import NoProgress, Progress
from zoo.recipes.recipe import Expert, Recipe, Selection, lock, read_recipe
from zoo.records import FileRecord, RunDraft, TensorRecord, Version, VersionDraft
from zoo.storage.becoming import becoming, check_result
from zoo.storage.known_digests import LookUp, known_digests
from zoo.storage.publish import publish
from zoo.storage.register import architecture_of
from zoo.tasks.known import task_named
from zoo.tokenizers.vocabulary import Vocabulary, settled, shown

if TYPE_CHECKING:
    from zoo.contract import Method
    from zoo.registry import Registry
    from zoo.storage.store import Store


@dataclass(frozen=True, slots=True)
class Resources:
    """What a merge may use."""

    memory: int = 1 << 30
    """Bytes resident, the interpreter included."""
    threads: int = field(default_factory=lambda: min(16, os.cpu_count() or 1))
    device: str = "cpu"


def request(
    registry: Registry,
    recipe: str | Path | Mapping[str, Any] | None,
    *,
    method: str | None = None,
    experts: Sequence[str] | None = None,
    where: str | None = None,
    order_by: str | None = None,
    limit: int | None = None,
    base: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> Recipe:
    """One recipe from a document, from options, or from a document that options override.

    Raises:
        InvalidRecipe: neither is given, or they contradict each other.
    """
    selecting = where is not None or order_by is not None or limit is not None
    if recipe is None and method is None:
        raise InvalidRecipe("A merge needs a recipe or a method.", how="Give one of the two.")
    if experts and selecting:
        raise InvalidRecipe("Name the experts, or select them by a query; not both.")
    if recipe is not None:
        asked = read_recipe(recipe, registry.plugins.methods)
        if method is not None and method != asked.method:
            raise InvalidRecipe(f"The recipe's method is `{asked.method}`, not `{method}`.")
    else:
        assert method is not None
        if not experts and not selecting:
            raise InvalidRecipe(
                "Nothing says what to merge.", how="Select with --where, or name the experts."
            )
        asked = Recipe(registry.plugins.method(method).name)
    if asked.slices and (experts or selecting or base is not None):
        raise InvalidRecipe(
            "The recipe's slices say which models are merged.",
            how="Change them there, or write a recipe with `experts`.",
        )
    over = parameters or {}
    own = (replace(e, parameters=_without(e.parameters, over)) for e in asked.experts)
    slices = (s.without(over) for s in asked.slices)
    asked = replace(asked, experts=tuple(own), slices=tuple(slices))
    if experts:
        asked = replace(asked, experts=tuple(Expert(e) for e in experts), select=None)
    if selecting:
        asked = replace(asked, experts=(), select=Selection(where, order_by, limit))
    return replace(
        asked,
        base=base if base is not None else asked.base,
        parameters={**asked.parameters, **over},
        seed=asked.seed if seed is None else seed,
    )


def _without(found: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {k: v for k, v in found.items() if k not in keys}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A merge that passed pre-flight; its inputs are open."""

    plan: Plan
    inputs: Inputs
    models: Presented
    """The inputs as they are merged."""
    data: Callable[[], Iterable[Any]] | None = None
    """Gives the batches of the recipe's task."""
    vocabulary: Vocabulary | None = None
    """The result's, where the recipe says whose it is."""

    @property
    def lock(self) -> dict[str, Any]:
        return dict(self.plan.lock)

    @property
    def digest(self) -> str:
        return json_digest(self.lock)

    def execute(self, resources: Resources, **options: Any) -> dict[str, str]:
        """Run the engine; see `zoo.engine.execute.execute`."""
        digests: dict[str, str] = {}
        for count, part in self.plan.by_experts(len(self.models.experts)):
            digests |= execute(
                part,
                self.models.experts[:count],
                self.models.base,
                memory=resources.memory,
                threads=part.threads,
                device=resources.device,
                data=self.data,
                **options,
            )
        return digests


@contextmanager
def prepared(
    registry: Registry,
    asked: Recipe,
    resources: Resources,
    *,
    keep: bool,
    stages: Mapping[str, Made] | None = None,
    look_up: LookUp | None = None,
    fetch: bool = True,
    progress: Progress | None = None,
) -> Iterator[Prepared]:
    """Open the inputs and check everything. Nothing is written, but for registrations.

    Models that are elsewhere are checked by their headers, and fetched when all checks have passed.

    Args:
        fetch: False lets headers suffice: of models that are elsewhere there is nothing to read,
            and what stands for their digests is made of what the other side says of their files.
        stages: what the stages before this one made, by name.
        keep: register models given by path once all checks have passed, so that lineage has
            something to point at.
        look_up: as for `gather`; never with `keep`.
    """
    check_device(resources.device)
    method = registry.plugins.method(asked.method)
    with ExitStack() as stack:
        opener = Opener(registry, stack, resources.threads, stages, look_up)
        opener.progress = progress or NoProgress()
        opener.headers_only = True
        ready, inputs = _checked(registry, asked, method, opener, resources)
        if opener.remotes and fetch:
            opener.headers_only = False
            ready, inputs = _checked(registry, asked, method, opener, resources)
        if keep:
            inputs = registered(registry, inputs, stack, threads=resources.threads)
            named, _ = with_common_names(inputs)
            viewed, joint = shown(named, ready.lock)
            models = presented(viewed, ready.lock)
            ready = replace(ready, inputs=viewed, models=models, vocabulary=joint)
        yield ready


def _checked(
    registry: Registry, asked: Recipe, method: Method, opener: Opener, resources: Resources
) -> tuple[Prepared, Inputs]:
    """A merge of what the opener opens, planned.

    Returns:
        the merge, and its inputs before they are shown with a vocabulary.
    Raises:
        IncompatibleModels: with all problems.
    """
    inputs = gather(registry, asked, method, opener)
    digests = [e.model.digest for e in inputs.experts]
    base = inputs.base.model.digest if inputs.base else None
    beside = artifact_digests(method, [e.model for e in inputs.experts])
    configs = [i.config for i in (*inputs.experts, *([inputs.base] if inputs.base else []))]
    locked = lock(asked, method, base, digests, inputs.tasks, beside, configs)
    locked |= settled(asked, method, inputs, registry)
    named, renamed = with_common_names(inputs)
    viewed, joint = shown(named, locked)
    models = presented(viewed, locked)
    looked = (
        f"`{remote.origin}` was looked at by its headers: its digest here is a stand-in"
        for remote in (opener.remotes.values() if opener.headers_only else ())
    )
    work = plan(
        method,
        locked,
        models.experts,
        models.base,
        memory=resources.memory,
        threads=resources.threads,
        places=models.places,
        notes=(*asked.notes, *renamed, *(joint.notes if joint else ()), *models.notes, *looked),
    )
    return Prepared(work, viewed, models, data_of(registry, locked), joint), inputs


def data_of(registry: Registry, lock: Mapping[str, Any]) -> Callable[[], Iterable[Any]] | None:
    """The batches a lock names.

    Raises:
        InvalidRecipe: there is no such task.
    """
    if lock["data"] is None:
        return None
    name, split = lock["data"]["task"], lock["data"]["split"]
    try:
        task = task_named(registry, name)
    except NotFound as e:
        raise InvalidRecipe(e.what, e.why, e.how, **e.facts) from e
    return lambda: task.batches(split)


def merge(
    registry: Registry,
    asked: Recipe,
    *,
    name: str | None,
    out: Path | None,
    resources: Resources,
    task: str | None = None,
    phase: str | None = None,
    license: str | None = None,
    tags: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    stages: Mapping[str, Made] | None = None,
    rehash: bool = False,
) -> Version | None:
    """Merge, and publish the result as the next version of `name`, or write it to `out`, or both.

    A merge that dies is taken up where it was when the same recipe is run again.

    Args:
        rehash: hash all inputs, though they have not changed since they were hashed.
    Returns:
        The new version, or None when only a directory was written.
    """
    out = check_result(name, out)
    listening = progress or NoProgress()
    started, clock = datetime.now(UTC), time.monotonic()
    keep = name is not None
    # What a registry and its lineage say of bytes must come from the bytes.
    look_up = None if keep else lambda opened: known_digests(opened, rehash=rehash)
    with prepared(
        registry,
        asked,
        resources,
        keep=keep,
        stages=stages,
        look_up=look_up,
        progress=listening,
    ) as ready:
        planned = time.monotonic()
        license = license or licence_of(ready.inputs)
        versions = [expert.version for expert in ready.inputs.experts]
        registry.plugins.ask("zoo_before_merge", recipe=ready.lock, experts=versions)
        if name is None:
            assert out is not None
            _to_directory(ready, out, resources, listening, license)
            registry.plugins.notify("zoo_after_merge", version=None, recipe=ready.lock)
            return None
        with registry.store.staging("merge-" + ready.digest[7:], keep=True) as staging:
            writer, files = _make(ready, staging, resources, listening, license, registry.store)
            origin = registry.plugins.origin(ready.plan.method.name)
            run = RunDraft(
                id=str(uuid4()),
                kind="merge",
                inputs=ready.inputs.records(ready.lock["parameters"]),
                recipe=ready.lock,
                recipe_digest=ready.digest,
                method=ready.plan.method.name,
                method_version=ready.plan.method.version,
                plugin=origin.distribution,
                plugin_version=origin.version,
                code_hash=ready.plan.method.code_hash,
                seed=asked.seed,
                selection=ready.inputs.selection,
                environment=run_environment(
                    ready.plan.threads, resources.device, resources.memory, registry.plugins
                ),
                timings={
                    "plan": round(planned - clock, 3),
                    "merge": round(time.monotonic() - planned, 3),
                },
                started_at=started.isoformat(),
                ended_at=datetime.now(UTC).isoformat(),
            )
            draft = _draft(ready, name, writer.digests, files, task, phase, license, tags or {})
            staged = {r: p for r, p in files.items() if p.is_relative_to(staging)}
            version = publish(registry, staged, draft, run)
    registry.plugins.notify("zoo_after_merge", version=version, recipe=ready.lock)
    if out is not None:
        registry.export(version.ref, out)
    return version


def _make(
    ready: Prepared,
    staging: Path,
    resources: Resources,
    progress: Progress,
    licence: str | None,
    store: Store | None = None,
) -> tuple[ShardWriter, dict[FileRecord, Path]]:
    """Merge into `staging`, where it goes on from what it finds; all files of the result.

    Files the result takes over from its donor stay where they are. The journal stays too, so that
    a merge that dies while it is published need not be done again.
    """
    tensors = [t.info for t in ready.plan.tasks]
    overlays = overlay_layouts(ready.plan)
    # Other code may make other bytes of the same recipe: what it left is not taken up.
    key = ready.digest + ready.plan.method.code_hash
    stems = stems_of({r.path: p for r, p in ready.inputs.donor.beside.items()})
    writer = ShardWriter(staging, tensors, key, store, ready.lock["shard_bytes"], overlays, stems)
    try:
        writer.open(resources.threads, progress)
        left = [
            t.info.name
            for t in (*ready.plan.tasks, *ready.plan.apart)
            if any(made.name not in writer.digests for made in t.outputs)
        ]
        ready.execute(resources, sink=writer, only=left, progress=progress)
        refuse_untied(ready.plan.tasks, writer.digests)
        files = writer.files()
    finally:
        writer.close()
    made, kept = files_beside(ready, _weights_digest(ready, writer.digests), licence)
    for path, data in made.items():
        (staging / path).unlink(missing_ok=True)
        (staging / path).write_bytes(data)
        files[FileRecord(path, flat_key(data), len(data))] = staging / path
    return writer, files | kept


def _weights_digest(ready: Prepared, digests: Mapping[str, str]) -> str:
    return weights_digest((t.info.name, digests[t.info.name]) for t in ready.plan.tasks)


def _to_directory(
    ready: Prepared, out: Path, resources: Resources, progress: Progress, licence: str | None
) -> None:
    """Merge into a directory; the same merge to the same place resumes after a kill."""
    with becoming(out) as partial:
        writer, files = _make(ready, partial, resources, progress, licence)
        for record, path in files.items():
            target = partial / record.path
            if path != target:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
        writer.forget()


def _draft(
    ready: Prepared,
    name: str,
    digests: Mapping[str, str],
    files: Iterable[FileRecord],
    task: str | None,
    phase: str | None,
    license: str | None,
    tags: Mapping[str, str],
) -> VersionDraft:
    base = ready.inputs.base.version if ready.inputs.base else None
    return VersionDraft(
        name=name,
        kind="merge",
        digest=_weights_digest(ready, digests),
        tensors=tuple(
            TensorRecord(t.info.name, t.info.dtype, t.info.shape, digests[t.info.name])
            for t in ready.plan.tasks
        ),
        files=tuple(sorted(files, key=lambda f: f.path)),
        base=base.id if base else None,
        task=task,
        phase=phase,
        license=license,
        architecture=architecture_of(ready.inputs.donor.model.checkpoint.opened.config),
        tags=dict(tags),
        source=f"merge:{ready.plan.method.name}",
        notes=_notes(ready.plan),
    )


def _notes(plan: Plan) -> dict[str, Any]:
    """What is to be known of the result: what planning found, and which tensors are one."""
    ties: dict[str, list[str]] = {}
    for task in plan.tasks:
        if task.alias_of:
            ties.setdefault(task.alias_of, [task.alias_of]).append(task.info.name)
    return {
        **({"warnings": list(plan.notes)} if plan.notes else {}),
        **({"ties": list(ties.values())} if ties else {}),
    }
