"""`zoo query`: a derived snapshot, and two safety rules."""

from __future__ import annotations

import datetime
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import pytest
from drafts import draft, merge_run

from zoo.catalog import analytics
from zoo.catalog.analytics import query
from zoo.catalog.catalog import Catalog
from zoo.catalog.snapshot_tables import TABLES
from zoo.errors import InvalidSelection, StoreError
from zoo.records import MetricValue, Version

HAMLET = 'to be "or"\nnot, \\to\t{be}; ü😀'


@pytest.fixture
def family(catalog: Catalog) -> list[Version]:
    base = catalog.add(draft("base", 1, kind="base", tags={"said": HAMLET, "empty": ""}))
    math = catalog.add(
        draft(
            "math",
            2,
            base=base.id,
            task="math",
            metrics=(MetricValue("acc", 0.5, "test", protocol={"shots": 4}),),
            notes={"ties": ["a", "b"]},
        )
    )
    mix = catalog.add(draft("mix", 3, kind="merge", base=base.id), merge_run("r-1", base, math))
    catalog.alias(math.id, "best")
    catalog.record_group_metrics([base.id, math.id], [MetricValue("barrier", 0.25)])
    return [base, math, mix]


def rows(catalog: Catalog, sql: str) -> list[tuple[Any, ...]]:
    return query(catalog, sql).rows


def test_every_table_holds_what_the_registry_holds(catalog: Catalog, family: list[Version]) -> None:
    assert [("base@1", None, True), ("math@1", "base@1", True), ("mix@1", "base@1", True)] == rows(
        catalog, "SELECT ref, base, latest FROM versions ORDER BY id"
    )
    assert [(HAMLET,)] == rows(catalog, "SELECT value FROM tags WHERE key = 'said'")
    assert [("",)] == rows(catalog, "SELECT value FROM tags WHERE key = 'empty'")
    assert [("math@1", "acc", "test", 0.5, 4)] == rows(
        catalog, "SELECT ref, metric, split, value, (protocol->>'shots')::INT FROM metrics"
    )
    assert [("barrier", ["base@1", "math@1"])] == rows(
        catalog, "SELECT metric, list(ref ORDER BY ref) FROM group_metrics GROUP BY metric"
    )
    assert [("math@1", "best")] == rows(catalog, "SELECT ref, alias FROM aliases")
    assert [("base@1", "math@1", "base", None), ("math@1", "mix@1", "expert", 1.0)] == rows(
        catalog,
        "SELECT parent, child, role, weight FROM edges WHERE run IS NULL OR role = 'expert' "
        "ORDER BY child",
    )
    assert [("r-1", "ties", 7, "ü")] == rows(
        catalog, "SELECT run, method, seed, recipe->>'name' FROM runs"
    )
    assert [("base", "base@1"), ("expert", "math@1")] == rows(
        catalog, "SELECT role, ref FROM run_inputs ORDER BY role"
    )
    assert [("w", [2, 3], 6, 24)] * 3 == rows(
        catalog, "SELECT name, shape, elements, bytes FROM tensors WHERE dtype = 'F32'"
    )
    assert [(3, 420)] == rows(catalog, "SELECT count(*), sum(bytes) FROM files")
    assert [(len(catalog.events()),)] == rows(catalog, "SELECT max(sequence) FROM events")
    ((created,),) = rows(catalog, "SELECT created_at FROM versions WHERE name = 'math'")
    assert isinstance(created, datetime.datetime)
    assert family[1].created_at == created.isoformat() + "Z"


def test_the_tables_are_those_that_are_documented(catalog: Catalog, family: Any) -> None:
    shown = {name for (name,) in rows(catalog, "SHOW TABLES")}

    assert {t.name for t in TABLES} | {"version_rows", "snapshot_state"} == shown
    for table in TABLES:
        columns = [row[0] for row in rows(catalog, f"DESCRIBE {table.name}")]
        extra = ["latest"] if table.name == "versions" else []
        assert [*table.columns, *extra] == columns


