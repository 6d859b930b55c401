"""The audit log: append-only, and each event carries the hash of the one before it.

    hash(n) = sha256 of the canonical JSON of event n without `hash`, where `previous` = hash(n-1)

The first event's `previous` is empty. The row of `zoo` holds the last sequence and hash, so that
a log whose end was cut off is noticed as well. An event is written in the transaction of what it
tells; there is no change without its event.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, select, update

from zoo.catalog import tables as t
from zoo.catalog.run_rows import inputs_by_run, record_digest
from zoo.digest import canonical_json, json_digest


class Happening(NamedTuple):
    """What an event tells."""

    action: str
    """`init`, `add`, `annotate`, `alias`, `unalias`, `remove`, `measure`, `move`, `declare` and
    `withdraw` of a task, `rule` of phases."""
    subject: str
    version_id: int | None
    detail: dict[str, Any]


def append(connection: Connection, at: str, happenings: Sequence[Happening]) -> None:
    """Write events at the end of the chain, in the caller's transaction."""
    head = connection.execute(select(t.zoo.c.audit_sequence, t.zoo.c.audit_hash)).one()
    sequence, previous = head.audit_sequence, head.audit_hash
    rows = []
    for happening in happenings:
        sequence += 1
        row: dict[str, Any] = {
            "sequence": sequence,
            "at": at,
            "action": happening.action,
            "subject": happening.subject,
            "version_id": happening.version_id,
            "detail": canonical_json(happening.detail).decode(),
            "previous": previous,
        }
        previous = row["hash"] = json_digest(row)
        rows.append(row)
    if rows:
        connection.execute(insert(t.events), rows)
        connection.execute(update(t.zoo).values(audit_sequence=sequence, audit_hash=previous))


def events(connection: Connection, limit: int | None = None) -> list[dict[str, Any]]:
    """The newest events, oldest of them first, with `detail` parsed."""
    query = select(t.events).order_by(t.events.c.sequence.desc()).limit(limit)
    rows = connection.execute(query).mappings().all()
    return [{**row, "detail": json.loads(row["detail"])} for row in reversed(rows)]


def check_versions(connection: Connection) -> list[str]:
    """Every version that is not what the log says was added, one sentence each."""
    v, f = t.versions.c, t.files.c
    streamed = {"yield_per": 1000}
    told: dict[int, dict[str, Any]] = {}
    e = t.events.c
    added = select(e.version_id, e.subject, e.detail).where(e.action == "add")
    for version_id, ref, detail in connection.execute(added, execution_options=streamed):
        told[version_id] = {"number": ref, **json.loads(detail)}
    files: dict[int, dict[str, str]] = defaultdict(dict)
    query = select(f.version_id, f.path, f.object)
    for version_id, path, object_ in connection.execute(query, execution_options=streamed):
        files[version_id][path] = object_
    inputs = inputs_by_run(connection)
    runs = connection.execute(select(t.runs), execution_options=streamed).mappings()
    records = {row["id"]: record_digest(dict(row), inputs[row["id"]]) for row in runs}
    edges: dict[int, set[tuple[Any, ...]]] = defaultdict(set)
    for child, *edge in connection.execute(_EDGES, execution_options=streamed):
        edges[child].add(tuple(edge))
    problems = []
    rows = (
        select(
            *(v.id, t.entries.c.name, v.number, v.kind, t.manifests.c.digest, v.base_id, v.run_id),
            t.runs.c.recipe_digest,
        )
        .join(t.entries, t.entries.c.id == v.entry_id)
        .join(t.manifests, t.manifests.c.id == v.manifest_id)
        .outerjoin(t.runs, t.runs.c.id == v.run_id)
        .order_by(v.id)
    )
    for id_, name, number, *facts in connection.execute(rows, execution_options=streamed):
        was = told.pop(id_, None)
        now = dict(zip(("kind", "digest", "base", "run", "recipe"), facts, strict=True))
        now["number"] = f"{name}@{number}"
        if was is None:
            problems.append(f"No event tells of the addition of `{name}@{number}`.")
            continue
        changed = [key for key, value in now.items() if was.get(key) != value]
        changed += [] if was.get("files", {}) == files[id_] else ["files"]
        # Events of earlier releases have no digest of the run's record.
        changed += (
            [] if "record" not in was or was["record"] == records.get(now["run"]) else ["run"]
        )
        changed += [] if edges[id_] == _lineage(now, inputs) else ["lineage"]
        if changed:
            problems.append(
                f"`{name}@{number}` is not what was added: {', '.join(changed)} changed."
            )
    problems += [f"The version with row id {id_} was added, and is gone." for id_ in told]
    return problems


_EDGES = select(*(t.edges.c[c] for c in ("child_id", "role", "position", "parent_id", "weight")))


def _lineage(
    version: Mapping[str, Any], inputs: Mapping[str, Sequence[Mapping[str, Any]]]
) -> set[tuple[Any, ...]]:
    """The edges that a version has: those of its run, or else to its base."""
    if version["run"] is None:
        return set() if version["base"] is None else {("base", 0, version["base"], None)}
    columns = ("role", "position", "version_id", "weight")
    return {tuple(i[c] for c in columns) for i in inputs.get(version["run"], ())}


def check_chain(connection: Connection) -> list[str]:
    """Every break of the chain, one sentence each; empty when the log is as it was written."""
    problems = []
    expected, previous = 0, ""
    query = select(t.events).order_by(t.events.c.sequence)
    for row in connection.execute(query, execution_options={"yield_per": 1000}).mappings():
        sequence, expected = row["sequence"], expected + 1
        if sequence != expected:
            problems.append(f"Events {expected} to {sequence - 1} are missing.")
            expected = sequence
        if row["previous"] != previous:
            problems.append(f"Event {sequence} does not follow the event before it.")
        body = {key: value for key, value in row.items() if key != "hash"}
        if json_digest(body) != row["hash"]:
            problems.append(f"Event {sequence} was changed after it was written.")
        previous = row["hash"]
    head = connection.execute(select(t.zoo.c.audit_sequence, t.zoo.c.audit_hash)).one()
    if (head.audit_sequence, head.audit_hash) != (expected, previous):
        problems.append(
            f"The log ends at event {expected}; the registry says it has {head.audit_sequence}."
        )
    return problems
