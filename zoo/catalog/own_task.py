"""The bare names of what was measured on a version's own task, when it is given another task.

`zoo.measuring.recording` says what they are: `accuracy` beside `accuracy/TASK`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Table, delete, insert, select
from sqlalchemy.sql.elements import ColumnElement

from zoo.catalog import tables as t

Change = list[Any]
"""[name, split, value before, value after], as the audit log keeps it."""


def follow(connection: Connection, version_id: int, before: str | None, after: str) -> list[Change]:
    """Take the bare names away from values on the task before, and give them to those on the task
    after, of the version and of the sets it is in; a value that is there under one stays.

    Returns:
        What changed of the version's own values.
    """
    m, g, s, v = t.metrics.c, t.group_metrics.c, t.version_set_members.c, t.versions.c
    changes = _follow(connection, t.metrics, m.version_id, version_id, before, after, True)
    sets = select(s.set_id).where(s.version_id == version_id)
    for set_id in list(connection.scalars(sets)):
        others = (
            select(v.task)
            .join(t.version_set_members, s.version_id == v.id)
            .where(s.set_id == set_id, v.id != version_id)
        )
        agree = all(task == after for task in connection.scalars(others))
        _follow(connection, t.group_metrics, g.set_id, set_id, before, after, agree)
    return changes


def _follow(
    connection: Connection,
    table: Table,
    key: ColumnElement[int],
    id_: int,
    before: str | None,
    after: str,
    gives: bool,
) -> list[Change]:
    rows = [
        row
        for row in connection.execute(select(table).where(key == id_)).mappings()
        if row["dataset"] in (before, after)
    ]
    measured = [row for row in rows if _task(row) == row["dataset"]]
    gone = [row for row in measured if row["dataset"] == before and _is_bare(row)]
    for row in gone:
        same = (table.c.name == row["name"]) & (table.c.split == row["split"])
        connection.execute(delete(table).where(key == id_, same))
    changes: list[Change] = [[row["name"], row["split"], row["value"], None] for row in gone]
    if not gives:
        return changes
    named = select(table.c.name, table.c.split).where(key == id_)
    taken = {(row.name, row.split) for row in connection.execute(named)}
    found = [
        {**row, "split": part}
        for row in measured
        if row["dataset"] == after and (part := _part(row)) is not None
    ]
    new = [row for row in found if (row["name"], row["split"]) not in taken]
    if new:
        connection.execute(insert(table), new)
    return changes + [[row["name"], row["split"], None, row["value"]] for row in new]


def _task(row: Mapping[Any, Any]) -> str | None:
    """The task that a value was measured on; None where it was asserted."""
    found: str | None = json.loads(row["protocol"]).get("task")
    return found


def _part(row: Mapping[Any, Any]) -> str | None:
    """The part of a value on the task's usual split; None for bare names."""
    task, split = row["dataset"], row["split"]
    if split == task:
        return ""
    return split[len(task) + 1 :] if split.startswith(f"{task}/") else None


def _is_bare(row: Mapping[Any, Any]) -> bool:
    task, split = row["dataset"], row["split"]
    return bool(split != task and not split.startswith((f"{task}/", f"{task}:")))
