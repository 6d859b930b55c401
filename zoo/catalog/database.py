"""The database behind a catalog: engine, connection settings, transactions, first run, schema.

SQLite rules kept here:

- `BEGIN IMMEDIATE` for writes, so that two writers queue instead of failing at COMMIT.
- WAL only on SQLite builds free of the WAL-reset bug, else TRUNCATE; `synchronous=FULL` always.
- Schema changes run in one EXCLUSIVE transaction, so that sixteen first runs make one schema and
  a killed one leaves none. SQLite's own lock does it; there is no lock file.
- Nothing in this process may open `registry.db` by other means (`open()`, DuckDB): closing such a
  descriptor drops the POSIX locks of our connections.

On PostgreSQL a writer locks the single row of `zoo`, which orders writers as SQLite does, and
readers use REPEATABLE READ, so that a read of several statements sees one state.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    create_engine,
    event,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    SQLAlchemyError,
)

from zoo import migrations
from zoo.catalog import tables as t
from zoo.errors import NotFound, RegistryError, StoreError

APPLICATION_ID = 0x5A4F4F31
"""`ZOO1` in the SQLite header; `file registry.db` shows it."""

SCHEMA = 2
"""Number of the newest migration; SQLite's `user_version`, and Alembic's revision `0002`."""

VERSION_TABLE = "zoo_schema"
"""Alembic's table. Its default name clashes with every other tool that uses Alembic."""

OLDEST_SQLITE = (3, 37)

BUSY_SECONDS = 60
"""How long a writer waits for another before it gives up."""

ADVISORY_LOCK = 0x5A4F4F31
"""Key of the PostgreSQL advisory lock held while the schema is made or changed."""

Fill = Callable[[Connection, "Database"], None]


def wal_is_safe(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> bool:
    """Whether this SQLite keeps committed pages in WAL mode.

    3.7.0 to 3.51.2 can lose them when a write meets a checkpoint of another connection, except
    3.44.6+ and 3.50.7+ in their lines (https://sqlite.org/wal.html, "The WAL-reset bug").
    """
    return (
        version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)
    )


