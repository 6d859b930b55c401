"""Values that a new measurement makes old: what stands side by side was measured together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, delete, select
from sqlalchemy.sql.elements import ColumnElement

from zoo.records import MetricValue

PLACE = ("metric", "task", "split")
"""Of a protocol: what was measured, and on what."""
RULES = ("version", "parameters", "data", "samples", "batch", "seed")
"""Of a protocol: how."""


def drop(
    connection: Connection,
    table: Table,
    key: ColumnElement[int],
    id_: int,
    values: Sequence[MetricValue],
) -> list[list[Any]]:
    """Delete values of the same metric on the same task and split that were measured by other rules
    and are not among the new ones, such as a midpoint where now there is none.

    Args:
        table: `metrics` or `group_metrics`.
        key: its column that `id_` is of.
        values: the new ones, written already.
    Returns:
        What is gone, as the audit log keeps it: [name, split, value, None].
    """
    new = {_of(v.protocol, PLACE): v.protocol for v in values if "metric" in v.protocol}
    if not new:
        return []
    written = {(v.name, v.split) for v in values}
    gone = []
    for row in connection.execute(select(table).where(key == id_)).mappings():
        protocol = json.loads(row["protocol"])
        by = new.get(_of(protocol, PLACE))
        if by is None or (row["name"], row["split"]) in written:
            continue
        if _of(protocol, RULES) != _of(by, RULES):
            gone.append([row["name"], row["split"], row["value"], None])
    for name, split, *_ in gone:
        same = (table.c.name == name) & (table.c.split == split)
        connection.execute(delete(table).where(key == id_, same))
    return gone


def _of(protocol: Mapping[str, Any], keys: Sequence[str]) -> str:
    return json.dumps([protocol.get(key) for key in keys], sort_keys=True)
