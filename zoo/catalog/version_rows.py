"""From rows to `Version` records: a few statements for any number of versions."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select, select
from sqlalchemy.sql.elements import ColumnElement

from zoo.catalog import tables as t
from zoo.catalog.many import among, plain_rows
from zoo.records import Version

_base = t.versions.alias("base")
_base_entry = t.entries.alias("base_entry")
_v = t.versions.c
_VERSIONS = (
    select(
        _v.id,
        t.entries.c.name,
        _v.number,
        _v.kind,
        _base_entry.c.name,
        _base.c.number,
        _v.task,
        _v.phase,
        _v.phase_rule,
        _v.license,
        _v.architecture,
        t.manifests.c.digest,
        t.manifests.c.parameters,
        t.manifests.c.bytes,
        _v.created_at,
        _v.run_id,
        _v.source,
        _v.notes,
    )
    .join(t.entries, t.entries.c.id == _v.entry_id)
    .join(t.manifests, t.manifests.c.id == _v.manifest_id)
    .outerjoin(_base, _base.c.id == _v.base_id)
    .outerjoin(_base_entry, _base_entry.c.id == _base.c.entry_id)
)
_TAGS = select(t.tags.c.version_id, t.tags.c.key, t.tags.c.value).order_by(t.tags.c.key)
_METRICS = select(
    t.metrics.c.version_id, t.metrics.c.name, t.metrics.c.split, t.metrics.c.value
).order_by(t.metrics.c.name, t.metrics.c.split)
_ALIASES = select(t.aliases.c.version_id, t.aliases.c.alias).order_by(t.aliases.c.alias)


def load(connection: Connection, ids: Sequence[int], store: Path) -> list[Version]:
    """Records of the versions with these row ids, in their order; unknown ids are left out."""

    def of(query: Select[Any], version_id: ColumnElement[int]) -> Iterable[Any]:
        return plain_rows(connection, query.where(among(connection, version_id, ids)))

    tags: dict[int, dict[str, str]] = defaultdict(dict)
    for id_, key, value in of(_TAGS, t.tags.c.version_id):
        tags[id_][key] = value
    metrics: dict[int, dict[str, float]] = defaultdict(dict)
    for id_, name, split, value in of(_METRICS, t.metrics.c.version_id):
        metrics[id_][f"{name}/{split}" if split else name] = value
    aliases: dict[int, list[str]] = defaultdict(list)
    for id_, alias in of(_ALIASES, t.aliases.c.version_id):
        aliases[id_].append(alias)
    found: dict[int, Version] = {}
    for row in of(_VERSIONS, _v.id):
        id_, name, number, kind, base, base_number, *middle, run, source, notes = row
        task, phase, rule, license_, architecture, digest, parameters, size, created_at = middle
        found[id_] = Version(
            id=id_,
            name=name,
            version=number,
            kind=kind,
            base=None if base is None else f"{base}@{base_number}",
            task=task,
            phase=phase,
            phase_rule=rule,
            license=license_,
            architecture=architecture,
            digest=digest,
            parameters=parameters,
            bytes=size,
            created_at=created_at,
            run=run,
            source=source,
            tags=tags.get(id_, {}),
            metrics=metrics.get(id_, {}),
            aliases=tuple(aliases.get(id_, ())),
            notes={} if notes == "{}" else json.loads(notes),
            path=f"{store}/views/{name}/{number}",
        )
    return [found[id_] for id_ in ids if id_ in found]
