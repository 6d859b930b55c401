"""Registries as earlier versions of zoo left them: one dump for each past schema, in `schemas/`.

A dump is `sqlite3 registry.db .dump` behind the two pragmas that mark the file. Each holds a base,
two experts (`math` with phase, metric and alias), their merge, a barrier and a removed version.
"""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

from sqlalchemy import MetaData, create_engine, text

from zoo import migrations
from zoo.catalog.database import VERSION_TABLE

DUMPS = sorted((Path(__file__).parent / "schemas").glob("schema_*.sql"))


def number_of(dump: Path) -> int:
    """The schema number of a dump."""
    return int(re.findall(r"\d+", dump.stem)[0])


def restore(dump: Path, url: str, folder: Path) -> None:
    """Make the registry of a dump at a URL of SQLite or PostgreSQL."""
    if "://" not in url:
        _restore_file(dump, Path(url))
        return
    copy = folder / "copy.db"
    _restore_file(dump, copy)
    _migrate_empty(url, f"{number_of(dump):04}")
    old, new, found = create_engine(f"sqlite:///{copy}"), create_engine(url), MetaData()
    found.reflect(new)
    with old.connect() as source, new.begin() as target:
        for table in found.sorted_tables:
            if table.name == VERSION_TABLE:
                continue
            names = ", ".join(f'"{column.name}"' for column in table.columns)
            rows = source.execute(text(f'SELECT {names} FROM "{table.name}"')).mappings().all()
            if rows:
                target.execute(table.insert(), [dict(row) for row in rows])
            if (serial := table.columns.get("id")) is not None and serial.autoincrement is True:
                target.execute(
                    text(
                        f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), "
                        f'(SELECT max(id) FROM "{table.name}"))'
                    )
                )
    old.dispose()
    new.dispose()


def _restore_file(dump: Path, path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(dump.read_text())
    connection.close()


def _migrate_empty(url: str, revision: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    engine = create_engine(url)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()
