"""The catalog: all that the registry knows of versions, in its database. It touches no weights.

Every method is one transaction. Writes are alone among writers, and each leaves an event in the
audit log within the same transaction.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from sqlite3 import SQLITE_ERROR
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, delete, func, insert, select, true, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.elements import ColumnElement

from zoo.catalog import additions, audit, own_task, phase_rows, superseded, task_rows, version_rows
from zoo.catalog import group_metrics as groups
from zoo.catalog import tables as t
from zoo.catalog.audit import Happening
from zoo.catalog.database import Database
from zoo.catalog.declared_lineage import with_declared
from zoo.catalog.lineage import Lineage, reach
from zoo.catalog.needed import needed_by
from zoo.catalog.references import check_alias, parse, resolve
from zoo.catalog.run_rows import read_run
from zoo.catalog.selection import compile_order, compile_where
from zoo.errors import InvalidSelection, NotFound, RegistryError
from zoo.records import (
    FileRecord,
    MetricValue,
    PhaseRule,
    RunDraft,
    TaskRecord,
    TensorRecord,
    Version,
    VersionDraft,
)
from zoo.storage.store import Owner, Store

STORE_SUFFIX = ".store"
"""The store of `registry.db` is `registry.store`, beside it, unless named otherwise."""


class Catalog:
    """An open registry database. Use `Catalog.open`; close it, or use it in a `with` block."""

    def __init__(self, database: Database, store_root: Path, owner: Owner) -> None:
        self._database = database
        self.store_root = store_root
        """The store's directory; it need not exist."""
        self.owner = owner
        """Whose the store must be: this zoo's."""

    @classmethod
    def open(cls, url: str, *, store: str | Path | None = None, create: bool = True) -> Catalog:
        """Open a registry, and make it when it is missing.

        Args:
            url: path of `registry.db`, or a SQLAlchemy URL of SQLite or PostgreSQL.
            store: where the store is. Recorded when the registry is made, relative to the
                directory of `registry.db` if it lies inside, so that both can be moved together.
                For an existing registry it is the recorded one, or the same store moved, which
                is recorded then.
            create: False makes a missing registry an error.
        Raises:
            NotFound: there is no registry and `create` is False.
            RegistryError: not a zoo, a newer schema, a PostgreSQL registry without a store, or
                one that keeps its files in another store.
            StoreError: the store of a new registry belongs to another zoo.
        """

        def fill(connection: Connection, made: Database) -> None:
            at = now()
            place = _recorded(made, store)
            owner = Owner(str(uuid4()), made.name)
            Store(_home(made) / place).check_owner(owner)  # before anything is written
            connection.execute(
                insert(t.zoo).values(
                    id=1, store=place, uuid=owner.id, created_at=at, audit_sequence=0, audit_hash=""
                )
            )
            told = {"store": place, "uuid": owner.id}
            audit.append(connection, at, [Happening("init", "zoo", None, told)])

        database = Database(url, create=create, fill=fill)
        try:
            with database.read() as connection:
                row = connection.execute(select(t.zoo.c.store, t.zoo.c.uuid)).one()
            catalog = cls(database, _home(database) / row.store, Owner(row.uuid, database.name))
            if store is not None:
                catalog._find_store(Path(store).absolute())
            return catalog
        except BaseException:
            database.close()
            raise

    @property
    def url(self) -> str:
        """The database's path, or its URL without the password."""
        return self._database.name

    @property
    def database(self) -> Database:
        """For `zoo.catalog.analytics` and `zoo.storage.fsck`, which read tables as they are."""
        return self._database

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _find_store(self, named: Path) -> None:
        """Make sure that the store is at `named`; if it was moved there, write that down."""
        recorded = self.store_root
        if named.resolve() == recorded.resolve():
            return
        owner = Store(named).owner()
        if Store(recorded).holds_objects() or owner is None or owner.id != self.owner.id:
            raise RegistryError(
                f"{self.url} keeps its files in `{recorded}`, and not in `{named}`.",
                "A registry has one store.",
                f"Leave out the store; or move it: mv {recorded} {named}, "
                f"then zoo --registry {self.url} init --store {named}",
                registry=self.url,
                store=str(recorded),
                named=str(named),
            )
        at, place = now(), _recorded(self._database, named)
        with self._database.write() as connection:
            before = connection.scalar(select(t.zoo.c.store))
            connection.execute(update(t.zoo).values(store=place))
            audit.append(
                connection, at, [Happening("move", "zoo", None, {"store": [before, place]})]
            )
        self.store_root = named

    # Versions

    def add(self, draft: VersionDraft, run: RunDraft | None = None) -> Version:
        """Publish a version: the one transaction that makes it exist.

        Raises:
            RegistryError: a row the registry cannot keep; nothing is written.
        """
        return self.add_many([draft], [run])[0]

    def add_many(
        self, drafts: Sequence[VersionDraft], runs: Sequence[RunDraft | None] | None = None
    ) -> list[Version]:
        """Publish versions in one transaction, all or none.

        Args:
            runs: what made each; None where it was registered, as all are by default.
        Raises:
            RegistryError: a row the registry cannot keep; nothing is written.
        """
        at = now()
        with self._database.write() as connection:
            ids, happenings = additions.add(connection, at, drafts, runs or [None] * len(drafts))
            audit.append(connection, at, happenings)
            return version_rows.load(connection, ids, self.store_root)

    def get(self, ref: str, *, removed: bool = False) -> Version:
        """The version a reference names: `name`, `name@3`, `name@alias`, `name@sha256:abcd`.

        Args:
            removed: whether it may be a removed one.
        Raises:
            NotFound, AmbiguousReference, InvalidName: see `zoo.catalog.references`.
        """
        with self._database.read() as connection:
            return self._one(connection, resolve(connection, ref, removed=removed))

    def by_id(self, version_id: int) -> Version:
        """The version with this row id, removed or not.

        Raises:
            NotFound: there is none.
        """
        with self._database.read() as connection:
            return self._one(connection, version_id)

    def by_digest(self, digest: str) -> Version | None:
        """The live version with these weights, the oldest if several; None if there is none."""
        return next(iter(self.with_digest(digest)), None)

    def with_digest(self, digest: str) -> list[Version]:
        """The live versions with these weights, the oldest first."""
        v = t.versions.c
        query = (
            select(v.id)
            .join(t.manifests)
            .where(t.manifests.c.digest == digest, v.removed_at.is_(None))
            .order_by(v.id)
        )
        with self._database.read() as connection:
            return [self._one(connection, found) for found in connection.scalars(query).all()]

    def files(self, version_id: int) -> tuple[FileRecord, ...]:
        """The files of a version's directory, paths ascending."""
        f = t.files.c
        query = select(f.path, f.object, f.bytes).where(f.version_id == version_id)
        with self._database.read() as connection:
            return tuple(FileRecord(*row) for row in connection.execute(query.order_by(f.path)))

    def tensors(self, version_id: int) -> tuple[TensorRecord, ...]:
        """The tensors of a version, names ascending.

        Raises:
            NotFound: there is no such version.
        """
        query = select(t.manifests.c.tensors).join(t.versions)
        with self._database.read() as connection:
            blob = connection.scalar(query.where(t.versions.c.id == version_id))
        if blob is None:
            raise NotFound(f"There is no version with row id {version_id}.", id=version_id)
        return additions.tensor_rows(blob)

    def select(
        self, where: str | None = None, order_by: str | None = None, limit: int | None = None
    ) -> list[Version]:
        """The live versions a selection names, by name and version unless ordered otherwise.

        Args:
            where: a boolean expression, see `zoo.catalog.selection`; None selects all.
            order_by: `column [asc|desc], ...`; what is absent comes last.
            limit: at most so many, 0 or more.
        Raises:
            InvalidSelection: says what is wrong, and what may have been meant.
        """
        if limit is not None and limit < 0:
            raise InvalidSelection(f"A limit of {limit} selects nothing.", how="Use 0 or more.")
        v = t.versions.c
        query = select(v.id).join(t.entries, t.entries.c.id == v.entry_id)
        query = query.where(v.removed_at.is_(None))
        with self._database.read() as connection:
            vocabulary = _Vocabulary(connection)
            if where is not None:
                query = query.where(compile_where(where, vocabulary).clause(connection))
            keys = compile_order(order_by, vocabulary) if order_by else []
            query = query.order_by(*keys, t.entries.c.name, v.number).limit(limit)
            try:
                ids = connection.scalars(query).all()
            except DBAPIError as error:
                # SQLite numbers its errors: one that is not its plain 1 is the database's own.
                if getattr(error.orig, "sqlite_errorcode", SQLITE_ERROR) != SQLITE_ERROR:
                    raise
                raise InvalidSelection(
                    f"The database cannot evaluate `{where or order_by}`: {error.orig}.",
                    selection=where or order_by,
                ) from error
            return version_rows.load(connection, ids, self.store_root)

    def annotate(
        self,
        version_id: int,
        *,
        tags: Mapping[str, str] | None = None,
        drop_tags: Iterable[str] = (),
        metrics: Iterable[MetricValue] = (),
        task: str | None = None,
        phase: str | None = None,
        license: str | None = None,
    ) -> Version:
        """Say more about a version: what is not named stays, but for values of a metric that is
        measured anew by other rules. Old values go to the audit log.

        A phase given here is asserted: it has no rule; see `set_phase` for a derived one. With
        another task, values on that task take the bare names that are for the version's own.

        Raises:
            NotFound: there is no such version.
            RegistryError: a metric that is not finite.
        """
        at = now()
        with self._database.write() as connection:
            before = self._one(connection, version_id)
            told: dict[str, Any] = {}
            for key in drop_tags:
                if key in before.tags:
                    told.setdefault("tags", {})[key] = [before.tags[key], None]
                self._delete_tag(connection, version_id, key)
            for key, value in (tags or {}).items():
                told.setdefault("tags", {})[key] = [before.tags.get(key), value]
                self._delete_tag(connection, version_id, key)
                connection.execute(insert(t.tags), additions.tag_row(version_id, key, value))
            metrics = list(metrics)
            for metric in metrics:
                name = f"{metric.name}/{metric.split}" if metric.split else metric.name
                row = additions.metric_row(metric, at)
                told.setdefault("metrics", []).append(
                    [metric.name, metric.split, before.metrics.get(name), row["value"]]
                )
                m = t.metrics.c
                same = (m.name == metric.name) & (m.split == metric.split)
                connection.execute(delete(t.metrics).where(m.version_id == version_id, same))
                connection.execute(insert(t.metrics), {"version_id": version_id, **row})
            old = superseded.drop(
                connection, t.metrics, t.metrics.c.version_id, version_id, metrics
            )
            if old:
                told["metrics"] += old
            fields = {"task": task, "phase": phase, "license": license}
            changed = {key: value for key, value in fields.items() if value is not None}
            if changed:
                told.update({key: [getattr(before, key), changed[key]] for key in changed})
                values: dict[str, str | None] = dict(changed)
                if phase is not None:  # it is asserted now, whatever rule it came from before
                    values["phase_rule"] = None
                    if before.phase_rule is not None:
                        told["phase_rule"] = [before.phase_rule, None]
                connection.execute(
                    update(t.versions).where(t.versions.c.id == version_id).values(values)
                )
            if task is not None and task != before.task:
                moved = own_task.follow(connection, version_id, before.task, task)
                told |= {"metrics": [*told.get("metrics", []), *moved]} if moved else {}
            if told:
                audit.append(connection, at, [Happening("annotate", before.ref, version_id, told)])
            return self._one(connection, version_id)

    def remove(self, version_id: int, reason: str = "") -> None:
        """Make a version a tombstone: gone from selections, still there for lineage.

        Its aliases are taken away. Removing it again changes nothing.

        Raises:
            NotFound: there is no such version.
        """
        at = now()
        v = t.versions.c
        with self._database.write() as connection:
            version = self._one(connection, version_id)
            gone = update(t.versions).where(v.id == version_id, v.removed_at.is_(None))
            if not connection.execute(gone.values(removed_at=at, removed_reason=reason)).rowcount:
                return
            happenings = [
                self._unalias(connection, at, version.name, alias) for alias in version.aliases
            ]
            happenings.append(Happening("remove", version.ref, version_id, {"reason": reason}))
            audit.append(connection, at, happenings)

    # Aliases

    def alias(self, version_id: int, alias: str) -> None:
        """Point an alias of the version's entry at it, wherever it pointed before.

        Raises:
            InvalidName: the alias could be read as something else.
            NotFound: the version does not exist or was removed.
        """
        check_alias(alias)
        at = now()
        a = t.aliases.c
        with self._database.write() as connection:
            version = self._one(connection, version_id)
            entry_id = self._live_entry(connection, version)
            here = (a.entry_id == entry_id) & (a.alias == alias)
            before = connection.scalar(select(a.version_id).where(here))
            if before == version_id:
                return
            connection.execute(delete(t.aliases).where(here))
            row = {"entry_id": entry_id, "alias": alias, "version_id": version_id}
            connection.execute(insert(t.aliases), row)
            connection.execute(insert(t.alias_history), {**row, "at": at})
            told = {"alias": alias, "before": before}
            audit.append(connection, at, [Happening("alias", version.ref, version_id, told)])

    def unalias(self, name: str, alias: str) -> None:
        """Take an alias away; its history stays.

        Raises:
            NotFound: the entry has no such alias.
        """
        at = now()
        with self._database.write() as connection:
            resolve(connection, f"{parse(name).name}@{alias}")
            audit.append(connection, at, [self._unalias(connection, at, name, alias)])

    def alias_history(self, name: str) -> list[dict[str, Any]]:
        """Every move of every alias of an entry, oldest first: `alias, version, at`.

        `version` is a number, or None where the alias was taken away.
        """
        h = t.alias_history.c
        query = (
            select(h.alias, t.versions.c.number, h.at)
            .join(t.entries, t.entries.c.id == h.entry_id)
            .outerjoin(t.versions, t.versions.c.id == h.version_id)
            .where(t.entries.c.name == name)
            .order_by(h.id)
        )
        with self._database.read() as connection:
            return [
                {"alias": alias, "version": number, "at": at}
                for alias, number, at in connection.execute(query)
            ]

    # Objects of the store

    def live_objects(self) -> set[str]:
        """Keys of all objects that live versions need; the others may be collected.

        Some versions need the bytes of others, be those removed or not; see `zoo.catalog.needed`.
        """
        f, v = t.files.c, t.versions.c
        query = select(f.object).join(t.versions).where(v.removed_at.is_(None))
        others = select(f.object).where(f.version_id.in_(needed_by(true())))
        with self._database.read() as connection:
            return set(connection.scalars(query.union(others)))

    def versions_with_object(self, key: str) -> list[Version]:
        """The live versions that an object is part of."""
        query = (
            select(t.files.c.version_id)
            .join(t.versions)
            .where(t.files.c.object == key, t.versions.c.removed_at.is_(None))
            .distinct()
            .order_by(t.files.c.version_id)
        )
        with self._database.read() as connection:
            ids = connection.scalars(query).all()
            return version_rows.load(connection, ids, self.store_root)

    # Runs and lineage

    def run(self, run_id: str) -> RunDraft:
        """A run as it was recorded.

        Raises:
            NotFound: there is no such run.
        """
        with self._database.read() as connection:
            return read_run(connection, run_id)

    def run_of(self, version_id: int) -> RunDraft | None:
        """The run that made a version, or None when it was registered."""
        with self._database.read() as connection:
            run_id = self._one(connection, version_id).run
            return None if run_id is None else read_run(connection, run_id)

    def lineage(
        self,
        version_id: int,
        *,
        descendants: bool = False,
        files: Mapping[str, str] | None = None,
    ) -> Lineage:
        """What a version came from, or what came of it; removed versions included.

        Args:
            files: object key -> `sha256:` of weights files, where these are known, to recognise
                declared parents by.
        Raises:
            NotFound: there is no such version.
        """
        with self._database.read() as connection:
            self._one(connection, version_id)
            return with_declared(connection, version_id, descendants=descendants, files=files or {})

    def descendants(self, version_id: int) -> list[Version]:
        """All that came of a version, itself left out, removed versions included; oldest first."""
        with self._database.read() as connection:
            ids = sorted(connection.scalars(reach(version_id, descendants=True)))
            ids = [id_ for id_ in ids if id_ != version_id]
            return version_rows.load(connection, ids, self.store_root)

    # Metrics

    def measured(self, version_id: int) -> list[MetricValue]:
        """All metrics of a version with protocol, standard error and environment, by name and
        split; none for an unknown version."""
        m = t.metrics.c
        query = select(t.metrics).where(m.version_id == version_id).order_by(m.name, m.split)
        with self._database.read() as connection:
            return [
                MetricValue(
                    name=row["name"],
                    value=row["value"],
                    split=row["split"],
                    dataset=row["dataset"],
                    protocol=json.loads(row["protocol"]),
                    stderr=row["stderr"],
                    environment=json.loads(row["environment"]),
                    tool=row["tool"],
                )
                for row in connection.execute(query).mappings()
            ]

    def record_group_metrics(
        self, version_ids: Iterable[int], values: Sequence[MetricValue]
    ) -> None:
        """Record metrics of an unordered set of two versions or more, all or none.

        Raises:
            NotFound: a version does not exist.
            RegistryError: fewer than two versions, or a value that is not finite.
        """
        if not values:
            return
        at = now()
        with self._database.write() as connection:
            audit.append(connection, at, [groups.record(connection, at, version_ids, values)])

    def group_metrics(self, version_ids: Iterable[int] | None = None) -> list[dict[str, Any]]:
        """Metrics of exactly this set of versions, or of all sets.

        Keys: `versions` (references, by row id), `name, split, value, stderr, dataset, protocol,
        environment, tool, recorded_at`.
        """
        with self._database.read() as connection:
            return groups.listed(connection, version_ids)

    # Tasks

    def add_task(
        self,
        name: str,
        declaration: Mapping[str, Any],
        digests: Mapping[str, str],
        *,
        replace: bool = False,
    ) -> None:
        """Keep a task's declaration; the same one again changes nothing.

        Args:
            digests: split -> digest of its data.
            replace: whether another declaration or other data may take the place of what is there.
        Raises:
            InvalidName: the name cannot be part of a metric's split.
            RegistryError: it differs from what is there, and `replace` is False.
        """
        at = now()
        with self._database.write() as connection:
            told = task_rows.declare(connection, at, name, declaration, digests, replace)
            audit.append(connection, at, told)

    def task(self, name: str) -> TaskRecord | None:
        """The declared task of this name; None if there is none."""
        with self._database.read() as connection:
            return task_rows.read(connection, name)

    def tasks(self) -> list[TaskRecord]:
        """All declared tasks, names ascending."""
        with self._database.read() as connection:
            return task_rows.listed(connection)

    def remove_task(self, name: str) -> None:
        """Forget a task's declaration; what was measured on it stays.

        Raises:
            NotFound: none has this name.
        """
        at = now()
        with self._database.write() as connection:
            audit.append(connection, at, [task_rows.withdraw(connection, name)])

    # Phases

    def add_phase_rule(self, name: str, thresholds: Mapping[str, float]) -> int:
        """Keep the thresholds of a rule; the number it has under its name.

        The thresholds of the newest rule of this name again give that one's number.

        Raises:
            InvalidName: the name has more than letters, digits, `.`, `_`, `-`.
        """
        at = now()
        with self._database.write() as connection:
            number, told = phase_rows.add_rule(connection, at, name, thresholds)
            audit.append(connection, at, told)
            return number

    def phase_rule(self, name: str, number: int | None = None) -> PhaseRule | None:
        """A rule, the newest of its name unless a number is given; None where there is none."""
        with self._database.read() as connection:
            return phase_rows.rule(connection, name, number)

    def phase_rules(self) -> list[PhaseRule]:
        """All rules, by name and number."""
        with self._database.read() as connection:
            return phase_rows.rules(connection)

    def set_phase(
        self,
        version_ids: Iterable[int],
        phase: str | None,
        rule: str | None = None,
        metrics: Sequence[MetricValue] = (),
    ) -> None:
        """Give versions a phase, in one transaction.

        Args:
            phase: None takes it away.
            rule: `NAME@N` of the rule it was derived by; None when it is asserted.
            metrics: recorded of each version with it, such as the confidence.
        Raises:
            NotFound: a version or the rule does not exist.
            RegistryError: a metric that is not finite.
        """
        self.set_phases([(list(version_ids), phase, metrics)], rule)

    def set_phases(
        self,
        groups: Iterable[tuple[Sequence[int], str | None, Sequence[MetricValue]]],
        rule: str | None,
    ) -> None:
        """`set_phase` of several groups, each (row ids, phase, metrics), all or none."""
        at = now()
        with self._database.write() as connection:
            for ids, phase, metrics in groups:
                told = phase_rows.set_phase(connection, at, ids, phase, rule, metrics)
                audit.append(connection, at, told)

    # Audit

    def events(self, limit: int | None = None) -> list[dict[str, Any]]:
        """The audit log, oldest first; with a limit, its newest part."""
        with self._database.read() as connection:
            return audit.events(connection, limit)

    def check_audit(self) -> list[str]:
        """What is wrong with the audit log, and what differs from it; empty when all is well.

        One sentence each. Looks at every event, and at what is immutable of every version.
        """
        with self._database.read() as connection:
            return audit.check_chain(connection) + audit.check_versions(connection)

    # Shared steps

    def _one(self, connection: Connection, version_id: int) -> Version:
        found = version_rows.load(connection, [version_id], self.store_root)
        if not found:
            raise NotFound(f"There is no version with row id {version_id}.", id=version_id)
        return found[0]

    def _live_entry(self, connection: Connection, version: Version) -> int:
        v = t.versions.c
        row = connection.execute(select(v.entry_id, v.removed_at).where(v.id == version.id)).one()
        if row.removed_at:
            raise NotFound(
                f"`{version.ref}` was removed at {row.removed_at}.",
                "An alias names a live version.",
                ref=version.ref,
            )
        return int(row.entry_id)

    def _unalias(self, connection: Connection, at: str, name: str, alias: str) -> Happening:
        a = t.aliases.c
        row = connection.execute(
            select(a.entry_id, a.version_id)
            .join(t.entries)
            .where(t.entries.c.name == name, a.alias == alias)
        ).one()
        here = (a.entry_id == row.entry_id) & (a.alias == alias)
        connection.execute(delete(t.aliases).where(here))
        moved = {"entry_id": row.entry_id, "alias": alias, "version_id": None, "at": at}
        connection.execute(insert(t.alias_history), moved)
        return Happening("unalias", name, row.version_id, {"alias": alias})

    def _delete_tag(self, connection: Connection, version_id: int, key: str) -> None:
        same = (t.tags.c.version_id == version_id) & (t.tags.c.key == key)
        connection.execute(delete(t.tags).where(same))