class Database:
    """An open registry database with its schema at the head.

    Args:
        url: a path, or a SQLAlchemy URL of SQLite or PostgreSQL.
        create: whether a missing registry is made.
        fill: writes the first rows, in the transaction that makes the schema.
    Raises:
        NotFound: missing and `create` is False.
        RegistryError: not a zoo, or made by a newer zoo, or not reachable.
    """

    def __init__(self, url: str, *, create: bool, fill: Fill) -> None:
        self.url = _parse(url)
        self.path: Path | None = None
        if self.url.get_backend_name() == "sqlite":
            self.path = Path(self.url.database or "").resolve()
            self.url = URL.create("sqlite", database=str(self.path))
        self.name = str(self.path) if self.path else self.url.render_as_string(hide_password=True)
        if self.path and not self.path.exists():
            if not create:
                raise _missing(self.name)
            _touch(self.path)
        self._engine = self._connectable()
        try:
            self._bring_to_head(create, fill)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view of the registry for as long as the block lasts."""
        with self._errors(), self._engine.connect() as connection:
            if not self.path:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction, alone among writers; committed when the block ends without an error."""
        with self._errors(), self._engine.connect() as connection:
            connection = connection.execution_options(zoo_begin="IMMEDIATE")
            with connection.begin():
                if not self.path:
                    connection.execute(select(t.zoo.c.id).with_for_update())
                yield connection

    # Connections

    def _connectable(self) -> Engine:
        try:
            if not self.path:
                return create_engine(self.url)
        except (ModuleNotFoundError, NoSuchModuleError) as error:
            raise RegistryError(
                f"Cannot open {self.name}: its driver is not installed ({error}).",
                how="pip install 'zoo-registry[postgres]' and write postgresql+psycopg://...",
            ) from error
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise RegistryError(
                f"This Python has SQLite {sqlite3.sqlite_version}; zoo needs 3.37 or newer.",
                "Its tables are STRICT.",
                "Use a newer Python, or PostgreSQL.",
                sqlite=sqlite3.sqlite_version,
            )
        # mode=rw: a registry that was deleted meanwhile is an error, never a new empty file.
        location = f"file:{quote(str(self.path))}?mode=rw"
        engine = create_engine(
            self.url,
            creator=lambda: sqlite3.connect(
                location,
                uri=True,
                timeout=BUSY_SECONDS,
                isolation_level=None,  # we say BEGIN ourselves
                check_same_thread=False,
            ),
        )
        event.listen(engine, "connect", _settings)
        event.listen(engine, "begin", _begin)
        return engine

    # Schema

    def _bring_to_head(self, create: bool, fill: Fill) -> None:
        with self._errors():
            with self._engine.connect() as connection:
                at = self._schema(connection)
            if at == SCHEMA:
                return
            if at == 0 and not create:
                raise _missing(self.name)
            self._migrate(fill)

    def _schema(self, connection: Connection) -> int:
        """The schema number, 0 when there is none yet; an error when it is not ours."""
        if self.path:
            ours = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
            number = int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
            count = "SELECT count(*) FROM sqlite_schema"
            if ours != APPLICATION_ID and (
                ours or number or connection.exec_driver_sql(count).scalar_one()
            ):
                raise RegistryError(
                    f"{self.name} is a database, but not a zoo.",
                    "Its application id is not ours.",
                    "Name another file: zoo --registry PATH init",
                    path=self.name,
                )
        else:
            number = 0
            # A query of pg_class, which has_table is, sees what was committed while we waited for
            # the advisory lock. to_regclass may answer from before: it asks this backend's cache,
            # which taking such a lock does not renew.
            if inspect(connection).has_table(VERSION_TABLE):
                revision = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}"))
                number = int(revision.scalar_one_or_none() or 0)
        if number > SCHEMA:
            raise RegistryError(
                f"{self.name} has schema {number}; this zoo knows schemas up to {SCHEMA}.",
                "A newer zoo made or upgraded it.",
                "pip install --upgrade zoo-registry",
                schema=number,
                known=SCHEMA,
            )
        return number

    def _migrate(self, fill: Fill) -> None:
        """Run what is missing, in one transaction that only one process holds at a time."""
        import warnings

        from alembic import command
        from alembic.config import Config

        with self._engine.connect() as connection:
            if self.path:
                # Batch migrations rebuild tables; the pragma is void inside a transaction.
                connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
                connection.rollback()
            connection = connection.execution_options(zoo_begin="EXCLUSIVE")
            with connection.begin():
                if not self.path:
                    connection.execute(
                        text("SELECT pg_advisory_xact_lock(:k)"), {"k": ADVISORY_LOCK}
                    )
                before = self._schema(connection)  # another process may have been first
                if before < SCHEMA:
                    config = Config()
                    folder = str(Path(migrations.__file__).parent)
                    config.set_main_option("script_location", folder.replace("%", "%%"))
                    config.set_main_option("path_separator", "os")
                    config.attributes["connection"] = connection
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore", DeprecationWarning)
                        command.upgrade(config, "head")
                    if self.path:
                        connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
                        connection.exec_driver_sql(f"PRAGMA user_version={SCHEMA}")
                    if before == 0:
                        fill(connection, self)
            connection.invalidate()  # its foreign keys are off

    # Errors

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what a driver raises into our errors, with the remedy."""
        try:
            yield
        except IntegrityError as error:
            raise RegistryError(
                f"{self.name} refused a row: {error.orig}.",
                "It breaks a rule of the schema, and nothing was written.",
                registry=self.name,
            ) from error
        except DBAPIError as error:
            raise self._translated(error) from error
        except UnicodeEncodeError as error:
            raise RegistryError(
                f"{self.name} cannot hold the text {error.object!r:.80}.",
                "It is not valid Unicode: it has half of a surrogate pair.",
                registry=self.name,
            ) from error
        except SQLAlchemyError as error:
            raise RegistryError(f"{self.name}: {error}", registry=self.name) from error

    def _translated(self, error: DBAPIError) -> RegistryError | StoreError:
        said = str(error.orig)
        facts: dict[str, Any] = {"registry": self.name, "said": said}
        if "locked" in said:
            return RegistryError(
                f"{self.name} is locked: another process has been writing for {BUSY_SECONDS} s.",
                how="Wait for it, or end it; nothing was written here.",
                **facts,
            )
        if "full" in said:
            return StoreError(
                f"No space left for {self.name}.",
                "Nothing was written.",
                "Free some space, for instance with `zoo gc`.",
                **facts,
            )
        if "readonly" in said:
            return RegistryError(
                f"{self.name} is read-only.",
                how="Make the file and its directory writable; SQLite writes a journal beside it.",
                **facts,
            )
        if "disk I/O error" in said:
            return RegistryError(
                f"{self.name} cannot be read or written: the disk failed.",
                how="Check the disk and its room, then run `zoo fsck`.",
                **facts,
            )
        if "unable to open" in said and self.path and self.path.is_dir():
            return RegistryError(
                f"{self.name} is a directory, and no registry.",
                how=f"Name a file: zoo --registry {self.name}/registry.db ...",
                **facts,
            )
        if "not a database" in said or "malformed" in said:
            return RegistryError(
                f"{self.name} is damaged, unreadable or not a database ({said}).",
                how="Look with `zoo fsck`; restore it from a copy if it is a zoo.",
                **facts,
            )
        return RegistryError(f"{self.name}: {said}", **facts)


def _parse(url: str) -> URL:
    if "://" not in url:
        return URL.create("sqlite", database=url)
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except ArgumentError as error:
        raise RegistryError(f"`{url}` is not a database URL: {error}") from error
    if backend not in ("sqlite", "postgresql"):
        raise RegistryError(
            f"zoo keeps its registry in SQLite or PostgreSQL, not in `{backend}`.",
            how="Use a path, or postgresql+psycopg://user@host/database",
            backend=backend,
        )
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise RegistryError("A registry in memory would end with the process.", how="Name a file.")
    return parsed


def _missing(name: str) -> NotFound:
    return NotFound(
        f"There is no registry at {name}.",
        how="Make one: zoo init; or name another: zoo --registry PATH ...",
        path=name,
    )


def _touch(path: Path) -> None:
    """Make the empty file SQLite will fill. Never open one that may exist: see the locks above."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644))
    except FileExistsError:
        return  # another process came first
    except OSError as error:
        raise RegistryError(
            f"Cannot make {path}: {error.strerror}.",
            how=f"mkdir -p {path.parent}" if isinstance(error, FileNotFoundError) else "",
            path=str(path),
        ) from error


