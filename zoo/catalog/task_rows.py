"""Tasks that were declared in the registry, as rows."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from zoo.catalog import tables as t
from zoo.catalog.additions import json_text
from zoo.catalog.audit import Happening
from zoo.errors import InvalidName, NotFound, RegistryError, did_you_mean
from zoo.records import TaskRecord

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


def declare(
    connection: Connection,
    at: str,
    name: str,
    declaration: Mapping[str, Any],
    digests: Mapping[str, str],
    replace: bool,
) -> list[Happening]:
    """Write a task; nothing happens where it is there with the same declaration and digests.

    Raises:
        InvalidName: the name has more than letters, digits, `.`, `_`, `-`.
        RegistryError: another declaration or other data under this name, and not `replace`.
    """
    if not _NAME.fullmatch(name):
        raise InvalidName(
            f"`{name}` cannot name a task:",
            "it must be letters, digits, `.`, `_` and `-`, 96 at most. `:` and `/` divide a task "
            "from its split and its parts where metrics are kept.",
            name=name,
        )
    row = {"declaration": json_text(declaration), "digests": json_text(digests)}
    before = read(connection, name)
    if before is None:
        connection.execute(insert(t.tasks), {"name": name, **row, "created_at": at})
        told = {"declaration": [None, dict(declaration)], "digests": [None, dict(digests)]}
        return [Happening("declare", name, None, told)]
    old = {"declaration": json_text(before.declaration), "digests": json_text(before.digests)}
    changed = [key for key in row if row[key] != old[key]]
    if not changed:
        return []
    if not replace:
        what = "another declaration" if "declaration" in changed else "other data"
        raise RegistryError(
            f"Task `{name}` is already there with {what}.",
            "What was measured on it would seem to be about the new one.",
            "Choose another name, or replace it and measure again.",
            task=name,
            before=getattr(before, changed[0]),
        )
    connection.execute(update(t.tasks).where(t.tasks.c.name == name).values(row))
    told = {
        "declaration": [dict(before.declaration), dict(declaration)],
        "digests": [dict(before.digests), dict(digests)],
    }
    return [Happening("declare", name, None, {key: told[key] for key in changed})]


def withdraw(connection: Connection, name: str) -> Happening:
    """Delete a task; what was measured on it stays.

    Raises:
        NotFound: none has this name.
    """
    before = read(connection, name)
    if before is None:
        known = list(connection.scalars(select(t.tasks.c.name).order_by(t.tasks.c.name)))
        raise NotFound(f"No task `{name}` was declared.", how=did_you_mean(name, known), task=name)
    connection.execute(delete(t.tasks).where(t.tasks.c.name == name))
    told = {
        "declaration": [dict(before.declaration), None],
        "digests": [dict(before.digests), None],
    }
    return Happening("withdraw", name, None, told)


def read(connection: Connection, name: str) -> TaskRecord | None:
    """The task of this name, or None."""
    return next(iter(listed(connection, name)), None)


def listed(connection: Connection, name: str | None = None) -> list[TaskRecord]:
    """All tasks, names ascending, or those of one name."""
    query = select(t.tasks).order_by(t.tasks.c.name)
    if name is not None:
        query = query.where(t.tasks.c.name == name)
    return [
        TaskRecord(
            row["name"],
            json.loads(row["declaration"]),
            json.loads(row["digests"]),
            row["created_at"],
        )
        for row in connection.execute(query).mappings()
    ]
