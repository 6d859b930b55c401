"""The tables `zoo query` sees, and how each is read from the registry.

They are wider than the registry's own: every row carries the reference of its version, times are
timestamps (UTC), tensors have a row each. `TABLES` is also what the documentation lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Select, Table, cast, select
from sqlalchemy.sql.elements import ColumnElement

from zoo.catalog import tables as t
from zoo.catalog.additions import tensor_rows
from zoo.catalog.many import among

Scope = Literal["version", "run", "weights", "event", "whole"]
"""What a table is refreshed by: changed versions, their runs or weights, new events, or whole."""

PAGE = 2000
"""Rows fetched from the registry at a time."""


@dataclass(frozen=True)
class SnapshotTable:
    """One table of the snapshot."""

    name: str
    columns: dict[str, str]
    """Column name -> DuckDB type, in order."""
    scope: Scope
    key: str
    """The column whose values are replaced in a refresh."""
    query: Callable[[], Select[Any]]
    source: ColumnElement[Any]
    """The registry's column that corresponds to `key`."""

    def rows(self, connection: Connection, keys: Sequence[Any] | None) -> Iterator[Sequence[Any]]:
        """All rows, or those with one of these keys."""
        query = self.query()
        if keys is not None:
            query = query.where(among(connection, self.source, keys))
        result = connection.execute(query, execution_options={"yield_per": PAGE})
        if self.name != "tensors":
            yield from result
            return
        for weights, blob in result:
            for x in tensor_rows(blob):
                yield weights, x.name, x.dtype, list(x.shape), x.elements, x.nbytes, x.digest


_v, _e, _m = t.versions.c, t.entries.c, t.manifests.c
_base, _base_entry = t.versions.alias("base"), t.entries.alias("base_entry")
_parent, _parent_entry = t.versions.alias("parent"), t.entries.alias("parent_entry")


def _ref(entry: Any = t.entries, version: Any = t.versions) -> ColumnElement[str]:
    """`name@number` in SQL."""
    text: ColumnElement[str] = entry.c.name.concat("@").concat(cast(version.c.number, t.TEXT))
    return text


def _versions() -> Select[Any]:
    return (
        select(
            *(_v.id, _e.name, _v.number, _ref(), _v.kind, _ref(_base_entry, _base)),
            *(_v.task, _v.phase, _v.phase_rule, _v.license, _v.architecture),
            *(_m.digest, _m.parameters, _m.bytes, _v.created_at, _v.run_id),
            *(_v.source, _v.notes, _v.removed_at, _v.removed_reason),
        )
        .join(t.entries, _e.id == _v.entry_id)
        .join(t.manifests, _m.id == _v.manifest_id)
        .outerjoin(_base, _base.c.id == _v.base_id)
        .outerjoin(_base_entry, _base_entry.c.id == _base.c.entry_id)
    )


def _of_version(table: Table, *columns: Any) -> Select[Any]:
    """Columns of a table that belongs to versions, after the version's id and reference."""
    return (
        select(_v.id, _ref(), *columns)
        .select_from(table)
        .join(t.versions, _v.id == table.c.version_id)
        .join(t.entries, _e.id == _v.entry_id)
    )


def _measured(c: Any) -> list[Any]:
    return [c.name, c.split, c.value, c.stderr, c.dataset, c.protocol, c.environment, c.tool]


def _edges() -> Select[Any]:
    e = t.edges.c
    return (
        select(
            *(e.child_id, _ref(), e.parent_id, _ref(_parent_entry, _parent)),
            *(e.role, e.position, e.weight, _v.run_id),
        )
        .join(t.versions, _v.id == e.child_id)
        .join(t.entries, _e.id == _v.entry_id)
        .join(_parent, _parent.c.id == e.parent_id)
        .join(_parent_entry, _parent_entry.c.id == _parent.c.entry_id)
    )


def _group_metrics() -> Select[Any]:
    g, m = t.group_metrics.c, t.version_set_members.c
    return (
        select(g.set_id, _v.id, _ref(), *_measured(g), g.recorded_at)
        .join(t.version_set_members, m.set_id == g.set_id)
        .join(t.versions, _v.id == m.version_id)
        .join(t.entries, _e.id == _v.entry_id)
    )


def _runs() -> Select[Any]:
    r = t.runs.c
    return select(
        *(r.id, r.kind, r.method, r.method_version, r.plugin, r.plugin_version, r.code_hash),
        *(r.seed, r.recipe, r.recipe_digest, r.selection, r.environment, r.timings),
        *(r.started_at, r.ended_at),
    )


def _phase_rules() -> Select[Any]:
    r = t.phase_rules.c
    ref = r.name.concat("@").concat(cast(r.number, t.TEXT))
    return select(r.name, r.number, ref, r.thresholds, r.created_at)


_VERSION = {"version_id": "BIGINT", "ref": "VARCHAR"}
_MEASURED = {
    "metric": "VARCHAR",
    "split": "VARCHAR",
    "value": "DOUBLE",
    "stderr": "DOUBLE",
    "dataset": "VARCHAR",
    "protocol": "JSON",
    "environment": "JSON",
    "tool": "VARCHAR",
    "recorded_at": "TIMESTAMP",
}

