"""Opening registries: made once, recognised, refused with a remedy, left clean."""

from __future__ import annotations

import shutil
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from drafts import draft
from empty_registries import POSTGRES, fresh_url
from sqlalchemy import create_engine, func, select, text

from zoo import migrations
from zoo.catalog import database, tables
from zoo.catalog.catalog import Catalog
from zoo.catalog.database import ADVISORY_LOCK, APPLICATION_ID, SCHEMA, VERSION_TABLE, wal_is_safe
from zoo.errors import NotFound, RegistryError, StoreError
from zoo.storage.store import Store


def test_the_migrations_build_exactly_the_tables(catalog: Catalog) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with catalog.database.write() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_server_default": True}
        )

        assert [] == compare_metadata(context, tables.ZooTable.metadata)


def test_the_newest_migration_is_the_schema_number() -> None:
    files = sorted((Path(migrations.__file__).parent / "versions").glob("*.py"))

    assert f"schema_{SCHEMA:04}.py" == files[-1].name


def test_a_registry_opens_again_with_all_it_held(url: str, store: Path) -> None:
    with Catalog.open(url, store=store) as catalog:
        added = catalog.add(draft("a", 1))

    with Catalog.open(url) as catalog:
        assert added == catalog.get("a")
        assert store == catalog.store_root


def test_a_missing_registry_is_made_only_when_asked(url: str, store: Path) -> None:
    with pytest.raises(NotFound, match="zoo init"):
        Catalog.open(url, create=False)

    Catalog.open(url, store=store).close()
    Catalog.open(url, create=False).close()


def test_a_newer_schema_names_both_numbers_and_the_upgrade(url: str, store: Path) -> None:
    with Catalog.open(url, store=store) as catalog, catalog.database.write() as connection:
        if catalog.database.path:
            connection.execute(text(f"PRAGMA user_version={SCHEMA + 1}"))
        else:
            connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num='{SCHEMA + 1:04}'"))

    with pytest.raises(RegistryError, match="pip install --upgrade") as caught:
        Catalog.open(url)
    assert (SCHEMA + 1, SCHEMA) == (caught.value.schema, caught.value.known)


def test_a_first_run_that_dies_half_way_leaves_no_half_schema(
    url: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("zoo.catalog.catalog.audit.append", fail)
        with pytest.raises(KeyboardInterrupt):
            Catalog.open(url, store=store)

    with pytest.raises(NotFound):
        Catalog.open(url, create=False)
    with Catalog.open(url, store=store) as catalog:
        assert [] == catalog.check_audit()


def test_a_failed_write_leaves_the_registry_as_it_was(catalog: Catalog) -> None:
    before = catalog.add(draft("a", 1))

    with pytest.raises(ZeroDivisionError), catalog.database.write() as connection:
        connection.execute(tables.tags.insert(), {"version_id": 1, "key": "x", "value": "y"})
        raise ZeroDivisionError

    assert before == catalog.get("a")


def test_fifty_opens_and_closes_leave_no_file_open(url: str, store: Path) -> None:
    Catalog.open(url, store=store).close()
    before = len(list(Path("/proc/self/fd").iterdir()))

    for _ in range(50):
        with Catalog.open(url) as catalog:
            catalog.select()

    assert before == len(list(Path("/proc/self/fd").iterdir()))


def test_errors_do_not_print_the_password() -> None:
    secret = "postgresql+psycopg://zoo:hunter2@127.0.0.1:1/none"

    with pytest.raises(RegistryError) as caught:
        Catalog.open(secret, store="/nowhere")
    assert "hunter2" not in str(caught.value)


@pytest.mark.skipif(not POSTGRES, reason="ZOO_TEST_POSTGRES names no server")
def test_a_registry_in_postgresql_needs_a_store() -> None:
    with (
        fresh_url("postgresql", Path()) as url,
        pytest.raises(RegistryError, match="needs a store"),
    ):
        Catalog.open(url)


@pytest.mark.skipif(not POSTGRES, reason="ZOO_TEST_POSTGRES names no server")
def test_openers_that_waited_for_the_schema_in_postgresql_see_it(tmp_path: Path) -> None:
    store = tmp_path / "store"
    openers_at_once = 16  # with a few, the server happens to renew their caches in time
    with fresh_url("postgresql", tmp_path) as url, ThreadPoolExecutor(openers_at_once) as pool:
        engine = create_engine(url)
        with engine.connect() as holder:
            holder.execute(select(func.pg_advisory_lock(ADVISORY_LOCK)))
            openers = [pool.submit(Catalog.open, url, store=store) for _ in range(openers_at_once)]
            waiting = text(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted "
                "AND objid = :key"
            )
            while holder.scalar(waiting, {"key": ADVISORY_LOCK}) < openers_at_once:
                assert not any(opener.done() for opener in openers)
                time.sleep(0.01)
            holder.execute(select(func.pg_advisory_unlock(ADVISORY_LOCK)))
        engine.dispose()

        for opener in openers:
            with opener.result() as catalog:
                assert ["init"] == [event["action"] for event in catalog.events()]


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("mysql://host/zoo", "SQLite or PostgreSQL"),
        ("sqlite://", "Name a file"),
        ("nonsense://x", "SQLite or PostgreSQL"),
        ("postgresql+nodriver://x/y", "driver"),
    ],
)
def test_an_unfit_url_is_explained(url: str, hint: str) -> None:
    with pytest.raises(RegistryError, match=hint):
        Catalog.open(url)


