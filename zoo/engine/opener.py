"""From a name in a recipe to an opened model: a stage, a reference to a version, or a path."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.adapters.adapter import is_adapter
from zoo.checkpoints.dequantize import dequantized_model
from zoo.checkpoints.hashing import HashPool
from zoo.checkpoints.rank_one import expanded
from zoo.checkpoints.safetensors import SafetensorsCheckpoint, open_files, read_config
from zoo.digest import flat_key_of_file, json_digest, weights_digest
from zoo.engine.inputs import Input, Made, is_carried
from zoo.engine.plan import Model
from zoo.errors import NotFound, UnsupportedFormat, ZooError
from zoo.overlays.overlay import is_overlay
from zoo.progress import NoProgress, Progress
from zoo.records import FileRecord, Version
from zoo.source import RemoteSource, format_of, outlined, resolve_source
from zoo.storage.artifacts import artifact_of
from zoo.storage.known_digests import LookUp
from zoo.storage.register import architecture_of

if TYPE_CHECKING:
    import torch

    Module = Callable[[], torch.nn.Module]

    from zoo.registry import Registry


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
    checkpoint = stack.enter_context(open_files(weights, version.ref, {f.path for f in files}))
    config = next((f for f in files if f.path == "config.json"), None)
    if config is not None:
        found = read_config(registry.store.path(config.object))
        checkpoint.opened = replace(checkpoint.opened, config=found)
    if ties := version.notes.get("ties"):
        checkpoint.opened = replace(checkpoint.opened, notes={"ties": ties})
    return checkpoint


def _is_weights(file: FileRecord) -> bool:
    return file.path.endswith(".safetensors") and not is_overlay(file.path)


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
        self.threads = threads
        self._stages = stages or {}
        self._look_up = look_up
        self.headers_only = False
        """Whether headers suffice for models that are elsewhere: nothing is fetched."""
        self.remotes: dict[str, RemoteSource] = {}
        """Models that are elsewhere, by name: each is asked once what its revision stands for."""
        self.progress: Progress = NoProgress()
        """Of what is fetched."""
        self._here: dict[str, Input] = {}
        """Models on this machine that no version is: each is hashed once."""
        self._opened: dict[int, Input] = {}
        """Versions that adapters are applied to, by row id: many adapters have one base."""
        self.foundation: Input | None = None
        """What adapters given by path are applied to, if they name nothing: the merge's base."""

    def open(self, named: str) -> Input:
        """A stage, a reference, or a path: what the registry knows goes before files.

        `BASE+ADAPTER` is an adapter on that base, as mergekit writes it.
        """
        base, plus, adapter = named.rpartition("+")
        if plus and named not in self._stages and not Path(named).exists():
            return self._on_base(self._named(adapter), self.open(base))
        return self._on_base(self._named(named), None)

    def _on_base(self, one: Input, base: Input | None) -> Input:
        """A model as it is; an adapter with its base, as the model they make together.

        Args:
            base: what it is applied to; the merge's base, or what the adapter names, by default.
        """
        if base is None and not is_adapter(one.model.checkpoint.opened.notes):
            return one  # a model; a stored adapter has its base already
        from zoo.adapters.inputs import adapted, named_base

        if base is None:
            base = self.foundation or self.open(named_base(self._registry, one))
        return adapted(one, base)

    def _named(self, named: str) -> Input:
        """What a name stands for; adapters given by path as they are."""
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
        """A stored version; an adapter with its base, as the model they make together.

        Raises:
            NotFound: its bytes, or those of an adapter's base, are gone.
            IncompatibleModels: an adapter and another base than it was registered with.
        """
        own = self._stored(version)
        if not is_adapter(version.notes):
            return own
        from zoo.adapters.inputs import adapted

        checkpoint = own.model.checkpoint
        checkpoint.opened = replace(checkpoint.opened, notes=version.notes)
        return adapted(own, self._base_of(version))

    def _base_of(self, version: Version) -> Input:
        """The version that an adapter belongs to."""
        if version.base is None:
            raise NotFound(
                f"`{version.ref}` is an adapter without a base.",
                how="Register it again, with `--base REF`.",
                ref=version.ref,
            )
        base = self._registry.catalog.get(version.base, removed=True)
        if base.id not in self._opened:
            self._opened[base.id] = self.version(base)
        return self._opened[base.id]

    def _stored(self, version: Version) -> Input:
        """A version's own tensors and files."""
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
        return Input(dequantized_model(model), version, beside)

    def _nowhere(self, named: str, unknown: ZooError) -> ZooError:
        """What to say of a name that neither the registry nor the file system knows."""
        if not isinstance(unknown, NotFound):
            return unknown
        if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(@[\w./-]+)?", named):  # as hubs name models
            return NotFound(
                f"There is no entry and no directory `{named}`.",
                "Models on a hub are written with `hf://` before them.",
                f"If it is on a hub, write `hf://{named}`.",
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
        """A model that no version is."""
        if named in self._here:
            return self._here[named]
        found = self.remotes.get(named) or resolve_source(self._registry, named)
        if isinstance(found, RemoteSource):
            self.remotes[named] = found
            if self.headers_only:
                return self._outlined(found)
            label, found = found.origin, found.fetch(self.progress)
            return self._local(label, found, look_up)
        self._here[named] = self._local(named, found, look_up)
        return self._here[named]

    def _outlined(self, remote: RemoteSource) -> Input:
        """A model of which only the headers are here. What stands for the digests of its tensors
        tells files apart as the other side does."""
        if not remote.has_headers:
            raise UnsupportedFormat(
                f"`{remote.origin}` keeps its weights in torch's own files:",
                "they have no header to look at before they are downloaded.",
                f"Bring it here first: `zoo pull {remote.origin}`.",
                source=remote.origin,
            )
        checkpoint = self._stack.enter_context(outlined(self._registry, remote))
        digests = {
            n: json_digest([remote.identity(t.file) or remote.origin, n])
            for n, t in checkpoint.tensors.items()
        }
        beside = {
            FileRecord(path, flat_key_of_file(file), file.stat().st_size): file
            for path, file in checkpoint.opened.auxiliary.items()
            if is_carried(path)
        }
        config = checkpoint.opened.config or {}
        module = self._module(architecture_of(config), config, lambda: Path(remote.origin))
        digest = weights_digest(digests.items())
        model = Model(remote.origin, digest, checkpoint, module, digests)
        return Input(dequantized_model(model), None, beside)

    def _local(self, named: str, path: Path, look_up: LookUp | None) -> Input:
        checkpoint = self._stack.enter_context(format_of(self._registry, path).open(path))
        # The engine will want torch, and loading it takes a second that hashing leaves free. No
        # daemon: a process that ends while a library is being loaded can crash.
        threading.Thread(target=import_module, args=("torch",)).start()
        known = look_up(checkpoint) if look_up else None
        found = known.digests if known else {}
        with HashPool(self.threads) as pool:
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
        return Input(dequantized_model(model), None, beside)


def _whole(one: Input) -> Input:
    """An artifact whose matrices are kept as sums, with the matrices."""
    return replace(one, model=replace(one.model, checkpoint=expanded(one.model.checkpoint)))