def test_the_snapshot_follows_every_change(
    catalog: Catalog, family: list[Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, math, mix = family
    rows(catalog, "SELECT 1")
    monkeypatch.setattr(analytics, "_build", None)  # from here on it may only be refreshed
    newer = catalog.add(draft("math", 9, base=base.id))
    catalog.annotate(math.id, tags={"x": "1"}, metrics=[MetricValue("acc", 0.75, "test")])
    catalog.alias(newer.id, "best")
    catalog.remove(mix.id, "why not")
    catalog.record_group_metrics([base.id, newer.id], [MetricValue("barrier", 0.125)])

    assert [("base@1", True), ("math@1", False), ("mix@1", False), ("math@2", True)] == rows(
        catalog, "SELECT ref, latest FROM versions ORDER BY id"
    )
    assert [("why not",)] == rows(
        catalog, "SELECT removed_reason FROM versions WHERE removed_at IS NOT NULL"
    )
    assert [(0.75,)] == rows(catalog, "SELECT value FROM metrics")
    assert [("math@2",)] == rows(catalog, "SELECT ref FROM aliases")
    assert [(2, 4)] == rows(catalog, "SELECT count(DISTINCT set_id), count(*) FROM group_metrics")
    assert [(4,)] == rows(catalog, "SELECT count(DISTINCT weights) FROM tensors")
    events = [(e["sequence"],) for e in catalog.events()]
    assert events == rows(catalog, "SELECT sequence FROM events ORDER BY 1")


def test_a_refreshed_snapshot_equals_one_made_anew(catalog: Catalog, family: list[Version]) -> None:
    def everything() -> dict[str, list[tuple[Any, ...]]]:
        return {t.name: rows(catalog, f"SELECT * FROM {t.name} ORDER BY ALL") for t in TABLES}

    rows(catalog, "SELECT 1")
    catalog.annotate(family[0].id, drop_tags=["said"], tags={"n": "2.5"})
    catalog.add(draft("new", 2), merge_run("r-2", None, *family))
    catalog.unalias("math", "best")
    refreshed = everything()
    (catalog.store_root / "analytics.duckdb").unlink()

    assert everything() == refreshed


@pytest.mark.parametrize("damage", ["missing", "cut", "garbage", "empty", "old", "foreign"])
def test_a_snapshot_that_is_no_good_is_made_anew(
    catalog: Catalog, family: list[Version], damage: str
) -> None:
    path = catalog.store_root / "analytics.duckdb"
    expected = rows(catalog, "SELECT * FROM versions ORDER BY id")
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "garbage":
        path.write_bytes(b"x" * len(content))
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        column = "layout" if damage == "old" else "hash"
        with duckdb.connect(str(path)) as connection:
            connection.execute(f"UPDATE snapshot_state SET {column} = '77'")

    assert expected == rows(catalog, "SELECT * FROM versions ORDER BY id")


def test_a_store_that_cannot_be_made_does_not_stop_a_query(url: str, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with Catalog.open(url, store=blocked / "store") as catalog:
        catalog.add(draft("a", 1))

        assert [("a@1",)] == rows(catalog, "SELECT ref FROM versions")


@pytest.mark.parametrize("name", ["a?b", "a*b", "a[b]", "a'b", "task=math", "a#b%20"])
def test_the_path_of_the_store_means_nothing_to_a_query(tmp_path: Path, name: str) -> None:
    url = str(tmp_path / "registry.db")
    with Catalog.open(url, store=tmp_path / name / "store") as catalog:
        catalog.add(draft("a", 1))

        assert [("a@1",)] == rows(catalog, "SELECT ref FROM versions")


def test_the_path_of_temporary_files_means_nothing_to_a_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = tmp_path / "task=code"
    partition.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(partition))
    with Catalog.open(str(tmp_path / "registry.db")) as catalog:
        catalog.add(draft("a", 1, task="math"))

        assert [("a@1", "math")] == rows(catalog, "SELECT ref, task FROM versions")


@pytest.mark.parametrize(
    ("sql", "columns"),
    [
        ("SELECT 1 AS a, 2 AS a", ["a", "a_1"]),
        ("SELECT 1 AS a, 2 AS a, 3 AS a", ["a", "a_1", "a_2"]),
        ("SELECT 1 AS a, 2 AS a, 3 AS a_1", ["a", "a_2", "a_1"]),
        ("SELECT 1 AS a_1, 2 AS a, 3 AS a, 4 AS a_1", ["a_1", "a", "a_2", "a_1_1"]),
    ],
)
def test_columns_of_one_name_are_numbered(
    shared_catalog: Catalog, sql: str, columns: list[str]
) -> None:
    assert columns == query(shared_catalog, sql).columns


def test_a_snapshot_that_cannot_be_written_says_so(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise duckdb.IOException("No space left on device")

    monkeypatch.setattr(analytics, "_build", full)

    with pytest.raises(StoreError, match="No space left"):
        query(catalog, "SELECT 1")


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "SELECT 1; SELECT 2",
        "DROP TABLE tags",
        "DELETE FROM tags",
        "UPDATE tags SET value = 'x'",
        "INSERT INTO tags SELECT * FROM tags",
        "CREATE TABLE x AS SELECT 1",
        "CREATE TEMP TABLE x AS SELECT 1",
        "CREATE MACRO f(x) AS x",
        "ATTACH 'registry.db' (TYPE sqlite)",
        "DETACH analytics",
        "INSTALL sqlite",
        "LOAD sqlite",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "RESET memory_limit",
        "PRAGMA enable_external_access = true",
        "COPY tags TO 'out.csv'",
        "COPY (SELECT 1) TO '/dev/stdout'",
        "EXPORT DATABASE 'out'",
        "IMPORT DATABASE '.'",
        "CREATE SECRET s (TYPE http)",
        "CALL pragma_version()",
        "CHECKPOINT",
        "PREPARE x AS SELECT 1",
        "USE memory",
        "SELECT * FROM read_text('{file}')",
        "SELECT * FROM read_blob('{file}')",
        "SELECT * FROM read_csv('{file}')",
        "SELECT * FROM read_json('{file}')",
        "SELECT * FROM '{file}'",
        "SELECT * FROM sniff_csv('{file}')",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM sqlite_scan('registry.db', 'tags')",
        "SELECT * FROM parquet_scan('http://127.0.0.1/x.parquet')",
        "SELECT * FROM query('DROP TABLE tags')",
        "SELECT * FROM read_duckdb('{file}')",
        "SELECT getenv('HOME')",
        "SELECT * FROM TABLES",
        "SELECT * FROM no_such_table",
        "SELECT nonsense FROM tags",
        "SELEC 1",
        "SELECT * FROM file",
    ],
)
def test_user_sql_only_reads_the_snapshot(
    shared_catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sql: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "secret.csv"
    file.write_text("column_of_the_secret\n42\n")
    (tmp_path / "schema.sql").write_text("column_of_the_secret is no SQL")
    (tmp_path / "load.sql").write_text("")
    home = shared_catalog.store_root
    tags = "SELECT count(*) FROM tags"
    before = rows(shared_catalog, tags), sorted(home.parent.rglob("*")), sorted(Path().iterdir())

    with pytest.raises(InvalidSelection) as caught:
        query(shared_catalog, sql.format(file=file))

    assert "column_of_the_secret" not in str(caught.value)
    after = rows(shared_catalog, tags), sorted(home.parent.rglob("*")), sorted(Path().iterdir())
    assert before == after


def test_the_configuration_is_closed_and_locked(shared_catalog: Catalog) -> None:
    settings = dict(
        rows(
            shared_catalog,
            "SELECT name, value FROM duckdb_settings() WHERE name IN ('enable_external_access', "
            "'lock_configuration', 'autoload_known_extensions', 'autoinstall_known_extensions', "
            "'allow_community_extensions', 'temp_directory', 'python_enable_replacements')",
        )
    )

    assert {"lock_configuration": "true", "temp_directory": ""}.items() <= settings.items()
    assert {"false"} == {
        v for k, v in settings.items() if k not in ("lock_configuration", "temp_directory")
    }
    assert 7 == len(settings)


def test_a_python_variable_is_no_table(shared_catalog: Catalog) -> None:
    numbers = {"a": [1, 2, 3]}

    with pytest.raises(InvalidSelection, match="numbers does not exist"):
        query(shared_catalog, "SELECT * FROM numbers")
    assert numbers


def test_a_query_that_needs_too_much_memory_fails_alone(shared_catalog: Catalog) -> None:
    with pytest.raises(InvalidSelection, match="Out of Memory"):
        query(shared_catalog, "SELECT list(a.range) FROM range(900000000) a")


def test_times_with_a_zone_say_how_to_cast_them(shared_catalog: Catalog) -> None:
    with pytest.raises(InvalidSelection, match="TIMESTAMP"):
        query(shared_catalog, "SELECT now()")


def test_duckdb_never_opens_the_registry_and_our_locks_survive_a_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "registry.db"
    connect, opened, held = duckdb.connect, [], []

    def watching(database: str, *args: Any, **kwargs: Any) -> Any:
        opened.append(Path(database).name)
        before = descriptors(path)
        connection = connect(database, *args, **kwargs)
        held.append((before, descriptors(path)))
        return connection

    monkeypatch.setattr(duckdb, "connect", watching)
    with Catalog.open(str(path)) as catalog:
        catalog.add(draft("a", 1))
        query(catalog, "SELECT 1")
        with catalog.database.write() as connection:
            connection.exec_driver_sql("UPDATE entries SET last_number = last_number")
            for _ in range(2):
                assert [(1,)] == rows(catalog, "SELECT count(*) FROM versions")
                assert "locked" == written_elsewhere(path)
                (catalog.store_root / "analytics.duckdb").unlink()
        assert "written" == written_elsewhere(path)

    assert {"analytics.duckdb"} == set(opened)
    assert all(before == after for before, after in held)


def descriptors(path: Path) -> int:
    """How often this process has the file open."""
    count = 0
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            count += fd.readlink() == path
    return count


def written_elsewhere(path: Path) -> str:
    """Whether another process gets the write lock now."""
    code = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)\n"
        "try:\n    c.execute('BEGIN IMMEDIATE'); c.execute('ROLLBACK'); print('written')\n"
        "except sqlite3.OperationalError: print('locked')"
    )
    out = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    return out.stdout.strip()


def test_the_check_above_would_notice_a_lost_lock(tmp_path: Path) -> None:
    """Closing any descriptor of the file drops the locks: what DuckDB's SQLite would do."""
    path = tmp_path / "x.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE t (x)")
    connection.execute("BEGIN IMMEDIATE")
    assert "locked" == written_elsewhere(path)

    path.open("rb").close()

    assert "written" == written_elsewhere(path)
    connection.close()
