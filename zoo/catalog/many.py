"""Conditions on many values at once, bound as one parameter.

A list in `IN (?, ?, ...)` stops at 32,766 values on SQLite and is compiled anew for every length.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, any_, func, literal, select
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
