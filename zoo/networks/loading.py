"""From a reference to a module or to tensors: of a version, or of one of its tasks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from zoo.adapters.adapter import is_adapter
from zoo.checkpoint import Checkpoint, state_of
from zoo.checkpoints.components import stems_of, weight_files
from zoo.checkpoints.hashing import HashPool, write_at
from zoo.checkpoints.safetensors import SafetensorsCheckpoint, open_files, read_config
from zoo.engine.inputs import is_carried
from zoo.engine.opener import Opener, open_version
from zoo.errors import NotFound, VerificationFailed, ZooError, did_you_mean
from zoo.overlays.overlay import config_path, is_overlay, overlay_path, task_of
from zoo.overlays.task_model import TaskModel, needs_base
from zoo.source import format_of, local_path
from zoo.storage.register import architecture_of
from zoo.subject import unknown_architecture

if TYPE_CHECKING:
    import torch

    from zoo.architecture import Architecture
    from zoo.records import Version
    from zoo.registry import Registry


def load(
    ref: str | Path,
    *,
    task: str | None = None,
    base: str | Path | None = None,
    registry: Registry | str | Path | None = None,
) -> torch.nn.Module:
    """The runnable module of a version, or of the model that it has for one task, in eval mode.

    Args:
        ref: a reference, or a directory with a `config.json`: one that `zoo merge --out` or
            `zoo export` wrote, for instance.
        task: one of the tasks that `zoo show` lists; None gives the version itself, the trunk.
        base: where the base is, as a reference or path, when `ref` is a directory and the
            registry does not have it.
        registry: an open zoo, or where it is; `ZOO_REGISTRY` or `registry.db` by default.
    Returns:
        A new module at each call, on the CPU. Memory: the model, twice while it is read.
    Raises:
        NotFound: there is no such version or task, or the base is gone.
        PluginError: no plugin offers its architecture; `zoo.load_state` gives the tensors.
        InvalidCheckpoint: the weights are not those that its configuration asks for.
    """
    with _opened_registry(registry) as zoo, ExitStack() as stack:
        found = opened(zoo, str(ref), task, base, stack)
        architecture = _architecture(zoo, str(ref), found)
        if found.directory is not None:
            return architecture.load(found.directory())
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="zoo-")))
        write_model(found, directory)
        return architecture.load(directory)


def load_state(
    ref: str | Path,
    *,
    task: str | None = None,
    base: str | Path | None = None,
    registry: Registry | str | Path | None = None,
) -> dict[str, torch.Tensor]:
    """The tensors of a version, or of the model that it has for one task; no architecture needed.

    Args:
        ref, task, base, registry: as of `zoo.load`; a directory needs no `config.json`.
    Returns:
        Name -> tensor, names ascending, on the CPU: a state dict. Memory: the model.
    Raises:
        NotFound: there is no such version or task, or the base is gone.
    """
    with _opened_registry(registry) as zoo, ExitStack() as stack:
        return state_of(opened(zoo, str(ref), task, base, stack).model)


@contextmanager
def _opened_registry(registry: Registry | str | Path | None) -> Iterator[Registry]:
    from zoo.registry import DEFAULT_URL, Registry

    if isinstance(registry, Registry):
        yield registry
        return
    url = str(registry or os.environ.get("ZOO_REGISTRY") or DEFAULT_URL)
    with Registry(url, create=False) as own:
        yield own


def _architecture(registry: Registry, ref: str, found: Loadable) -> Architecture:
    """The architecture that builds a model.

    Raises:
        PluginError: no plugin offers it.
    """
    path = found.beside.get("config.json")
    config = (read_config(path) if path is not None else None) or {}
    architecture = registry.plugins.architecture(architecture_of(config), config)
    if architecture is None:
        raise unknown_architecture(
            ref,
            config,
            f"Its tensors alone: `zoo.load_state({ref!r})`, in Python.",
            list(registry.plugins.architectures),
        )
    return architecture


@dataclass(frozen=True, slots=True)
class Loadable:
    """A model that can be read, and the files beside its weights."""

    model: Checkpoint
    beside: Mapping[str, Path]
    """By path in the model's directory: configuration, tokenizer; overlays too."""
    directory: Callable[[], Path] | None = None
    """Gives where the model lies as it is, in safetensors files; None for one that is put together
    as it is read."""


