"""Free what no version needs: unreferenced objects, left-over work, directories of the removed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.registry import Registry

DAY = 86_400.0
"""Seconds."""


@dataclass(frozen=True, slots=True)
class GcReport:
    """What was removed, or would be."""

    removed_objects: int
    removed_bytes: int
    removed_staging: int
    """Directories of work whose process is gone."""
    kept_objects: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def gc(registry: Registry, *, dry_run: bool = False, partial_age_days: float = 7.0) -> GcReport:
    """Mark and sweep, safe while others register and merge.

    Publishing excludes collecting, from the first object placed until the commit. So whatever is
    in place and in no version when we hold the lock is in nobody's hands.

    Args:
        dry_run: count, remove nothing.
        partial_age_days: unfinished merges are kept this long, in days, so that they can resume.
    """
    store = registry.store
    removed = freed = kept = 0
    with store.collecting():
        live = registry.catalog.live_objects()
        for key, _, size in store.objects():
            if key in live:
                kept += 1
                continue
            removed += 1
            freed += size
            if not dry_run:
                store.remove(key)
    # Views first, versions second: a version made in between is not taken for a removed one.
    views = list(store.views())
    versions = {(v.name, v.version) for v in registry.catalog.select()}
    for name, number in views:
        if (name, number) not in versions and not dry_run:
            store.drop_view(name, number)
    staging = 0
    for abandoned in store.abandoned():
        if abandoned.resumable and abandoned.age < partial_age_days * DAY:
            continue
        if dry_run or store.discard(abandoned):
            staging += 1
    return GcReport(removed, freed, staging, kept)