def _settings(connection: sqlite3.Connection, _record: object) -> None:
    """Per-connection settings of SQLite."""
    run = connection.execute
    run("PRAGMA foreign_keys=ON")
    run("PRAGMA trusted_schema=OFF")
    run("PRAGMA cell_size_check=ON")
    run("PRAGMA synchronous=FULL")
    run("PRAGMA case_sensitive_like=ON")  # as on PostgreSQL
    mode = run("PRAGMA journal_mode").fetchone()[0]
    wanted = "wal" if wal_is_safe() else "truncate"
    if mode == wanted:
        return
    try:
        got = run(f"PRAGMA journal_mode={wanted}").fetchone()[0]
    except sqlite3.OperationalError:
        got = mode  # someone else is using the file; read-only media stay as they are
    if got == "wal" and not wal_is_safe():
        raise RegistryError(
            f"The registry is in WAL mode and in use, and SQLite {sqlite3.sqlite_version} can lose "
            "committed rows in that mode.",
            "A newer SQLite made it; versions 3.7.0 to 3.51.2 have the WAL-reset bug.",
            "Close the other processes, or use a Python whose SQLite is 3.51.3 or newer.",
            sqlite=sqlite3.sqlite_version,
        )


def _begin(connection: Connection) -> None:
    kind = connection.get_execution_options().get("zoo_begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {kind}")
