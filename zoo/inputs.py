"""From what a recipe names to opened models: references, paths, or a query."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.artifacts import KIND as ARTIFACT
from zoo.artifacts import artifact_of, attach
from zoo.digest import weights_digest
from zoo.errors import NotFound, StoreError, ZooError
from zoo.hashing import HashPool
from zoo.known_digests import LookUp
from zoo.overlays import FOLDER, is_overlay, task_names
from zoo.plan import Model
from zoo.rank_one import expanded
from zoo.recipe import Recipe
from zoo.records import FileRecord, RunInput, Version
from zoo.register import architecture_of, format_of, register, resolve_source
from zoo.safetensors_checkpoint import INDEX, SafetensorsCheckpoint, open_files, read_config

if TYPE_CHECKING:
    import torch

    Module = Callable[[], torch.nn.Module]

    from zoo.contract import Method
    from zoo.registry import Registry


_log = logging.getLogger("zoo")

RECIPE_FILE = "zoo_recipe.json"
"""The resolved recipe, in every merged version's directory: an exported model says what made it."""


@dataclass(frozen=True, slots=True)
class Input:
    """One parent of a merge."""

    model: Model
    version: Version | None
    """None for a path that is merged without being registered."""
    beside: Mapping[FileRecord, Path]
    """Files a merge takes over from its donor, and where they are now: configuration, tokenizer,
    code. Not the card, which describes another model."""
    artifacts: Mapping[str, Input] = field(default_factory=dict)
    """What the method needs beside an expert, by name."""

    @property
    def config(self) -> str | None:
        """Object key of its configuration."""
        return next((f.object for f in self.beside if f.path == "config.json"), None)

    def with_artifacts(self, found: Mapping[str, Input]) -> Input:
        """The same, with these artifacts as well."""
        kept = {**self.artifacts, **found}
        models = {role: one.model for role, one in kept.items()}
        return replace(self, model=replace(self.model, artifacts=models), artifacts=kept)