TABLES = (
    SnapshotTable(
        "versions",
        {
            "id": "BIGINT",
            "name": "VARCHAR",
            "version": "BIGINT",
            "ref": "VARCHAR",
            "kind": "VARCHAR",
            "base": "VARCHAR",
            "task": "VARCHAR",
            "phase": "VARCHAR",
            "phase_rule": "VARCHAR",
            "license": "VARCHAR",
            "architecture": "VARCHAR",
            "digest": "VARCHAR",
            "parameters": "BIGINT",
            "bytes": "BIGINT",
            "created_at": "TIMESTAMP",
            "run": "VARCHAR",
            "source": "VARCHAR",
            "notes": "JSON",
            "removed_at": "TIMESTAMP",
            "removed_reason": "VARCHAR",
        },
        "version",
        "id",
        _versions,
        _v.id,
    ),
    SnapshotTable(
        "tags",
        {**_VERSION, "key": "VARCHAR", "value": "VARCHAR", "number": "DOUBLE"},
        "version",
        "version_id",
        lambda: _of_version(t.tags, t.tags.c.key, t.tags.c.value, t.tags.c.number),
        _v.id,
    ),
    SnapshotTable(
        "metrics",
        {**_VERSION, **_MEASURED},
        "version",
        "version_id",
        lambda: _of_version(t.metrics, *_measured(t.metrics.c), t.metrics.c.recorded_at),
        _v.id,
    ),
    SnapshotTable(
        "files",
        {**_VERSION, "path": "VARCHAR", "object": "VARCHAR", "bytes": "BIGINT"},
        "version",
        "version_id",
        lambda: _of_version(t.files, t.files.c.path, t.files.c.object, t.files.c.bytes),
        _v.id,
    ),
    SnapshotTable(
        "edges",
        {
            "child_id": "BIGINT",
            "child": "VARCHAR",
            "parent_id": "BIGINT",
            "parent": "VARCHAR",
            "role": "VARCHAR",
            "position": "BIGINT",
            "weight": "DOUBLE",
            "run": "VARCHAR",
        },
        "version",
        "child_id",
        _edges,
        t.edges.c.child_id,
    ),
    SnapshotTable(
        "tensors",
        {
            "weights": "VARCHAR",
            "name": "VARCHAR",
            "dtype": "VARCHAR",
            "shape": "BIGINT[]",
            "elements": "BIGINT",
            "bytes": "BIGINT",
            "digest": "VARCHAR",
        },
        "weights",
        "weights",
        lambda: select(_m.digest, _m.tensors),
        _m.digest,
    ),
    SnapshotTable(
        "runs",
        {
            "run": "VARCHAR",
            "kind": "VARCHAR",
            "method": "VARCHAR",
            "method_version": "VARCHAR",
            "plugin": "VARCHAR",
            "plugin_version": "VARCHAR",
            "code_hash": "VARCHAR",
            "seed": "BIGINT",
            "recipe": "JSON",
            "recipe_digest": "VARCHAR",
            "selection": "JSON",
            "environment": "JSON",
            "timings": "JSON",
            "started_at": "VARCHAR",
            "ended_at": "VARCHAR",
        },
        "run",
        "run",
        _runs,
        t.runs.c.id,
    ),
    SnapshotTable(
        "run_inputs",
        {
            **_VERSION,
            "run": "VARCHAR",
            "role": "VARCHAR",
            "position": "BIGINT",
            "digest": "VARCHAR",
            "weight": "DOUBLE",
        },
        "run",
        "run",
        lambda: _of_version(
            t.run_inputs,
            t.run_inputs.c.run_id,
            t.run_inputs.c.role,
            t.run_inputs.c.position,
            t.run_inputs.c.digest,
            t.run_inputs.c.weight,
        ),
        t.run_inputs.c.run_id,
    ),
    SnapshotTable(
        "aliases",
        {**_VERSION, "alias": "VARCHAR"},
        "whole",
        "alias",
        lambda: _of_version(t.aliases, t.aliases.c.alias),
        t.aliases.c.alias,
    ),
    SnapshotTable(
        "group_metrics",
        {"set_id": "BIGINT", **_VERSION, **_MEASURED},
        "whole",
        "set_id",
        _group_metrics,
        t.group_metrics.c.set_id,
    ),
    SnapshotTable(
        "tasks",
        {"name": "VARCHAR", "declaration": "JSON", "digests": "JSON", "created_at": "TIMESTAMP"},
        "whole",
        "name",
        lambda: select(
            *(t.tasks.c.name, t.tasks.c.declaration, t.tasks.c.digests, t.tasks.c.created_at)
        ),
        t.tasks.c.name,
    ),
    SnapshotTable(
        "phase_rules",
        {
            "name": "VARCHAR",
            "number": "BIGINT",
            "rule": "VARCHAR",
            "thresholds": "JSON",
            "created_at": "TIMESTAMP",
        },
        "whole",
        "name",
        _phase_rules,
        t.phase_rules.c.name,
    ),
    SnapshotTable(
        "events",
        {
            "sequence": "BIGINT",
            "happened_at": "TIMESTAMP",
            "action": "VARCHAR",
            "subject": "VARCHAR",
            "version_id": "BIGINT",
            "detail": "JSON",
            "hash": "VARCHAR",
        },
        "event",
        "sequence",
        lambda: select(
            t.events.c.sequence,
            t.events.c.at,
            t.events.c.action,
            t.events.c.subject,
            t.events.c.version_id,
            t.events.c.detail,
            t.events.c.hash,
        ),
        t.events.c.sequence,
    ),
)
"""Every table of the snapshot. `versions` also has `latest`: the newest live one of its name."""
