"""The one way a version comes into being: objects first, then one database transaction."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import StoreError
from zoo.records import FileRecord, RunDraft, Version, VersionDraft

if TYPE_CHECKING:
    from zoo.registry import Registry

_log = logging.getLogger("zoo")


def publish(
    registry: Registry,
    staged: Mapping[FileRecord, Path],
    draft: VersionDraft,
    run: RunDraft | None = None,
) -> Version:
    """Make staged files a version, for registrations and merges alike.

    The order is what keeps a crash harmless. Until the commit nobody sees anything, and what was
    placed is garbage that `zoo gc` takes. The lock keeps it from being taken too early.

        lock shared -> place objects, make them durable -> COMMIT -> unlock -> view, hooks

    Args:
        staged: the files to place. Files of the draft that are not here must be in the store
            already: a merge carries its base's tokenizer without copying it.
    Raises:
        StoreError: a file is neither staged nor stored; disk full or read-only.
    """
    with registry.store.publishing():
        for record, path in staged.items():
            registry.store.place(path, record.object)
        for record in draft.files:
            if not registry.store.settle(record.object):
                raise StoreError(
                    f"`{record.path}` of `{draft.name}` is not in the store:",
                    f"object `{record.object}` is missing.",
                    "Run `zoo fsck` to see what else is damaged.",
                    object=record.object,
                    path=record.path,
                )
        version = registry.catalog.add(draft, run)
    try:
        registry.store.view(version.name, version.version, draft.files)
    except StoreError as error:
        # The version stands; its directory is derived, and is built when it is asked for.
        _log.warning("%s is published, but its directory is not built yet: %s", version.ref, error)
    registry.plugins.notify("zoo_after_register", version=version)
    return version