# SQLite alone


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    Catalog.open(str(path)).close()

    with sqlite3.connect(path) as connection:
        assert (APPLICATION_ID,) == connection.execute("PRAGMA application_id").fetchone()
        assert (SCHEMA,) == connection.execute("PRAGMA user_version").fetchone()
        assert [("ok",)] == connection.execute("PRAGMA integrity_check").fetchall()
    connection.close()
    left = {p.name: p.stat().st_size for p in tmp_path.iterdir() if p != path}
    assert {} == {name: size for name, size in left.items() if size}, "an empty journal at most"


def test_connections_have_the_settings_that_keep_data_safe(tmp_path: Path) -> None:
    with (
        Catalog.open(str(tmp_path / "registry.db")) as catalog,
        catalog.database.read() as connection,
    ):

        def pragma(name: str) -> object:
            return connection.execute(text(f"PRAGMA {name}")).scalar_one()

        assert 1 == pragma("foreign_keys")
        assert 0 == pragma("trusted_schema")
        assert 2 == pragma("synchronous"), "FULL"
        assert ("wal" if wal_is_safe() else "truncate") == pragma("journal_mode")
        assert database.BUSY_SECONDS * 1000 == pragma("busy_timeout")


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 0), False),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 52, 0), True),
        ((4, 0, 0), True),
    ],
)
def test_wal_is_used_only_where_sqlite_keeps_committed_pages(
    version: tuple[int, int, int], safe: bool
) -> None:
    assert safe == wal_is_safe(version)


def test_wal_comes_with_a_safe_sqlite_and_goes_with_an_unsafe_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "registry.db")

    def mode(safe: bool) -> object:
        monkeypatch.setattr(database, "wal_is_safe", lambda: safe)
        with Catalog.open(path) as catalog, catalog.database.read() as connection:
            return connection.execute(text("PRAGMA journal_mode")).scalar_one()

    assert ["truncate", "wal", "truncate"] == [mode(False), mode(True), mode(False)]


def test_a_registry_in_wal_mode_and_in_use_is_refused_by_an_unsafe_sqlite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "registry.db")
    monkeypatch.setattr(database, "wal_is_safe", lambda: True)
    monkeypatch.setattr(database, "BUSY_SECONDS", 0)
    with Catalog.open(path) as catalog, catalog.database.read() as connection:
        connection.execute(text("SELECT * FROM zoo"))
        monkeypatch.setattr(database, "wal_is_safe", lambda: False)

        with pytest.raises(RegistryError, match="WAL-reset"):
            Catalog.open(path)


def test_a_waiting_writer_gives_up_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0)
    path = str(tmp_path / "registry.db")
    with (
        Catalog.open(path) as one,
        Catalog.open(path) as two,
        one.database.write(),
        pytest.raises(RegistryError, match="locked"),
    ):
        two.add(draft("a", 1))


