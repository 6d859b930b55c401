"""What a bundle says of a zoo: rows of the registry, with references in place of row ids."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from zoo.catalog import tables as t
from zoo.catalog.additions import tensor_rows
from zoo.catalog.group_metrics import listed as group_metrics
from zoo.catalog.lineage import reach
from zoo.catalog.many import among
from zoo.catalog.needed import needed_by

Line = dict[str, Any]
"""One line of `catalog.jsonl`; `is` says what it tells of."""

VERSION_COLUMNS = (
    *("kind", "task", "phase", "phase_rule", "license", "architecture", "source"),
    *("created_at", "removed_at", "removed_reason"),
)
METRIC_COLUMNS = (
    *("name", "split", "value", "stderr", "dataset", "protocol", "environment", "tool"),
    "recorded_at",
)
FROM = "imported"
"""Key of a version's notes: the zoo and the reference it had where it was made."""


@dataclass(frozen=True, slots=True)
class Contents:
    """A consistent view of what is to be packed."""

    lines: list[Line]
    objects: dict[str, int]
    """Key -> bytes, of all objects that the live versions need; keys ascending."""
    whole: bool
    """Whether this is the whole zoo; then its audit log can be checked."""


def contents(connection: Connection, chosen: Sequence[int] | None) -> Contents:
    """Rows of the chosen versions and of all their ancestors; of all versions when None."""
    v = t.versions.c
    ids = sorted(connection.scalars(select(v.id)).all())
    if chosen is not None:
        kept: set[int] = set()
        for one in chosen:
            if one not in kept:
                kept |= set(connection.scalars(reach(one, descendants=False)))
        ids = [one for one in ids if one in kept]
    packer = _Packer(connection, ids)
    lines = [packer.zoo(whole=chosen is None), *packer.manifests(), *packer.runs()]
    lines += [*packer.versions(), *packer.aliases(), *packer.groups()]
    lines += packer.declared()
    lines += packer.events(whole=chosen is None)
    return Contents(lines, packer.objects(), chosen is None)


