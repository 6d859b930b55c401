"""A version for every model that is given by path: lineage needs something to point at."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.adapters.peft_config import CONFIG
from zoo.catalog.origins import hub_model
from zoo.engine.inputs import Input, Inputs
from zoo.engine.opener import Opener
from zoo.errors import NotFound, StoreError
from zoo.records import FileRecord, Version
from zoo.storage.artifacts import attach
from zoo.storage.register import register

if TYPE_CHECKING:
    from zoo.registry import Registry

_log = logging.getLogger("zoo")


def registered(registry: Registry, inputs: Inputs, stack: ExitStack, *, threads: int) -> Inputs:
    """The same inputs with a version for each; see `versioned`."""
    opener = Opener(registry, stack, threads)
    return Inputs(
        tuple(versioned(registry, e, opener, "expert") for e in inputs.experts),
        versioned(registry, inputs.base, opener, "base") if inputs.base else None,
        inputs.selection,
        versioned(registry, inputs.giver, opener, "expert") if inputs.giver else None,
        versioned(registry, inputs.speaker, opener, "expert") if inputs.speaker else None,
    )


def versioned(registry: Registry, one: Input, opener: Opener, role: str) -> Input:
    """The same model as a version: one given by path is registered, or found.

    A path gets the version that has its weights and its configuration, if there is one, and else an
    entry of its own, named after the path; it never becomes a new version of an entry that is
    there. The configuration decides too what is merged: whether a head is tied, for instance.
    """
    own = one
    if one.version is None:
        own = _found_or_made(registry, one, opener, "base" if role == "base" else "expert")
    beside = {r: _attached(registry, a, own, r, opener) for r, a in one.artifacts.items()}
    return own.with_artifacts(beside)


def _attached(registry: Registry, one: Input, owner: Input, role: str, opener: Opener) -> Input:
    if one.version is not None:
        return one
    assert owner.version is not None
    version = registry.catalog.by_digest(one.model.digest)
    if version is None:
        label = one.model.label
        version = attach(registry, owner.version.ref, role, label, threads=opener.threads)
        _log.warning("registered `%s` as `%s`", label, version.ref)
    return opener.artifact(_unchanged(version, one))


def _found_or_made(registry: Registry, one: Input, opener: Opener, kind: str) -> Input:
    catalog = registry.catalog
    if one.applied is not None:
        return _adapter(registry, one, opener)
    version = next(
        (
            v
            for v in catalog.with_digest(one.model.digest)
            if _configuration(catalog.files(v.id)) == _configuration(one.beside)
        ),
        None,
    )
    if version is None:
        label = one.model.label
        hub = hub_model(label)
        name = _free_name(registry, Path(hub.id if hub else label), one.model.digest)
        version = register(registry, label, name=name, kind=kind, threads=opener.threads)
        _log.warning("registered `%s` as `%s`", label, version.ref)
    return opener.version(_unchanged(version, one))


def _adapter(registry: Registry, one: Input, opener: Opener) -> Input:
    """An adapter given by path, as a version; its base too."""
    assert one.applied is not None
    catalog, applied = registry.catalog, one.applied
    base = versioned(registry, applied.base, opener, "base").version
    assert base is not None
    version = next(
        (
            v
            for v in catalog.with_digest(applied.factors)
            if v.base == base.ref and _object(catalog.files(v.id), CONFIG) == applied.config
        ),
        None,
    )
    if version is None:
        name = _free_name(registry, Path(applied.source), applied.factors)
        version = register(
            registry, applied.source, name=name, base=base.ref, threads=opener.threads
        )
        _log.warning("registered `%s` as `%s`", applied.source, version.ref)
    found = opener.version(version)
    if found.model.digest != one.model.digest:
        raise _changed(applied.source)
    return found


def _changed(source: str) -> StoreError:
    return StoreError(
        f"`{source}` changed while it was registered.",
        "Its bytes are not those that were checked.",
        "Merge again when nobody writes to it.",
        path=source,
    )


def _unchanged(version: Version, one: Input) -> Version:
    if version.digest != one.model.digest:
        raise _changed(one.model.label)
    return version


def _configuration(files: Iterable[FileRecord]) -> str | None:
    """The object of a model's configuration."""
    return _object(files, "config.json")


def _object(files: Iterable[FileRecord], path: str) -> str | None:
    return next((f.object for f in files if f.path == path), None)


def _free_name(registry: Registry, path: Path, digest: str) -> str:
    """A name after a path that no entry has yet."""
    stem = path.stem if path.is_file() else path.resolve().name
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:80] or "model"
    try:
        registry.catalog.get(name, removed=True)
    except NotFound:
        return name
    return f"{name}-{digest[7:15]}"
