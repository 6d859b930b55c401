"""`zoo query`: any SQL over a columnar copy of the registry, with DuckDB.

The copy, `analytics.duckdb` in the store, is derived: delete it and the next query makes it anew.
It is brought up to date before each query, from the audit log: the events since its sequence name
the versions that changed.

Two rules, each with its test:

- DuckDB never opens `registry.db`. Two SQLite libraries in one process drop each other's locks,
  and committed rows are lost. Rows cross through our own connection and a temporary file.
- The user's SQL is one query, on a read-only connection without access to files, network or
  extensions, whose configuration is locked.
"""

from __future__ import annotations

import glob
import itertools
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, select

from zoo.catalog import tables as t
from zoo.catalog.many import among
from zoo.catalog.snapshot_tables import TABLES, SnapshotTable
from zoo.errors import InvalidSelection, StoreError
from zoo.storage.locks import Turnstile

if TYPE_CHECKING:
    import duckdb

    from zoo.catalog.catalog import Catalog

LAYOUT = 2
"""Counted up when `TABLES` changes: an older snapshot is then rebuilt."""

MEMORY = "1GiB"
"""What a query may use; without a temporary directory it fails cleanly beyond that."""

MOST_CHANGES = 20_000
"""Events after which a rebuild is cheaper than a refresh."""

SAFE: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "allow_community_extensions": "false",
    "allow_persistent_secrets": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "memory_limit": MEMORY,
    "temp_directory": "",
}


@dataclass(frozen=True)
class Table:
    """The answer to a query."""

    columns: list[str]
    """All different: a name that DuckDB gives twice is numbered, `a` and `a_1`."""
    rows: list[tuple[Any, ...]]
    """Python values: times are naive datetimes in UTC, lists are lists."""


def query(catalog: Catalog, sql: str) -> Table:
    """Answer a SELECT over the tables of `zoo.catalog.snapshot_tables`.

    Raises:
        InvalidSelection: not one SELECT, or DuckDB refuses it; holds DuckDB's words.
    """
    import duckdb

    with _home(catalog.store_root) as home:
        path, lock = home / "analytics.duckdb", Turnstile(home / "analytics.lock")
        with lock.exclusive():
            _bring_up_to_date(catalog, path)
        with lock.shared(), duckdb.connect(str(path), read_only=True, config=SAFE) as connection:
            connection.execute("SET python_enable_replacements = false")
            connection.execute("SET lock_configuration = true")
            _check_one_select(connection, sql)
            try:
                result = connection.execute(sql)
                columns = [column[0] for column in result.description or ()]
                return Table(_distinct(columns), result.fetchall())
            except duckdb.Error as error:
                raise _refused(sql, str(error)) from error


def _distinct(names: Sequence[str]) -> list[str]:
    """Number names that come again, as DuckDB does in a subquery: `a`, `a_1`, `a_2`."""
    found: list[str] = []
    for name in names:
        if name in found:
            numbered = (f"{name}_{n}" for n in itertools.count(1))
            name = next(x for x in numbered if x not in names and x not in found)
        found.append(name)
    return found