class _Packer:
    def __init__(self, connection: Connection, ids: list[int]) -> None:
        self._connection = connection
        self._ids = ids
        v = t.versions.c
        query = select(v.id, t.entries.c.name, v.number).join(t.entries)
        rows = connection.execute(query).all()
        self._refs = {id_: f"{name}@{number}" for id_, name, number in rows}

    def zoo(self, *, whole: bool) -> Line:
        row = self._connection.execute(select(t.zoo)).mappings().one()
        audit = {"sequence": row["audit_sequence"], "hash": row["audit_hash"]}
        return {"is": "zoo", "uuid": row["uuid"], "whole": whole, "audit": audit}

    def manifests(self) -> Iterator[Line]:
        m, v = t.manifests.c, t.versions.c
        mine = select(v.manifest_id).where(among(self._connection, v.id, self._ids))
        query = select(m.digest, m.tensors).where(m.id.in_(mine)).order_by(m.digest)
        for digest, blob in self._connection.execute(query):
            tensors = [[x.name, x.dtype, list(x.shape), x.digest] for x in tensor_rows(blob)]
            yield {"is": "manifest", "digest": digest, "tensors": tensors}

    def runs(self) -> Iterator[Line]:
        i, v = t.run_inputs.c, t.versions.c
        mine = select(v.run_id).where(among(self._connection, v.id, self._ids))
        inputs: dict[str, list[Line]] = defaultdict(list)
        query = select(t.run_inputs).where(i.run_id.in_(mine)).order_by(i.role, i.position)
        for row in self._connection.execute(query).mappings():
            parent = self._refs[row["version_id"]]
            shown = {k: row[k] for k in ("role", "position", "digest", "weight")}
            inputs[row["run_id"]].append({**shown, "version": parent})
        query = select(t.runs).where(t.runs.c.id.in_(mine)).order_by(t.runs.c.id)
        for row in self._connection.execute(query).mappings():
            yield {"is": "run", **row, "inputs": inputs[row["id"]]}

    def versions(self) -> Iterator[Line]:
        files = self._grouped(t.files, ("path", "object", "bytes"), "path")
        tags = self._grouped(t.tags, ("key", "value"), "key")
        metrics = self._grouped(t.metrics, METRIC_COLUMNS, "name", "split")
        v = t.versions.c
        query = (
            select(t.versions, t.entries.c.name, t.manifests.c.digest)
            .join(t.entries, t.entries.c.id == v.entry_id)
            .join(t.manifests, t.manifests.c.id == v.manifest_id)
            .where(among(self._connection, v.id, self._ids))
            .order_by(v.id)
        )
        for row in self._connection.execute(query).mappings():
            id_ = row["id"]
            yield {
                "is": "version",
                "name": row["name"],
                "number": row["number"],
                "digest": row["digest"],
                "base": self._refs.get(row["base_id"]),
                "run": row["run_id"],
                **{k: row[k] for k in VERSION_COLUMNS},
                "notes": json.loads(row["notes"]),
                "files": [list(f.values()) for f in files[id_]],
                "tags": {x["key"]: x["value"] for x in tags[id_]},
                "metrics": metrics[id_],
            }

    def aliases(self) -> Iterator[Line]:
        v, a, h = t.versions.c, t.aliases.c, t.alias_history.c
        mine = select(v.entry_id).where(among(self._connection, v.id, self._ids))
        kept = set(self._ids)
        query = select(t.entries.c.name, a.alias, a.version_id).join(t.entries)
        query = query.where(a.entry_id.in_(mine)).order_by(t.entries.c.name, a.alias)
        for name, alias, id_ in self._connection.execute(query):
            if id_ in kept:
                yield {"is": "alias", "name": name, "alias": alias, "version": self._refs[id_]}
        moves = select(t.entries.c.name, h.alias, h.version_id, h.at).join(t.entries)
        moves = moves.where(h.entry_id.in_(mine)).order_by(h.id)
        for name, alias, id_, at in self._connection.execute(moves):
            if id_ is None or id_ in kept:
                version = self._refs.get(id_)
                yield {"is": "move", "name": name, "alias": alias, "version": version, "at": at}

    def groups(self) -> Iterator[Line]:
        kept = {self._refs[id_] for id_ in self._ids}
        for row in group_metrics(self._connection, None):
            if kept.issuperset(row["versions"]):
                yield {"is": "group", **row}

    def declared(self) -> Iterator[Line]:
        for is_, table in (("task", t.tasks), ("rule", t.phase_rules)):
            query = select(table).order_by(*table.primary_key.columns)
            for row in self._connection.execute(query).mappings():
                yield {"is": is_, **row}

    def events(self, *, whole: bool) -> Iterator[Line]:
        query = select(t.events).order_by(t.events.c.sequence)
        kept = set(self._ids)
        for row in self._connection.execute(query).mappings():
            if whole or row["version_id"] in kept:
                yield {"is": "event", **row}

    def objects(self) -> dict[str, int]:
        f, v = t.files.c, t.versions.c
        mine = among(self._connection, v.id, self._ids)
        query = select(f.object, f.bytes).join(t.versions).where(mine, v.removed_at.is_(None))
        others = select(f.object, f.bytes).where(f.version_id.in_(needed_by(mine)))
        needed = query.union(others)
        return dict(sorted((key, size) for key, size in self._connection.execute(needed)))

    def _grouped(self, table: Any, columns: Sequence[str], *order: str) -> Mapping[int, list[Line]]:
        found: dict[int, list[Line]] = defaultdict(list)
        query = select(table.c.version_id, *(table.c[c] for c in columns))
        query = query.where(among(self._connection, table.c.version_id, self._ids))
        for id_, *values in self._connection.execute(query.order_by(*(table.c[c] for c in order))):
            found[id_].append(dict(zip(columns, values, strict=True)))
        return found