Made = str | Path | Input
"""What an earlier stage made: a version's reference, a directory, or what it will be."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """All parents of a merge, opened."""

    experts: tuple[Input, ...]
    base: Input | None
    selection: dict[str, Any] | None
    """The query as asked, and the versions it gave, frozen."""
    giver: Input | None = None
    """The donor, where the recipe names one."""

    @property
    def donor(self) -> Input:
        """Whose configuration, tokenizer and other files the result carries."""
        return self.giver or self.base or self.experts[0]

    @property
    def tasks(self) -> list[str]:
        """What each expert's task is called: as it is registered, or else, and where two experts
        have one task, as the entry is."""
        own = [e.version.task if e.version else None for e in self.experts]
        entries = [e.version.name if e.version else Path(e.model.label).stem for e in self.experts]
        return task_names(
            [t if t and own.count(t) == 1 else n for t, n in zip(own, entries, strict=True)]
        )

    def records(self, parameters: dict[str, Any]) -> tuple[RunInput, ...]:
        """The parents as a run remembers them."""
        weights = parameters.get("weight")
        found = []
        if self.base and self.base.version:
            found.append(RunInput(self.base.version.id, self.base.model.digest, "base", 0, None))
        for i, expert in enumerate(self.experts):
            if expert.version is None:
                continue
            weight = weights[i] if isinstance(weights, list) else None
            found.append(
                RunInput(
                    expert.version.id,
                    expert.model.digest,
                    "expert",
                    i,
                    float(weight) if isinstance(weight, (int, float)) else None,
                )
            )
            for role, artifact in expert.artifacts.items():
                if artifact.version is not None:
                    digest = artifact.model.digest
                    found.append(RunInput(artifact.version.id, digest, role, i, None))
        if self.giver and self.giver.version:
            digest = self.giver.model.digest
            if digest not in [i.digest for i in found]:
                found.append(RunInput(self.giver.version.id, digest, "donor", 0, None))
        return tuple(found)


def gather(
    registry: Registry,
    recipe: Recipe,
    method: Method,
    stack: ExitStack,
    *,
    threads: int,
    stages: Mapping[str, Made] | None = None,
    look_up: LookUp | None = None,
) -> Inputs:
    """Open everything a recipe names; the checkpoints close with `stack`.

    Args:
        stages: what the stages before this one made, by name; these go before other names.
        look_up: says which digests need no hashing; without it all bytes of all paths are hashed.
    Raises:
        NotFound: a name or path leads nowhere, or a query finds nothing.
    """
    opener = Opener(registry, stack, threads, stages, look_up)
    base = opener.open(recipe.base) if recipe.base is not None else None
    selection = None
    if recipe.select is not None:
        chosen = registry.catalog.select(
            recipe.select.where, recipe.select.order_by, recipe.select.limit
        )
        versions = [v for v in chosen if v.kind != ARTIFACT and (base is None or v != base.version)]
        if not versions:
            raise NotFound(
                f"No version fits `{recipe.select.where or 'everything'}`.",
                "There is nothing to merge.",
                "Try the query with `zoo ls --where`.",
                where=recipe.select.where,
            )
        experts = tuple(opener.version(v) for v in versions)
        selection = {
            "where": recipe.select.where,
            "order_by": recipe.select.order_by,
            "limit": recipe.select.limit,
            "frozen": [f"{v.ref}@{v.digest}" for v in versions],
        }
    else:
        experts = tuple(opener.open(e.model) for e in recipe.experts)
    if base is None and method.base == "required":
        base = _common_base(registry, experts, opener)
    named = [e.artifacts for e in recipe.experts] or [{}] * len(experts)
    experts = tuple(
        opener.with_artifacts(e, method.artifacts, own)
        for e, own in zip(experts, named, strict=True)
    )
    giver = None
    if recipe.donor is not None:
        at = next((i for i, e in enumerate(recipe.experts) if e.model == recipe.donor), None)
        giver = opener.open(recipe.donor) if at is None else experts[at]
    return Inputs(experts, base, selection, giver)


def open_version(registry: Registry, version: Version, stack: ExitStack) -> SafetensorsCheckpoint:
    """A stored version's checkpoint, read from its objects.

    Raises:
        NotFound: its objects were collected or lost.
    """
    files = registry.catalog.files(version.id)
    missing = [f for f in files if not registry.store.has(f.object)]
    if missing:
        raise NotFound(
            f"The bytes of `{version.ref}` are not in the store:",
            f"`{missing[0].path}` (object `{missing[0].object}`) is missing.",
            "Register the same files again to bring them back, or run `zoo fsck`.",
            ref=version.ref,
        )
    weights = {f.path: registry.store.path(f.object) for f in files if _is_weights(f)}
    checkpoint = stack.enter_context(open_files(weights, version.ref))
    config = next((f for f in files if f.path == "config.json"), None)
    if config is not None:
        found = read_config(registry.store.path(config.object))
        checkpoint.opened = replace(checkpoint.opened, config=found)
    return checkpoint


def _is_weights(file: FileRecord) -> bool:
    return file.path.endswith(".safetensors") and not is_overlay(file.path)


def is_carried(path: str) -> bool:
    """Whether a file beside the weights describes the architecture, not how the weights came."""
    if path in (RECIPE_FILE, "mergekit_config.yml", INDEX):
        return False
    return not path.endswith(".safetensors") and not path.startswith(("README", FOLDER))


class Opener:
    def __init__(
        self,
        registry: Registry,
        stack: ExitStack,
        threads: int,
        stages: Mapping[str, Made] | None = None,
        look_up: LookUp | None = None,
    ) -> None:
        self._registry = registry
        self._stack = stack
        self._threads = threads
        self._stages = stages or {}
        self._look_up = look_up

    def open(self, named: str) -> Input:
        """A stage, a reference, or a path: what the registry knows goes before files."""
        made = self._stages.get(named, named)
        if isinstance(made, Input):
            return made
        if isinstance(made, Path):
            # Its directory is here for this merge only.
            found = self._loose(str(made), look_up=None)
            return replace(found, model=replace(found.model, label=named))
        named = made
        if self._registry.is_absent and Path(named).exists():
            return self._loose(named, self._look_up)
        try:
            return self.version(self._registry.get(named))
        except ZooError as unknown:
            if not Path(named).exists() and "://" not in named:
                raise self._nowhere(named, unknown) from None
        return self._loose(named, self._look_up)

    def version(self, version: Version) -> Input:
        checkpoint = open_version(self._registry, version, self._stack)
        beside = {
            f: self._registry.store.path(f.object)
            for f in self._registry.catalog.files(version.id)
            if is_carried(f.path)
        }
        config = checkpoint.opened.config or {}
        module = self._module(
            version.architecture, config, lambda: self._registry.path(version.ref)
        )
        digests = {t.name: t.digest for t in self._registry.catalog.tensors(version.id)}
        model = Model(version.ref, version.digest, checkpoint, module, digests)
        return Input(model, version, beside)

    def _nowhere(self, named: str, unknown: ZooError) -> ZooError:
        """What to say of a name that neither the registry nor the file system knows."""
        if not isinstance(unknown, NotFound):
            return unknown
        if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(@[\w./-]+)?", named):  # as hubs name models
            return NotFound(
                f"There is no entry and no directory `{named}`.",
                "Models are not downloaded.",
                f"If it is on a hub: `hf download {named.partition('@')[0]}`, and give the "
                "directory that this prints.",
                name=named,
            )
        if self._registry.is_absent:
            return NotFound(
                f"There is no model `{named}`:",
                f"no such file or directory, and no registry at `{self._registry.url}` either.",
                "Correct the path, or name the registry: `zoo --registry PATH ...`.",
                name=named,
            )
        return unknown

    def artifact(self, version: Version) -> Input:
        return _whole(self.version(version))

    def with_artifacts(self, one: Input, roles: Sequence[str], named: Mapping[str, str]) -> Input:
        """An expert with what is named as its artifacts, or attached to it."""
        found = {}
        for role in roles:
            if role in named:
                found[role] = _whole(self.open(named[role]))
            elif one.version and (attached := artifact_of(self._registry, one.version, role)):
                found[role] = self.artifact(attached)
        return one.with_artifacts(found)

    def _module(
        self, name: str | None, config: Mapping[str, Any], directory: Callable[[], Path]
    ) -> Module | None:
        architecture = self._registry.plugins.architecture(name, config)
        return (lambda: architecture.load(directory())) if architecture else None

    def _loose(self, named: str, look_up: LookUp | None) -> Input:
        path = resolve_source(self._registry, named)
        checkpoint = self._stack.enter_context(format_of(self._registry, path).open(path))
        # The engine will want torch, and loading it takes a second that hashing leaves free. No
        # daemon: a process that ends while a library is being loaded can crash.
        threading.Thread(target=import_module, args=("torch",)).start()
        known = look_up(checkpoint) if look_up else None
        found = known.digests if known else {}
        with HashPool(self._threads) as pool:
            work = {
                n: pool.tensor(checkpoint, t)
                for n, t in checkpoint.tensors.items()
                if n not in found
            }
            files = {
                path: pool.file(source)
                for path, source in checkpoint.opened.auxiliary.items()
                if is_carried(path)
            }
            digests = {n: found.get(n) or work[n].result() for n in checkpoint.tensors}
            beside = {
                FileRecord(path, *f.result()): checkpoint.opened.auxiliary[path]
                for path, f in files.items()
            }
        if known:
            known.keep(digests)
        module = None
        if path.is_dir():
            config = checkpoint.opened.config or {}
            module = self._module(architecture_of(config), config, lambda: path)
        model = Model(named, weights_digest(digests.items()), checkpoint, module, digests)
        return Input(model, None, beside)


def _whole(one: Input) -> Input:
    """An artifact whose matrices are kept as sums, with the matrices."""
    return replace(one, model=replace(one.model, checkpoint=expanded(one.model.checkpoint)))


def registered(registry: Registry, inputs: Inputs, stack: ExitStack, *, threads: int) -> Inputs:
    """The same inputs with a version for each: models given by path are registered, or found.

    A path gets the version that has its weights and its configuration, if there is one, and else an
    entry of its own, named after the path; it never becomes a new version of an entry that is
    there. The configuration decides too what is merged: whether a head is tied, for instance.
    """
    opener = Opener(registry, stack, threads)

    def versioned(one: Input, kind: str) -> Input:
        own = one if one.version is not None else found_or_made(one, kind)
        return own.with_artifacts({r: attached(a, own, r) for r, a in one.artifacts.items()})

    def attached(one: Input, owner: Input, role: str) -> Input:
        if one.version is not None:
            return one
        assert owner.version is not None
        version = registry.catalog.by_digest(one.model.digest)
        if version is None:
            version = attach(registry, owner.version.ref, role, one.model.label, threads=threads)
            _log.warning("registered `%s` as `%s`", one.model.label, version.ref)
        return opener.artifact(unchanged(version, one))

    def found_or_made(one: Input, kind: str) -> Input:
        version = next(
            (
                v
                for v in registry.catalog.with_digest(one.model.digest)
                if _configuration(registry.catalog.files(v.id)) == _configuration(one.beside)
            ),
            None,
        )
        if version is None:
            name = _free_name(registry, Path(one.model.label), one.model.digest)
            version = register(registry, one.model.label, name=name, kind=kind, threads=threads)
            _log.warning("registered `%s` as `%s`", one.model.label, version.ref)
        return opener.version(unchanged(version, one))

    def unchanged(version: Version, one: Input) -> Version:
        if version.digest != one.model.digest:
            raise StoreError(
                f"`{one.model.label}` changed while it was registered.",
                "Its bytes are not those that were checked.",
                "Merge again when nobody writes to it.",
                path=one.model.label,
            )
        return version

    return Inputs(
        tuple(versioned(e, "expert") for e in inputs.experts),
        versioned(inputs.base, "base") if inputs.base else None,
        inputs.selection,
        versioned(inputs.giver, "expert") if inputs.giver else None,
    )


def _configuration(files: Iterable[FileRecord]) -> str | None:
    """The object of a model's configuration."""
    return next((f.object for f in files if f.path == "config.json"), None)


def _free_name(registry: Registry, path: Path, digest: str) -> str:
    """A name after a path that no entry has yet."""
    stem = path.stem if path.is_file() else path.resolve().name
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:80] or "model"
    try:
        registry.catalog.get(name, removed=True)
    except NotFound:
        return name
    return f"{name}-{digest[7:15]}"


def _common_base(registry: Registry, experts: Sequence[Input], opener: Opener) -> Input | None:
    """The base all experts declare, or None: pre-flight then says that one is needed."""
    bases = {e.version.base if e.version else None for e in experts}
    if len(bases) == 1 and (ref := bases.pop()):
        return opener.version(registry.get(ref))
    return None