def opened(
    registry: Registry, ref: str, task: str | None, base: str | Path | None, stack: ExitStack
) -> Loadable:
    """A version or a directory, opened; with `task`, the model of that task.

    Raises:
        NotFound: there is no such version or task, or the base is gone.
        VerificationFailed: `base` is not the base that the overlay was made with.
    """
    version = _version(registry, ref)
    if version is not None and is_adapter(version.notes):
        # The model that it and its base make, put together as it is read.
        made = Opener(registry, stack, min(16, os.cpu_count() or 1)).version(version)
        trunk: Checkpoint = made.model.checkpoint
        beside = {f.path: place for f, place in made.beside.items()}
        place: Callable[[], Path] | None = None
    elif version is not None:
        trunk = open_version(registry, version, stack)
        files = registry.catalog.files(version.id)
        beside = {
            f.path: registry.store.path(f.object)
            for f in files
            if is_overlay(f.path) or not f.path.endswith(".safetensors")
        }
        place = partial(registry.path, version.ref)
    else:
        path = local_path(registry, ref)
        trunk = stack.enter_context(format_of(registry, path).open(path))
        beside = dict(trunk.opened.auxiliary)
        place = (lambda: path) if path.is_dir() and trunk.opened.weight_files else None
    if task is None:
        return Loadable(trunk, beside, place)
    overlay = _overlay(ref, task, beside, stack)
    if (config := beside.get(config_path(task))) is not None:
        beside["config.json"] = config
    origin = None
    if needs_base(overlay):
        origin = _base(registry, ref, version, overlay, base, stack)
    return Loadable(TaskModel(trunk, overlay, origin), beside)


def _version(registry: Registry, ref: str) -> Version | None:
    """What the registry knows goes first; None for a path that it does not know."""
    if registry.is_absent and Path(ref).exists():
        return None
    try:
        return registry.get(ref)
    except ZooError:
        if not Path(ref).exists():
            raise
    return None


def _overlay(
    ref: str, task: str, beside: Mapping[str, Path], stack: ExitStack
) -> SafetensorsCheckpoint:
    found = beside.get(overlay_path(task))
    if found is None:
        tasks = tuple(task_of(path) for path in beside if is_overlay(path))
        raise NotFound(
            f"`{ref}` has no task `{task}`.",
            "" if tasks else "It is one model for everything.",
            did_you_mean(task, tasks) if tasks else "Leave out the task.",
            task=task,
            tasks=tasks,
        )
    return stack.enter_context(open_files({overlay_path(task): found}, f"{ref}, task {task}"))


def _base(
    registry: Registry,
    ref: str,
    version: Version | None,
    overlay: SafetensorsCheckpoint,
    given: str | Path | None,
    stack: ExitStack,
) -> Checkpoint:
    """The model the masks fall back to: the one named, the one of the run, or any with its
    weights. Never another: a base of other bytes would give a model that nobody made."""
    (header,) = overlay.headers.values()
    digest = header.metadata.get("base", "")
    if given is not None:
        found = Opener(registry, stack, min(16, os.cpu_count() or 1)).open(str(given)).model
        if found.digest != digest:
            raise VerificationFailed(
                f"`{given}` is not the base of `{ref}`:",
                f"its weights are {found.digest}, and the overlay was made with {digest}.",
                base=digest,
            )
        return found.checkpoint
    if not registry.is_absent:
        run = registry.catalog.run_of(version.id) if version else None
        bases = (
            [registry.catalog.by_id(i.version) for i in run.inputs if i.role == "base"]
            if run
            else []
        )
        if (known := registry.catalog.by_digest(digest)) is not None:
            bases.append(known)
        for candidate in bases:
            try:
                return open_version(registry, candidate, stack)
            except NotFound:
                continue  # its bytes were collected
    raise NotFound(
        f"The base of `{ref}` is gone: no version in the registry has weights {digest}.",
        "A task's mask chooses between the merged model and that base.",
        "Register the base again, or say where it is: `base=PATH`, on the command line "
        "`--base PATH`.",
        base=digest,
    )


def write_model(found: Loadable, directory: Path) -> None:
    """Write a model's weights, and what belongs beside them, as plain files.

    What describes the merge stays behind: its recipe, its card, its overlays.
    """
    model = found.model
    files = weight_files(list(model.tensors.values()), stems=stems_of(found.beside))
    with HashPool() as pool:
        for file, laid in files.layouts.items():
            (directory / file).parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(
                directory / file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666
            )
            try:
                os.ftruncate(fd, laid.size)
                write_at(fd, laid.header, 0)
                for work in [pool.tensor(model, t, fd, t.offset) for t in laid.tensors]:
                    work.result()
            finally:
                os.close(fd)
    for name, data in files.indexes.items():
        (directory / name).write_bytes(data)
    for path, source in found.beside.items():
        if is_carried(path):
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, directory / path)
