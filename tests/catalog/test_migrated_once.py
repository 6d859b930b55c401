"""The schema that tests are given in place of one that migrations made for them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import alembic.command
import pytest

from zoo.catalog.catalog import Catalog


def made(path: Path) -> tuple[list[tuple[str, ...]], list[str]]:
    """The schema of a new registry, and the rows that do not tell it from another."""
    Catalog.open(str(path), store=path.with_suffix(".store")).close()
    with closing(sqlite3.connect(path)) as connection:
        schema = connection.execute(
            "SELECT type, name, tbl_name, sql FROM sqlite_schema"
        ).fetchall()
        rows = [s for s in connection.iterdump() if s.startswith("INSERT")]
        own = [s for s in rows if s.startswith(('INSERT INTO "zoo" ', 'INSERT INTO "events" '))]
    return schema, sorted({*rows} - {*own})


def test_it_is_what_the_migrations_make(
    migrations: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made(tmp_path / "first.db")
    copied = made(tmp_path / "copied.db")
    monkeypatch.setattr(alembic.command, "upgrade", migrations)
    migrated = made(tmp_path / "migrated.db")

    assert migrated == copied
    assert [] != copied[1]
