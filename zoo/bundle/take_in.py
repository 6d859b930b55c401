"""Take a bundle into a zoo: versions it lacks are added, what it has stays as it is.

A version keeps the zoo and the reference it was made under (in its notes), however often it moves,
so that a bundle can be taken in again, or carried back to where it came from, and nothing is
there twice. Entries go on where they are known; of two entries that only share a name, the user
says whether the versions of one follow the other's, or get an entry of another name.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sqlalchemy import Connection, delete, insert, select, update

from zoo.bundle.contents import FROM, Line
from zoo.bundle.known import Conflict, Names, origin, ref_of
from zoo.bundle.unpack import Bundle, opened_bundle, sensible, stage_objects
from zoo.catalog import additions, audit, phase_rows
from zoo.catalog import group_metrics as groups
from zoo.catalog import tables as t
from zoo.catalog.audit import Happening
from zoo.catalog.catalog import now
from zoo.errors import StoreError
from zoo.names import check_relative_path
from zoo.progress import NoProgress, Progress
from zoo.records import FileRecord, MetricValue, RunDraft, RunInput, TensorRecord, VersionDraft

if TYPE_CHECKING:
    from zoo.registry import Registry


@dataclass
class TakenIn:
    """What came of a bundle."""

    bundle: str
    """Digest of its catalog."""
    zoo: str
    """Id of the zoo it was made of."""
    added: dict[str, str] = field(default_factory=dict)
    """Reference in the bundle -> here."""
    known: int = 0
    """Versions that were here already."""
    said: int = 0
    """Tags, metrics, aliases, tasks and rules that were added."""
    kept: list[str] = field(default_factory=list)
    """Where the bundle says otherwise than this zoo, which stays as it is; one sentence each."""
    objects: int = 0
    bytes: int = 0
    """Of the objects that this zoo lacked."""
    dry_run: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def take_in(
    registry: Registry,
    path: Path,
    *,
    conflict: Conflict | None = None,
    dry_run: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> TakenIn:
    """Check a bundle whole, and add what this zoo lacks in one transaction.

    Raises:
        InvalidCheckpoint: it is no bundle, or a damaged one.
        VerificationFailed: an object, a version or the audit log is not what the bundle says.
        RegistryError: entries of one name that have nothing in common, and no `conflict` to say
            what to do with them.
    """
    with (
        opened_bundle(path) as (bundle, file),
        registry.store.staging(f"import-{uuid4().hex}") as staging,
    ):
        report = _tried(registry, bundle, conflict)  # before gigabytes are copied
        if dry_run:
            return report
        _check_room(report.bytes, staging)
        staged = stage_objects(
            bundle, file, registry.store, staging, threads, progress or NoProgress()
        )
        with registry.store.publishing():
            registry.store.place((place, key) for key, place in staged.items())
            if missing := registry.store.settle(bundle.objects):
                raise StoreError(
                    f"Object `{min(missing)}` went away while the bundle was taken in.",
                    how="Run the same command again.",
                )
            with registry.catalog.database.write() as connection:
                report = _TakingIn(connection, bundle, conflict).run()
    report.objects, report.bytes = len(staged), sum(bundle.objects[k][1] for k in staged)
    for ref in report.added.values():
        version = registry.catalog.get(ref, removed=True)
        registry.plugins.notify("zoo_after_register", version=version)
    return report


def _tried(registry: Registry, bundle: Bundle, conflict: Conflict | None) -> TakenIn:
    """What would come of a bundle; the transaction is undone."""
    try:
        with registry.catalog.database.write() as connection, sensible(bundle.path):
            report = _TakingIn(connection, bundle, conflict).run()
            raise _Undo
    except _Undo:
        lacking = [key for key in bundle.objects if not registry.store.has(key)]
        report.objects, report.bytes = len(lacking), sum(bundle.objects[k][1] for k in lacking)
        report.dry_run = True
        return report


_RUN_FACTS = (
    *("id", "kind", "recipe_digest", "method", "method_version", "plugin", "plugin_version"),
    *("code_hash", "seed", "started_at", "ended_at"),
)


class _Undo(Exception):
    """Ends a transaction that was a trial."""


def _check_room(needed: int, staging: Path) -> None:
    import shutil

    free = shutil.disk_usage(staging).free
    if needed > free:
        raise StoreError(
            f"The bundle needs {needed:,} bytes, and the store's disk has {free:,} free.",
            how="Free some space, or run `zoo gc`.",
            needed=needed,
            free=free,
        )


class _TakingIn:
    """One transaction's work."""

    def __init__(self, connection: Connection, bundle: Bundle, conflict: Conflict | None) -> None:
        self._connection = connection
        self._bundle = bundle
        self._names = Names(connection, bundle, conflict)
        self._ids = {ref: id_ for ref, (id_, _) in self._names.known.items()}
        self._manifests = {m["digest"]: m["tensors"] for m in bundle.of("manifest")}
        self._runs = {r["id"]: r for r in bundle.of("run")}
        self._report = TakenIn(bundle.digest, bundle.zoo)
        self._at = now()
        self._told: list[Happening] = []

    def run(self) -> TakenIn:
        self._rules = self._take_rules()
        self._take_tasks()
        fresh = []
        for line in self._bundle.of("version"):
            if ref_of(line) in self._ids:
                self._report.known += 1
                self._say_more(line)
            else:
                fresh.append(line)
                self._add(line)
        self._take_aliases()
        self._take_groups()
        history = self._history()
        if self._told or history:
            came = {
                "zoo": self._bundle.zoo,
                "bundle": self._bundle.digest,
                "audit": self._bundle.of("zoo")[0]["audit"],
                "versions": self._report.added,
            }
            first = Happening("import", "zoo", None, came)
            audit.append(self._connection, self._at, [first, *self._told, *history])
        return self._report

    # Versions

    def _add(self, line: Line) -> None:
        name = self._names.entry[line["name"]]
        run = self._run(line)
        draft = VersionDraft(
            name=name,
            kind=str(line["kind"]),
            digest=line["digest"],
            tensors=tuple(
                TensorRecord(n, d, tuple(s), x) for n, d, s, x in self._manifests[line["digest"]]
            ),
            files=tuple(FileRecord(check_relative_path(p), o, b) for p, o, b in line["files"]),
            base=self._ids[line["base"]] if line["base"] else None,
            task=line["task"],
            phase=line["phase"],
            license=line["license"],
            architecture=line["architecture"],
            tags=line["tags"],
            metrics=tuple(_metric(m) for m in line["metrics"]),
            source=line["source"],
            notes={**line["notes"], FROM: origin(line, self._bundle)},
        )
        (id_,), told = additions.add(self._connection, self._at, [draft], [run])
        self._told += told
        self._ids[ref_of(line)] = id_
        self._report.added[ref_of(line)] = told[0].subject
        v = t.versions.c
        rule = line["phase_rule"]
        kept = {k: line[k] for k in ("created_at", "removed_at", "removed_reason")}
        kept["phase_rule"] = self._rules.get(rule, rule)
        self._connection.execute(update(t.versions).where(v.id == id_).values(kept))
        for metric in line["metrics"]:
            m = t.metrics.c
            same = (m.version_id == id_) & (m.name == metric["name"]) & (m.split == metric["split"])
            when = {"recorded_at": metric["recorded_at"]}
            self._connection.execute(update(t.metrics).where(same).values(when))
        if line["removed_at"] is not None:
            reason = {"reason": line["removed_reason"]}
            self._told.append(Happening("remove", told[0].subject, id_, reason))

    def _run(self, line: Line) -> RunDraft | None:
        if line["run"] is None:
            return None
        row = self._runs[line["run"]]
        inputs = tuple(
            RunInput(self._ids[i["version"]], i["digest"], i["role"], i["position"], i["weight"])
            for i in row["inputs"]
        )
        parsed = {k: json.loads(row[k]) for k in ("recipe", "environment", "timings")}
        selection = None if row["selection"] is None else json.loads(row["selection"])
        facts = {k: row[k] for k in _RUN_FACTS}
        return RunDraft(inputs=inputs, selection=selection, **parsed, **facts)

    def _say_more(self, line: Line) -> None:
        """Tags and metrics that a version which is here does not have yet."""
        id_, connection = self._ids[ref_of(line)], self._connection
        here = self._here(id_)
        told: dict[str, Any] = {}
        mine = select(t.tags.c.key, t.tags.c.value).where(t.tags.c.version_id == id_)
        tags = {row.key: row.value for row in connection.execute(mine)}
        for key, value in line["tags"].items():
            if key not in tags:
                connection.execute(insert(t.tags), additions.tag_row(id_, key, value))
                told.setdefault("tags", {})[key] = [None, value]
            elif tags[key] != value:
                self._keep(f"Tag `{key}` of `{here}` is `{tags[key]}`, not `{value}`.")
        m = t.metrics.c
        have = {
            (name, split): value
            for name, split, value in connection.execute(
                select(m.name, m.split, m.value).where(m.version_id == id_)
            )
        }
        for metric in line["metrics"]:
            place = metric["name"], metric["split"]
            if place not in have:
                row = additions.metric_row(_metric(metric), metric["recorded_at"])
                connection.execute(insert(t.metrics), {"version_id": id_, **row})
                told.setdefault("metrics", []).append([*place, None, row["value"]])
            elif have[place] != metric["value"]:
                named = "/".join(part for part in place if part)
                self._keep(f"`{named}` of `{here}` is {have[place]:g}, not {metric['value']:g}.")
        if told:
            self._report.said += len(told.get("tags", ())) + len(told.get("metrics", ()))
            self._told.append(Happening("annotate", here, id_, told))

    def _here(self, id_: int) -> str:
        v = t.versions.c
        query = select(t.entries.c.name, v.number).join(t.entries).where(v.id == id_)
        name, number = self._connection.execute(query).one()
        return f"{name}@{number}"

    # What is said of entries, sets, tasks

    def _take_aliases(self) -> None:
        """Aliases that are not here, or that only the other zoo has moved since they came."""
        a, h, e = t.aliases.c, t.alias_history.c, t.entries.c
        moves: dict[tuple[str, str], list[Line]] = {}
        for line in self._bundle.of("move"):
            moves.setdefault((line["name"], line["alias"]), []).append(line)
        now = {(x["name"], x["alias"]): x["version"] for x in self._bundle.of("alias")}
        for (name, alias), steps in moves.items():
            entry = self._connection.scalar(
                select(e.id).where(e.name == self._names.entry.get(name, ""))
            )
            if entry is None:
                continue
            mine = (h.entry_id == entry) & (h.alias == alias)
            past = self._connection.scalars(select(h.at).where(mine).order_by(h.id)).all()
            theirs = [step["at"] for step in steps]
            if past and past[-1] not in theirs:
                target = self._ids.get(now.get((name, alias), ""))
                here = (a.entry_id == entry) & (a.alias == alias)
                current = self._connection.scalar(select(a.version_id).where(here))
                if target is not None and current != target:
                    named = self._names.entry[name]
                    self._keep(f"Alias `{named}@{alias}` stays where it was moved here.")
                continue
            new = [step for step in steps if step["at"] not in past]
            if not new:
                continue
            for step in new:
                id_ = self._ids[step["version"]] if step["version"] else None
                row = {"entry_id": entry, "alias": alias, "version_id": id_, "at": step["at"]}
                self._connection.execute(insert(t.alias_history), row)
            here = (a.entry_id == entry) & (a.alias == alias)
            before = self._connection.scalar(select(a.version_id).where(here))
            self._connection.execute(delete(t.aliases).where(here))
            told = {"alias": alias, "before": before}
            if (name, alias) in now:
                id_ = self._ids[now[name, alias]]
                row = {"entry_id": entry, "alias": alias, "version_id": id_}
                self._connection.execute(insert(t.aliases), row)
                self._told.append(Happening("alias", self._here(id_), id_, told))
            elif before is not None:
                subject = self._names.entry[name]
                self._told.append(Happening("unalias", subject, before, {"alias": alias}))
            self._report.said += 1

    def _take_groups(self) -> None:
        have = {
            (tuple(sorted(row["versions"])), row["name"], row["split"]): row["value"]
            for row in groups.listed(self._connection, None)
        }
        for line in self._bundle.of("group"):
            ids = [self._ids[ref] for ref in line["versions"]]
            place = tuple(sorted(self._here(id_) for id_ in ids)), line["name"], line["split"]
            if place not in have:
                at = line["recorded_at"]
                self._told.append(groups.record(self._connection, at, ids, [_metric(line)]))
                self._report.said += 1
            elif have[place] != line["value"]:
                of = ", ".join(place[0])
                self._keep(f"`{line['name']}` of {of} is {have[place]:g}, not {line['value']:g}.")

    def _take_tasks(self) -> None:
        names = t.tasks.c
        for line in self._bundle.of("task"):
            row = {k: line[k] for k in ("name", "declaration", "digests", "created_at")}
            query = select(names.declaration, names.digests).where(names.name == row["name"])
            have = self._connection.execute(query).one_or_none()
            if have is None:
                self._connection.execute(insert(t.tasks), row)
                said = {k: [None, json.loads(row[k])] for k in ("declaration", "digests")}
                self._told.append(Happening("declare", row["name"], None, said))
                self._report.said += 1
            elif tuple(have) != (row["declaration"], row["digests"]):
                self._keep(f"Task `{row['name']}` is declared otherwise here.")

    def _take_rules(self) -> dict[str, str]:
        """Phase rules; reference in the bundle -> here."""
        found = {}
        for line in sorted(self._bundle.of("rule"), key=lambda x: (x["name"], x["number"])):
            thresholds, name = json.loads(line["thresholds"]), line["name"]
            here = [r for r in phase_rows.rules(self._connection) if r.name == name]
            same = next((r.number for r in here if dict(r.thresholds) == thresholds), None)
            if same is None:
                same, told = phase_rows.add_rule(
                    self._connection, line["created_at"], name, thresholds
                )
                self._told += told
                self._report.said += len(told)
            found[f"{name}@{line['number']}"] = f"{name}@{same}"
        return found

    def _history(self) -> list[Happening]:
        """Events of the other zoo that are not here, as they were written there."""
        e = t.events.c
        seen: set[tuple[str, int]] = set()
        query = select(e.detail).where(e.action == "import", e.subject != "zoo")
        for detail in self._connection.scalars(query):
            told = json.loads(detail)
            seen.add((told["zoo"], told["event"]["sequence"]))
        own = self._connection.scalar(select(t.zoo.c.uuid))
        found = []
        for line in self._bundle.of("event"):
            event = {k: v for k, v in line.items() if k != "is"}
            if line["action"] == "import" and line["subject"] != "zoo":
                told = json.loads(line["detail"])  # it came to that zoo from a third one
                zoo, event = told["zoo"], told["event"]
            else:
                zoo = self._bundle.zoo
            if zoo != own and (zoo, event["sequence"]) not in seen:
                seen.add((zoo, event["sequence"]))
                kept = {"zoo": zoo, "event": event}
                found.append(Happening("import", f"{zoo[:8]}:{event['subject']}", None, kept))
        return found

    def _keep(self, sentence: str) -> None:
        self._report.kept.append(sentence)


def _metric(row: Line) -> MetricValue:
    def parsed(value: Any) -> Any:
        return json.loads(value) if isinstance(value, str) else value

    return MetricValue(
        name=row["name"],
        value=row["value"],
        split=row["split"],
        dataset=row["dataset"],
        protocol=parsed(row["protocol"]),
        stderr=row["stderr"],
        environment=parsed(row["environment"]),
        tool=row["tool"],
    )
