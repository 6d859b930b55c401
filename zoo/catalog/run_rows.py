"""Runs, read back as they were recorded."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, select

from zoo.catalog import tables as t
from zoo.digest import json_digest
from zoo.errors import NotFound
from zoo.records import RunDraft, RunInput


def read_run(connection: Connection, run_id: str) -> RunDraft:
    """A run with its inputs, bases first, then experts in order.

    Raises:
        NotFound: there is no such run.
    """
    row = connection.execute(select(t.runs).where(t.runs.c.id == run_id)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"There is no run `{run_id}`.", run=run_id)
    i = t.run_inputs.c
    query = (
        select(i.version_id, i.digest, i.role, i.position, i.weight)
        .where(i.run_id == run_id)
        .order_by(i.role, i.position)
    )
    return RunDraft(
        id=row["id"],
        kind=row["kind"],
        inputs=tuple(RunInput(*input_) for input_ in connection.execute(query)),
        recipe=json.loads(row["recipe"]),
        recipe_digest=row["recipe_digest"],
        method=row["method"],
        method_version=row["method_version"],
        plugin=row["plugin"],
        plugin_version=row["plugin_version"],
        code_hash=row["code_hash"],
        seed=row["seed"],
        selection=None if row["selection"] is None else json.loads(row["selection"]),
        environment=json.loads(row["environment"]),
        timings=json.loads(row["timings"]),
        started_at=row["started_at"],
        ended_at=row["ended_at"],
    )


def record_digest(row: Mapping[str, Any], inputs: Sequence[Mapping[str, Any]]) -> str:
    """Digest of all that is recorded of a run; the event of the version it made has it too.

    Args:
        row: of `runs`.
        inputs: its rows of `run_inputs`.
    """
    ordered = sorted(inputs, key=lambda i: (i["role"], i["position"]))
    return json_digest({**row, "inputs": [dict(i) for i in ordered]})


def inputs_by_run(connection: Connection) -> Mapping[str, list[dict[str, Any]]]:
    """All rows of `run_inputs`."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in connection.execute(select(t.run_inputs)).mappings():
        found[row["run_id"]].append(dict(row))
    return found
