"""Rules of phases, and the phases of versions, as rows. `zoo.phases.rule` says what they mean."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, delete, func, insert, select, update

from zoo.catalog import tables as t
from zoo.catalog.additions import json_text, metric_row
from zoo.catalog.audit import Happening
from zoo.catalog.many import among
from zoo.errors import InvalidName, NotFound, did_you_mean
from zoo.records import MetricValue, PhaseRule

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


def add_rule(
    connection: Connection, at: str, name: str, thresholds: Mapping[str, float]
) -> tuple[int, list[Happening]]:
    """The number of the rule with these thresholds: the newest one's, or the next.

    Raises:
        InvalidName: the name has more than letters, digits, `.`, `_`, `-`.
    """
    if not _NAME.fullmatch(name):
        raise InvalidName(
            f"`{name}` cannot name a rule of phases:",
            "it must be letters, digits, `.`, `_` and `-`, 96 at most.",
            name=name,
        )
    newest = rule(connection, name)
    if newest is not None and json_text(newest.thresholds) == json_text(thresholds):
        return newest.number, []
    number = 1 if newest is None else newest.number + 1
    row = {"name": name, "number": number, "thresholds": json_text(thresholds), "created_at": at}
    connection.execute(insert(t.phase_rules), row)
    told = {"number": number, "thresholds": dict(thresholds)}
    return number, [Happening("rule", name, None, told)]


def rule(connection: Connection, name: str, number: int | None = None) -> PhaseRule | None:
    """A rule, the newest of its name unless a number is given; None where there is none."""
    r = t.phase_rules.c
    if number is None:
        number = connection.scalar(select(func.max(r.number)).where(r.name == name))
    found = [x for x in rules(connection) if (x.name, x.number) == (name, number)]
    return found[0] if found else None


def rules(connection: Connection) -> list[PhaseRule]:
    """All rules, by name and number."""
    r = t.phase_rules.c
    query = select(r.name, r.number, r.thresholds, r.created_at).order_by(r.name, r.number)
    return [
        PhaseRule(name, number, json.loads(thresholds), at)
        for name, number, thresholds, at in connection.execute(query)
    ]


def set_phase(
    connection: Connection,
    at: str,
    version_ids: Sequence[int],
    phase: str | None,
    rule_ref: str | None,
    metrics: Sequence[MetricValue],
) -> list[Happening]:
    """Write one phase for several versions, with metrics that go with it.

    Raises:
        NotFound: a version or the rule does not exist.
    """
    ids = sorted(set(version_ids))
    if rule_ref is not None:
        known = [x.ref for x in rules(connection)]
        if rule_ref not in known:
            raise NotFound(
                f"There is no rule of phases `{rule_ref}`.", how=did_you_mean(rule_ref, known)
            )
    v, m = t.versions.c, t.metrics.c
    query = select(v.id, t.entries.c.name, v.number, v.phase, v.phase_rule).join(t.entries)
    found = {row.id: row for row in connection.execute(query.where(among(connection, v.id, ids)))}
    if missing := [str(id_) for id_ in ids if id_ not in found]:
        raise NotFound(f"There are no versions with row ids {', '.join(missing)}.")
    new = {"phase": phase, "phase_rule": rule_ref}
    connection.execute(
        update(t.versions).where(among(connection, v.id, ids)).values(new),
    )
    rows = [metric_row(metric, at) for metric in metrics]
    happenings = []
    for id_ in ids:
        before = found[id_]
        told = {
            key: [getattr(before, key), value]
            for key, value in new.items()
            if getattr(before, key) != value
        }
        values = []
        for row in rows:
            same = (m.version_id == id_) & (m.name == row["name"]) & (m.split == row["split"])
            old = connection.scalar(select(m.value).where(same))
            values.append([row["name"], row["split"], old, row["value"]])
            connection.execute(delete(t.metrics).where(same))
            connection.execute(insert(t.metrics), {"version_id": id_, **row})
        if values:
            told["metrics"] = values
        if told:
            happenings.append(Happening("annotate", f"{before.name}@{before.number}", id_, told))
    return happenings
