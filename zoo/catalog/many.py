"""Many values in one condition, bound as one parameter; and many rows read at once.

A list in `IN (?, ?, ...)` stops at 32,766 values on SQLite and is compiled anew for every length.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, any_, func, literal, select
from sqlalchemy.sql.elements import ColumnElement


def among(
    connection: Connection, column: ColumnElement[Any], values: Sequence[int] | Sequence[str]
) -> ColumnElement[bool]:
    """Whether the column's value is one of these."""
    if connection.dialect.name == "sqlite":
        listed = func.json_each(json.dumps(list(values))).table_valued("value")
        return column.in_(select(listed.c.value))
    from sqlalchemy.dialects.postgresql import ARRAY

    return column == any_(literal(list(values), ARRAY(column.type)))


def plain_rows(connection: Connection, query: Select[Any]) -> list[tuple[Any, ...]]:
    """Rows as the driver's own tuples: a third of the time where there are thousands."""
    cursor = connection.execute(query).cursor
    assert cursor is not None  # a SELECT has one
    return list(cursor.fetchall())
