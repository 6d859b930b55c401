"""An MLflow registry comes in with all it knows, and is left as it was."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mlflow_registries import RUN, file_store, sql_store, weights
from zoo_cli.main import cli

from zoo import Registry
from zoo.errors import InvalidName, NotFound, RegistryError, ZooError
from zoo.mlflow.importing import Imported, entry_name

Store = Callable[[Path], str]
STORES = pytest.mark.parametrize("store", [sql_store, file_store])


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    folder = tmp_path / "theirs"
    folder.mkdir()
    return folder


def outcomes(found: list[Imported]) -> list[tuple[str, int, str, str | None]]:
    return [(one.model, one.version, one.outcome, one.ref) for one in found]


def fingerprint(folder: Path) -> dict[str, str]:
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@STORES
def test_versions_come_in_with_tags_aliases_parameters_and_metrics(
    registry: Registry, theirs: Path, store: Store
) -> None:
    found = registry.import_mlflow(store(theirs))

    assert [
        ("my model", 1, "imported", "my-model@1"),
        ("my model", 2, "imported", "my-model@2"),
        ("my model", 3, "skipped", None),
        ("my model", 4, "skipped", None),
        ("my model", 5, "skipped", None),
        ("other", 1, "skipped", None),
        ("other", 2, "imported", "other@1"),
    ] == outcomes(found)
    first = registry.get("my-model@champion")
    assert "my-model@1" == first.ref
    assert {
        "owner": "me",
        "quality": "good",
        "param.lr": "0.1",
        "mlflow.name": "my model",
        "mlflow.version": "1",
        "mlflow.created": "1000",
        "mlflow.run": RUN,
    } == first.tags
    assert {"accuracy": 0.75} == first.metrics
    assert "models:/my model/1" == first.source
    assert {"f1": 0.9, "accuracy": 0.75} == registry.get("other").metrics
    assert "3" == registry.get("other").tags["param.layers"]
    assert "Production" == registry.get("my-model@2").tags["mlflow.stage"]
    assert [3.0] == registry.load_state("other")["w"].unique().tolist()


@STORES
def test_what_is_left_out_is_said(registry: Registry, theirs: Path, store: Store) -> None:
    reasons = {(o.model, o.version): o.reason for o in registry.import_mlflow(store(theirs))}

    assert "Aliases that cannot be names here: `7up`." == reasons["my model", 1]
    assert f"`{theirs}/gone` does not exist." == reasons["my model", 3]
    assert f"There are no weights below `{theirs}/empty`." == reasons["my model", 4]
    assert "--artifacts-root" in str(reasons["my model", 5])
    assert "s3://bucket/model" in str(reasons["other", 1])


@STORES
def test_a_second_import_changes_nothing_and_the_source_never_changes(
    registry: Registry, theirs: Path, store: Store
) -> None:
    uri = store(theirs)
    before = fingerprint(theirs)
    first = registry.import_mlflow(uri)
    events = len(registry.catalog.events())

    second = registry.import_mlflow(uri)

    assert before == fingerprint(theirs)
    assert {"imported", "skipped"} == {o.outcome for o in first}
    assert {"unchanged", "skipped"} == {o.outcome for o in second}
    assert events == len(registry.catalog.events())


def test_a_later_import_moves_aliases_and_brings_new_metrics(
    registry: Registry, theirs: Path
) -> None:
    uri = sql_store(theirs)
    registry.import_mlflow(uri)
    with closing(sqlite3.connect(uri)) as c, c:
        c.execute("UPDATE registered_model_aliases SET version = 2 WHERE alias = 'champion'")
        c.execute("UPDATE latest_metrics SET value = 0.8 WHERE key = 'accuracy'")
        c.execute(
            "INSERT INTO model_versions (name, version, creation_time, source, status) "
            "VALUES ('my model', 6, 99, ?, 'READY')",
            (f"file://{theirs}/plain.safetensors",),
        )
    c.close()

    found = {(o.model, o.version): o for o in registry.import_mlflow(uri)}

    assert "my-model@2" == registry.get("my-model@champion").ref
    assert {"accuracy": 0.8} == registry.get("my-model@1").metrics
    assert ["updated", "updated"] == [found["my model", n].outcome for n in (1, 2)]
    assert "my-model@3" == found["my model", 6].ref


def test_a_number_that_was_given_again_is_another_version(registry: Registry, theirs: Path) -> None:
    uri = sql_store(theirs)
    registry.import_mlflow(uri, models=["other"])
    with closing(sqlite3.connect(uri)) as c, c:
        c.execute("UPDATE model_versions SET creation_time = 5 WHERE name = 'other'")
    c.close()

    found = registry.import_mlflow(uri, models=["other"])

    assert "other@2" == found[1].ref


@pytest.mark.parametrize(
    ("asked", "versions"),
    [
        ({"models": ["oth*"]}, [("other", 1), ("other", 2)]),
        ({"stages": ["production"]}, [("my model", 2)]),
        ({"aliases": ["champion"]}, [("my model", 1)]),
        ({"models": ["other"], "aliases": ["champion"]}, []),
    ],
)
def test_models_stages_and_aliases_choose(
    registry: Registry, theirs: Path, asked: dict[str, Any], versions: list[tuple[str, int]]
) -> None:
    found = registry.import_mlflow(sql_store(theirs), **asked)

    assert versions == [(o.model, o.version) for o in found]


def test_what_a_server_serves_is_found_below_its_root(registry: Registry, theirs: Path) -> None:
    uri = sql_store(theirs)

    found = registry.import_mlflow(uri, artifacts_root=theirs / "served")

    assert "imported" == found[4].outcome
    with closing(sqlite3.connect(uri)) as c, c:
        c.execute("UPDATE model_versions SET source = 'mlflow-artifacts:/../plain.safetensors'")
    c.close()
    assert {"skipped"} == {
        o.outcome
        for o in registry.import_mlflow(uri, artifacts_root=theirs / "served")
        if o.ref is None
    }


def test_a_dry_run_writes_nothing(registry: Registry, theirs: Path) -> None:
    found = registry.import_mlflow(sql_store(theirs), dry_run=True)

    assert {"found", "skipped"} == {o.outcome for o in found}
    assert [] == registry.select()


def test_an_old_schema_without_aliases_is_read(registry: Registry, theirs: Path) -> None:
    uri = sql_store(theirs, old=True)

    found = registry.import_mlflow(uri)

    assert ["imported", "imported"] == [o.outcome for o in found[:2]]
    assert "0.1" == registry.get("my-model@1").tags["param.lr"]
    assert {} == registry.get("my-model@1").metrics


def test_several_models_in_one_place_are_not_guessed_at(registry: Registry, theirs: Path) -> None:
    uri = sql_store(theirs)
    weights(theirs / "logged" / "unet" / "model.safetensors", 1.0)

    found = registry.import_mlflow(uri, models=["other"])

    assert "Several directories" in str(found[1].reason)
    assert "`data`, `unet`" in str(found[1].reason)


def test_a_pickle_is_never_run(registry: Registry, theirs: Path) -> None:
    import pickle

    class Touch:
        def __reduce__(self) -> Any:
            return (Path.touch, (theirs / "pwned",))

    uri = sql_store(theirs)
    (theirs / "logged" / "data" / "model.safetensors").unlink()
    (theirs / "logged" / "data" / "model.pth").write_bytes(pickle.dumps(Touch()))

    found = registry.import_mlflow(uri, models=["other"])

    assert "skipped" == found[1].outcome
    assert not (theirs / "pwned").exists()


def test_entries_of_two_models_are_not_mixed(registry: Registry, theirs: Path) -> None:
    uri = sql_store(theirs)
    with closing(sqlite3.connect(uri)) as c, c:
        c.execute(
            "INSERT INTO model_versions (name, version, creation_time, source, status) "
            "VALUES ('my:model', 1, 1, ?, 'READY')",
            (f"file://{theirs}/plain.safetensors",),
        )
    c.close()

    found = {o.model: o for o in registry.import_mlflow(uri)}

    assert "is for MLflow's model `my model` already" in str(found["my:model"].reason)


@pytest.mark.parametrize(
    ("model", "entry"),
    [
        ("qwen", "qwen"),
        ("my model", "my-model"),
        ("catalog.schema/model v2", "catalog.schema/model-v2"),
        ("../../etc", "etc"),
        ("a'; DROP TABLE x; --", "a-DROP-TABLE-x"),
        ("Füße", "F-e"),
    ],
)
def test_names_become_names_of_entries(model: str, entry: str) -> None:
    assert entry == entry_name(model)


def test_a_name_of_which_nothing_is_left_is_refused() -> None:
    with pytest.raises(InvalidName):
        entry_name("???")


def test_what_is_no_registry_is_refused_with_a_remedy(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("hello" * 100)
    (tmp_path / "dir").mkdir()
    sqlite3.connect(tmp_path / "empty.db").execute("CREATE TABLE x (y)").connection.close()
    cases = [
        ("none.db", NotFound, "no registry of MLflow"),
        (f"sqlite+pysqlite:///{tmp_path}/none.db", NotFound, "no registry of MLflow"),
        (f"{tmp_path}/text.db", RegistryError, "not a database"),
        (f"{tmp_path}/empty.db", RegistryError, "no table `registered_models`"),
        (f"{tmp_path}/dir", RegistryError, "no directory `models`"),
        ("http://localhost:5000", RegistryError, "--backend-store-uri"),
        ("oracle9://u:secret@h/x", RegistryError, "Cannot read"),
    ]
    for uri, kind, message in cases:
        with pytest.raises(kind, match=message) as error:
            registry.import_mlflow(uri)
        assert isinstance(error.value, ZooError)
        assert "secret" not in str(error.value)
    assert not (tmp_path / "none.db").exists()


def test_the_command_prints_every_version(theirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = sql_store(theirs)
    monkeypatch.chdir(theirs.parent)

    table = CliRunner().invoke(cli, ["import-mlflow", uri], prog_name="zoo")
    again = CliRunner().invoke(cli, ["import-mlflow", uri, "--json"], prog_name="zoo")

    assert (0, 0) == (table.exit_code, again.exit_code)
    assert "my model\t1\timported\tmy-model@1" in table.stdout
    assert "3 imported, 0 updated, 4 skipped" in table.stderr
    assert "unchanged" == json.loads(again.stdout)[0]["outcome"]
