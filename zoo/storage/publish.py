"""The one way versions come into being: objects first, then one database transaction."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import StoreError
from zoo.records import FileRecord, RunDraft, Version, VersionDraft

if TYPE_CHECKING:
    from zoo.registry import Registry

_log = logging.getLogger("zoo")


@dataclass(frozen=True, slots=True)
class Staged:
    """A version that only has to be published."""

    draft: VersionDraft
    files: Mapping[FileRecord, Path]
    """The files to place. Files of the draft that are not here must be in the store already: a
    merge carries its base's tokenizer without copying it."""


def publish(
    registry: Registry,
    staged: Mapping[FileRecord, Path],
    draft: VersionDraft,
    run: RunDraft | None = None,
) -> Version:
    """Make staged files a version, for registrations and merges alike; see `publish_all`.

    Raises:
        StoreError: a file is neither staged nor stored; disk full or read-only.
    """
    return publish_all(registry, [Staged(draft, staged)], [run])[0]


def publish_all(
    registry: Registry, staged: Sequence[Staged], runs: Sequence[RunDraft | None]
) -> list[Version]:
    """Make all of these versions, or none.

    The order is what keeps a crash harmless. Until the commit nobody sees anything, and what was
    placed is garbage that `zoo gc` takes. The lock keeps it from being taken too early.

        lock shared -> place objects, make them durable -> COMMIT -> unlock -> views, hooks

    Args:
        runs: what made each version; None where it was registered.
    Raises:
        StoreError: a file is neither staged nor stored; disk full or read-only.
    """
    drafts = [one.draft for one in staged]
    with registry.store.publishing():
        registry.store.place((path, r.object) for one in staged for r, path in one.files.items())
        missing = registry.store.settle({r.object for draft in drafts for r in draft.files})
        if missing:
            raise _missing(drafts, missing)
        versions = registry.catalog.add_many(drafts, runs)
    for version, draft in zip(versions, drafts, strict=True):
        try:
            registry.store.view(version.name, version.version, draft.files)
        except StoreError as error:
            # The version stands; its directory is derived, and is built when it is asked for.
            _log.warning(
                "%s is published, but its directory is not built yet: %s", version.ref, error
            )
    for version in versions:
        registry.plugins.notify("zoo_after_register", version=version)
    return versions


def _missing(drafts: Sequence[VersionDraft], missing: set[str]) -> StoreError:
    draft, record = next((d, r) for d in drafts for r in d.files if r.object in missing)
    return StoreError(
        f"`{record.path}` of `{draft.name}` is not in the store:",
        f"object `{record.object}` is missing.",
        "Run `zoo fsck` to see what else is damaged.",
        object=record.object,
        path=record.path,
    )