def test_another_database_is_not_taken_for_a_zoo(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.commit()
    connection.close()
    before = path.read_bytes()

    with pytest.raises(RegistryError, match="not a zoo"):
        Catalog.open(str(path))
    assert before == path.read_bytes()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    path.write_text("hello, this is a text of more than a hundred characters" * 20)

    with pytest.raises(RegistryError, match="not a database"):
        Catalog.open(str(path))


def test_a_directory_in_the_place_of_a_registry_is_named(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"is a directory.* zoo --registry .*/registry\.db"):
        Catalog.open(str(tmp_path))


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="mkdir -p"):
        Catalog.open(str(tmp_path / "absent" / "registry.db"))


def test_a_registry_deleted_under_our_feet_is_not_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    with Catalog.open(str(path)) as catalog:
        catalog.database._engine.dispose()
        path.unlink()
        with pytest.raises(RegistryError):
            catalog.select()
    assert not path.exists()


def test_the_store_lies_beside_the_registry_and_moves_with_it(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    with Catalog.open(str(old / "registry.db")) as catalog:
        assert old / "registry.store" == catalog.store_root
    shutil.move(old, new)

    with Catalog.open(str(new / "registry.db")) as catalog:
        assert new / "registry.store" == catalog.store_root


def test_a_named_store_is_recorded_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    Catalog.open("a/inside.db", store="a/bytes").close()
    Catalog.open("a/outside.db", store="b").close()
    monkeypatch.chdir("/")

    with Catalog.open(str(tmp_path / "a" / "inside.db")) as catalog:
        assert tmp_path / "a" / "bytes" == catalog.store_root
    with Catalog.open(str(tmp_path / "a" / "outside.db")) as catalog:
        assert tmp_path / "b" == catalog.store_root


def test_another_store_is_refused_with_the_way_to_move(url: str, store: Path) -> None:
    Catalog.open(url, store=store).close()
    Catalog.open(url, store=store).close()

    with pytest.raises(RegistryError, match="mv ") as caught:
        Catalog.open(url, store=store.with_name("other"))
    assert (str(store), str(store.with_name("other"))) == (caught.value.store, caught.value.named)
    with Catalog.open(url) as catalog:
        assert store == catalog.store_root
    assert not store.with_name("other").exists()


def test_a_store_that_moved_is_found_where_it_is_named(url: str, store: Path) -> None:
    moved = store.with_name("moved")
    with Catalog.open(url, store=store) as catalog:
        Store.create(store, catalog.owner)
    store.rename(moved)

    with Catalog.open(url, store=moved) as catalog:
        assert moved == catalog.store_root
        assert ["init", "move"] == [event["action"] for event in catalog.events()]
        assert [] == catalog.check_audit()
    with Catalog.open(url) as catalog:
        assert moved == catalog.store_root


def test_a_copy_of_a_store_that_is_still_there_is_not_taken_for_it(url: str, store: Path) -> None:
    with Catalog.open(url, store=store) as catalog:
        shelf = Store.create(store, catalog.owner).path("flat:" + "a" * 64)
    shelf.parent.mkdir()
    shelf.touch()
    shutil.copytree(store, store.with_name("copy"))

    with pytest.raises(RegistryError, match="one store"):
        Catalog.open(url, store=store.with_name("copy"))


def test_a_new_registry_cannot_have_anothers_store(url: str, store: Path, tmp_path: Path) -> None:
    with Catalog.open(url, store=store) as catalog:
        Store.create(store, catalog.owner)

    with pytest.raises(StoreError, match="another zoo"):
        Catalog.open(str(tmp_path / "second.db"), store=store)
    with pytest.raises(NotFound):
        Catalog.open(str(tmp_path / "second.db"), create=False)


def test_opening_a_registry_at_the_head_does_not_import_alembic(tmp_path: Path) -> None:
    import subprocess
    import sys

    path = str(tmp_path / "registry.db")
    Catalog.open(path).close()
    code = (
        "import sys; from zoo.catalog.catalog import Catalog; Catalog.open(sys.argv[1]).close();"
        "print([m for m in ('alembic', 'duckdb', 'sqlglot', 'torch') if m in sys.modules])"
    )

    out = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)

    assert ("[]\n", "") == (out.stdout, out.stderr)