def _check_one_select(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Refuse what is not one query.

    Args:
        connection: the locked one: to parse IMPORT DATABASE, DuckDB reads files.
    """
    import duckdb

    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise _refused(sql, str(error)) from error
    kinds = [statement.type.name for statement in statements]
    if kinds not in (["SELECT"], ["EXPLAIN"]):
        raise InvalidSelection(
            f"Cannot run {' and '.join(kinds) or 'an empty text'}: zoo query reads.",
            "It takes one SELECT (or EXPLAIN, DESCRIBE, SHOW).",
            'Try: zoo query "SELECT name, count(*) FROM versions GROUP BY name"',
            sql=sql,
        )


def _refused(sql: str, said: str) -> InvalidSelection:
    how = f"Tables: {', '.join(table.name for table in TABLES)}; columns: DESCRIBE versions."
    if "pytz" in said:
        said, how = "It returns times with a time zone.", "Cast them: now()::TIMESTAMP"
    return InvalidSelection(f"The query failed: {said.strip()}", how=how, sql=sql)


@contextmanager
def _home(store: Path) -> Iterator[Path]:
    """Where the snapshot is kept: the store, or a temporary directory if it cannot be there.

    It cannot in a store that is read-only, nor in one with a `?` in its path: DuckDB takes what
    follows for options, and puts its log elsewhere.
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
        writable = os.access(store, os.W_OK)
    except OSError:
        writable = False
    if writable and "?" not in str(store):
        yield store
        return
    with tempfile.TemporaryDirectory(prefix="zoo-analytics-") as folder:
        yield Path(folder)


# Refresh


def _bring_up_to_date(catalog: Catalog, path: Path) -> None:
    """Refresh the snapshot, or rebuild it when it is missing, damaged or not of this registry."""
    import duckdb

    with catalog.database.read() as registry:
        head = registry.execute(select(t.zoo.c.audit_sequence, t.zoo.c.audit_hash)).one()
        try:
            if path.exists() and _refresh(registry, path, head.audit_sequence, head.audit_hash):
                return
        except duckdb.Error:
            pass  # damaged: it is derived, so make it anew
        for old in (path, path.with_name(path.name + ".wal")):
            old.unlink(missing_ok=True)
        try:
            _build(registry, path, head.audit_sequence, head.audit_hash)
        except duckdb.Error as error:
            raise StoreError(
                f"Cannot write the snapshot {path}: {error}.",
                how="Free some space; the snapshot is derived, and may be deleted.",
                path=str(path),
            ) from error


def _build(registry: Connection, path: Path, sequence: int, hash_: str) -> None:
    """Make the snapshot from nothing."""
    import duckdb

    with duckdb.connect(str(path)) as snapshot:
        snapshot.execute("BEGIN")
        for table in TABLES:
            columns = ", ".join(f'"{c}" {kind}' for c, kind in table.columns.items())
            snapshot.execute(f"CREATE TABLE {_stored(table)} ({columns})")
            _load(snapshot, table, table.rows(registry, None))
        snapshot.execute(_VERSIONS_VIEW)
        snapshot.execute(
            "CREATE TABLE snapshot_state AS SELECT ? AS layout, ? AS sequence, ? AS hash",
            [LAYOUT, sequence, hash_],
        )
        snapshot.execute("COMMIT")


_VERSIONS_VIEW = """
CREATE VIEW versions AS SELECT *, removed_at IS NULL AND version = max(version)
    FILTER (removed_at IS NULL) OVER (PARTITION BY name) AS latest FROM version_rows
"""


def _refresh(registry: Connection, path: Path, sequence: int, hash_: str) -> bool:
    """Bring in what changed since the snapshot's event; False when it must be rebuilt."""
    import duckdb

    with duckdb.connect(str(path)) as snapshot:
        state = snapshot.execute("SELECT layout, sequence, hash FROM snapshot_state").fetchall()
        if len(state) != 1 or state[0][0] != LAYOUT:
            return False
        _, since, hash_then = state[0]
        if (since, hash_then) == (sequence, hash_):
            return True
        e = t.events.c
        known = registry.scalar(select(e.hash).where(e.sequence == since))
        if known != hash_then or sequence - since > MOST_CHANGES:
            return False
        news = registry.execute(
            select(e.sequence, e.action, e.version_id).where(e.sequence > since)
        ).all()
        keys = _changed_keys(registry, news)
        snapshot.execute("BEGIN")
        for table in TABLES:
            if table.scope == "whole":
                snapshot.execute(f"DELETE FROM {_stored(table)}")
                _load(snapshot, table, table.rows(registry, None))
            elif changed := keys[table.scope]:
                snapshot.execute(
                    f'DELETE FROM {_stored(table)} WHERE "{table.key}" IN (SELECT unnest(?))',
                    [changed],
                )
                _load(snapshot, table, table.rows(registry, changed))
        snapshot.execute("UPDATE snapshot_state SET sequence = ?, hash = ?", [sequence, hash_])
        snapshot.execute("COMMIT")
    return True


def _changed_keys(registry: Connection, news: Sequence[Any]) -> dict[str, list[Any]]:
    """For each scope, the keys whose rows may differ from the snapshot's."""
    touched = sorted({event.version_id for event in news if event.version_id is not None})
    added = sorted({event.version_id for event in news if event.action == "add"})
    v = t.versions.c
    runs: set[str] = set()
    weights: set[str] = set()
    query = select(v.run_id, t.manifests.c.digest).join(t.manifests)
    for run, digest in registry.execute(query.where(among(registry, v.id, added))):
        weights.add(digest)
        if run is not None:
            runs.add(run)
    return {
        "version": touched,
        "run": sorted(runs),
        "weights": sorted(weights),
        "event": [event.sequence for event in news],
    }


def _stored(table: SnapshotTable) -> str:
    """`versions` is a view that adds `latest`."""
    return "version_rows" if table.name == "versions" else table.name


def _load(
    snapshot: duckdb.DuckDBPyConnection, table: SnapshotTable, rows: Iterable[Sequence[Any]]
) -> None:
    """Append rows through a file of JSON lines: the driver's own way takes 1 ms a row."""
    names = list(table.columns)
    with tempfile.NamedTemporaryFile("w", suffix=".ndjson", encoding="utf-8") as file:
        empty = True
        for row in rows:
            # Not json.dump, which writes word by word: it took a minute for 100,000 versions.
            file.write(json.dumps(dict(zip(names, row, strict=True))) + "\n")
            empty = False
        if empty:
            return
        file.flush()
        # JSON arrives as text, to be parsed when it is stored.
        types = {c: "VARCHAR" if k == "JSON" else k for c, k in table.columns.items()}
        columns = ", ".join(f"'{name}': '{kind}'" for name, kind in types.items())
        snapshot.execute(
            f"INSERT INTO {_stored(table)} SELECT * FROM read_json(?, columns = {{{columns}}}, "
            "format = 'newline_delimited', maximum_object_size = 1073741824, "
            "hive_partitioning = false)",
            [glob.escape(file.name)],
        )