class _Vocabulary:
    """Metric names as the database has them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._splits: dict[str, list[str]] = {}

    def splits(self, metric: str) -> Sequence[str]:
        if metric not in self._splits:
            m = t.metrics.c
            self._splits[metric] = self._distinct(m.split, m.name == metric)
        return self._splits[metric]

    def metrics(self) -> Sequence[str]:
        return self._distinct(t.metrics.c.name)

    def _distinct(self, column: ColumnElement[str], *where: ColumnElement[bool]) -> list[str]:
        """Distinct values, each found by one jump in the index; DISTINCT would read them all."""
        found: list[str] = []
        query = select(func.min(column)).where(*where)
        value = self._connection.scalar(query)
        while value is not None:
            found.append(value)
            value = self._connection.scalar(query.where(column > value))
        return found


def _home(database: Database) -> Path:
    """What a relative place of the store counts from; on a server none is relative."""
    return database.path.parent if database.path else Path.cwd()


def _recorded(database: Database, store: str | Path | None) -> str:
    """How the store's place is written down."""
    if database.path is None:
        if store is None:
            raise RegistryError(
                f"{database.name} needs a store.",
                "A registry in PostgreSQL has no directory of its own to keep it in.",
                "Name it once: zoo --registry URL init --store DIRECTORY",
            )
        return str(Path(store).absolute())
    if store is None:
        return database.path.with_suffix(STORE_SUFFIX).name
    place, home = Path(store).absolute().resolve(), database.path.parent
    return os.path.relpath(place, home) if place.is_relative_to(home) else str(place)


def now() -> str:
    """UTC, ISO 8601, microseconds: as text, it sorts by time."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
