"""Metrics of sets of versions, such as a barrier between two; each set is stored once."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from zoo.catalog import superseded
from zoo.catalog import tables as t
from zoo.catalog.additions import metric_row
from zoo.catalog.audit import Happening
from zoo.catalog.many import among
from zoo.errors import NotFound, RegistryError
from zoo.records import MetricValue


def record(
    connection: Connection, at: str, version_ids: Iterable[int], values: Sequence[MetricValue]
) -> Happening:
    """Write the current values of metrics of a set; what they supersede goes.

    Raises:
        NotFound: a member does not exist.
        RegistryError: fewer than two members, or a value that is not finite.
    """
    members = sorted(set(version_ids))
    if len(members) < 2:
        raise RegistryError(
            f"What is measured of {len(members)} versions is no metric of a set.",
            "A set has two members or more.",
            "Record it with annotate.",
            members=members,
        )
    names = _refs(connection, members)
    missing = [str(id_) for id_ in members if id_ not in names]
    if missing:
        raise NotFound(f"There are no versions with row ids {', '.join(missing)}.")
    key = _key(members)
    s, g = t.version_sets.c, t.group_metrics.c
    set_id = connection.scalar(select(s.id).where(s.key == key))
    if set_id is None:
        set_id = connection.scalar(insert(t.version_sets).values(key=key).returning(s.id))
        connection.execute(
            insert(t.version_set_members),
            [{"set_id": set_id, "version_id": id_} for id_ in members],
        )
    changes = []
    for value in values:
        row = metric_row(value, at)
        same = (g.set_id == set_id) & (g.name == value.name) & (g.split == value.split)
        before = connection.scalar(select(g.value).where(same))
        connection.execute(delete(t.group_metrics).where(same))
        connection.execute(insert(t.group_metrics), {"set_id": set_id, **row})
        changes.append([value.name, value.split, before, row["value"]])
    changes += superseded.drop(connection, t.group_metrics, g.set_id, set_id, values)
    told = {"versions": members, "metrics": changes}
    return Happening("measure", "+".join(names[id_] for id_ in members), None, told)


def listed(connection: Connection, version_ids: Iterable[int] | None) -> list[dict[str, Any]]:
    """Metrics of exactly this set, or of all sets when None."""
    g, m = t.group_metrics.c, t.version_set_members.c
    query = select(t.group_metrics).order_by(g.set_id, g.name, g.split)
    members = select(m.set_id, m.version_id).order_by(m.set_id, m.version_id)
    if version_ids is not None:
        chosen = select(t.version_sets.c.id).where(
            t.version_sets.c.key == _key(sorted(set(version_ids)))
        )
        query = query.where(g.set_id.in_(chosen))
        members = members.where(m.set_id.in_(chosen))
    sets: dict[int, list[int]] = defaultdict(list)
    for set_id, version_id in connection.execute(members):
        sets[set_id].append(version_id)
    names = _refs(connection, sorted({id_ for ids in sets.values() for id_ in ids}))
    return [
        {
            "versions": [names[id_] for id_ in sets[row["set_id"]]],
            **{key: row[key] for key in ("name", "split", "value", "stderr", "dataset")},
            "protocol": json.loads(row["protocol"]),
            "environment": json.loads(row["environment"]),
            "tool": row["tool"],
            "recorded_at": row["recorded_at"],
        }
        for row in connection.execute(query).mappings()
    ]


def _key(members: Sequence[int]) -> str:
    """Names the set: sha256 of its ascending row ids."""
    return hashlib.sha256(",".join(map(str, members)).encode()).hexdigest()


def _refs(connection: Connection, ids: Sequence[int]) -> dict[int, str]:
    v = t.versions.c
    query = select(v.id, t.entries.c.name, v.number).join(t.entries)
    rows = connection.execute(query.where(among(connection, v.id, ids)))
    return {id_: f"{name}@{number}" for id_, name, number in rows}
