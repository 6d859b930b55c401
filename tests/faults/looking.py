"""What a zoo says and holds, read without zoo: rows by plain SQLite, objects by their names.

It looks at a copy of the database and its journal, so that whoever opens the registry next finds
what the killed process left.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import tempfile
from pathlib import Path

VOLATILE = {
    *("created_at", "removed_at", "at", "recorded_at", "started_at", "ended_at", "timings"),
    *("hash", "previous", "audit_hash", "uuid", "run_id", "detail", "environment", "source"),
}
"""Columns with times, random ids, and what is made of them."""


def rows(registry: Path) -> str:
    """A digest of all rows but for times and random ids: equal for equal states.

    Raises:
        AssertionError: a version's row points at an object that is missing.
    """
    with tempfile.TemporaryDirectory(dir=registry.parent.parent) as place:
        for suffix in ("", "-journal", "-wal"):
            if (old := Path(f"{registry}{suffix}")).exists():
                shutil.copyfile(old, Path(place, f"copy.db{suffix}"))
        connection = sqlite3.connect(Path(place, "copy.db"))
        try:
            found = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
            state = {table: _rows(connection, table) for (table,) in found.fetchall()}
            number = connection.execute("PRAGMA user_version").fetchone()
            if "files" in state:
                _check_objects(connection, registry.with_name("registry.store"))
        finally:
            connection.close()
    return hashlib.sha256(repr([number, sorted(state.items())]).encode()).hexdigest()


def _rows(connection: sqlite3.Connection, table: str) -> list[str]:
    columns = connection.execute(f'PRAGMA table_info("{table}")').fetchall()
    kept = [
        i for i, name, *_ in columns if name not in VOLATILE and (table, name) != ("runs", "id")
    ]
    found = connection.execute(f'SELECT * FROM "{table}"')
    return sorted(repr([row[i] for i in kept]) for row in found)


def _check_objects(connection: sqlite3.Connection, store: Path) -> None:
    held = connection.execute(
        "SELECT v.id, f.object FROM versions v LEFT JOIN files f ON f.version_id = v.id "
        "WHERE v.removed_at IS NULL"
    )
    for version, key in held.fetchall():
        assert key, f"row {version} of versions has no files"
        kind, digest = key.split(":")
        path = store / "objects" / kind / digest[:2] / digest
        assert path.is_file(), f"row {version} of versions points at {key}, which is missing"
        if kind == "flat":
            assert digest == hashlib.sha256(path.read_bytes()).hexdigest(), f"{key} is damaged"


def files(directory: Path) -> dict[str, str] | None:
    """sha256 of each file below a directory, by path; None where there is no directory."""
    if not directory.exists():
        return None
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
