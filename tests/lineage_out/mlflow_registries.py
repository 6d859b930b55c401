"""Registries of MLflow, written as MLflow 3.17 lays them out, and as MLflow 1.x did.

The columns are those that MLflow's own migrations make; what no reader looks at is left out.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file

RUN = "73d8331f59ca46cab0f0cf42e6d6ef1c"
LOGGED = "m-d6036a143e4f426bab9e656cdae54754"

OLD = """
CREATE TABLE registered_models (name VARCHAR(256) PRIMARY KEY, creation_time BIGINT,
  last_updated_time BIGINT, description VARCHAR(5000));
CREATE TABLE model_versions (name VARCHAR(256), version INTEGER, creation_time BIGINT,
  last_updated_time BIGINT, description VARCHAR(5000), user_id VARCHAR(256),
  current_stage VARCHAR(20), source VARCHAR(500), run_id VARCHAR(32), status VARCHAR(20),
  status_message VARCHAR(500), PRIMARY KEY (name, version));
CREATE TABLE runs (run_uuid VARCHAR(32) PRIMARY KEY, artifact_uri VARCHAR(200));
CREATE TABLE params ("key" VARCHAR(250), value VARCHAR(8000), run_uuid VARCHAR(32));
"""
NEW = (
    OLD
    + """
ALTER TABLE model_versions ADD COLUMN storage_location VARCHAR(500);
ALTER TABLE model_versions ADD COLUMN workspace VARCHAR(63) DEFAULT 'default' NOT NULL;
CREATE TABLE registered_model_tags ("key" VARCHAR(250), value VARCHAR(5000), name VARCHAR(256),
  workspace VARCHAR(63) DEFAULT 'default' NOT NULL);
CREATE TABLE model_version_tags ("key" VARCHAR(250), value TEXT, name VARCHAR(256),
  version INTEGER, workspace VARCHAR(63) DEFAULT 'default' NOT NULL);
CREATE TABLE registered_model_aliases (alias VARCHAR(256), version INTEGER, name VARCHAR(256),
  workspace VARCHAR(63) DEFAULT 'default' NOT NULL);
CREATE TABLE latest_metrics ("key" VARCHAR(250), value FLOAT, timestamp BIGINT, step BIGINT,
  is_nan BOOLEAN, run_uuid VARCHAR(32));
CREATE TABLE logged_models (model_id VARCHAR(36) PRIMARY KEY, name VARCHAR(500),
  artifact_location VARCHAR(1000), creation_timestamp_ms BIGINT, source_run_id VARCHAR(32));
CREATE TABLE logged_model_metrics (model_id VARCHAR(36), metric_name VARCHAR(500),
  metric_timestamp_ms BIGINT, metric_step BIGINT, metric_value FLOAT, dataset_name VARCHAR(500));
CREATE TABLE logged_model_params (model_id VARCHAR(36), param_key VARCHAR(255), param_value TEXT);
"""
)


def weights(path: Path, value: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"w": torch.full((2, 3), value)}, path, {"format": "pt"})
    return path


def make_models(root: Path) -> None:
    """What both kinds of store point at."""
    weights(root / "art" / RUN / "artifacts" / "model" / "model.safetensors", 1.0)
    (root / "art" / RUN / "artifacts" / "model" / "MLmodel").write_text("flavors: {}\n")
    weights(root / "plain.safetensors", 2.0)
    weights(root / "logged" / "data" / "model.safetensors", 3.0)
    weights(root / "served" / "1" / "x" / "model.safetensors", 4.0)
    (root / "empty").mkdir()


def sources(root: Path) -> list[tuple[str, int, str, str, str]]:
    """Name, number, source, run, stage."""
    return [
        ("my model", 1, f"runs:/{RUN}/model", RUN, "None"),
        ("my model", 2, f"file://{root}/plain.safetensors", "", "Production"),
        ("my model", 3, f"file://{root}/gone", "", "None"),
        ("my model", 4, f"file://{root}/empty", "", "None"),
        ("my model", 5, "mlflow-artifacts:/1/x", "", "None"),
        ("other", 1, "s3://bucket/model", "", "Staging"),
        ("other", 2, f"models:/{LOGGED}", RUN, "None"),
        ("other", 3, f"file://{root}/plain.safetensors", "", "Deleted_Internal"),
    ]


def sql_store(root: Path, *, old: bool = False) -> str:
    make_models(root)
    path = root / "mlflow.db"
    with closing(sqlite3.connect(path)) as c, c:
        c.executescript(OLD if old else NEW)
        c.execute("INSERT INTO runs VALUES (?, ?)", (RUN, f"file://{root}/art/{RUN}/artifacts"))
        c.execute("INSERT INTO params VALUES ('lr', '0.1', ?)", (RUN,))
        for i, (name, number, source, run, stage) in enumerate(sources(root)):
            c.execute(
                "INSERT INTO model_versions (name, version, creation_time, current_stage, source, "
                "run_id, status) VALUES (?, ?, ?, ?, ?, ?, 'READY')",
                (name, number, 1000 + i, stage, source, run or None),
            )
        c.executemany(
            "INSERT INTO registered_models (name) VALUES (?)", [("my model",), ("other",)]
        )
        if not old:
            _new_tables(c, root)
    c.close()
    return str(path)


def _new_tables(c: sqlite3.Connection, root: Path) -> None:
    insert = "INSERT INTO registered_model_tags (key, value, name) VALUES (?, ?, ?)"
    c.execute(insert, ("owner", "me", "my model"))
    insert = "INSERT INTO model_version_tags (key, value, name, version) VALUES (?, ?, ?, ?)"
    c.execute(insert, ("quality", "good", "my model", 1))
    insert = "INSERT INTO registered_model_aliases (alias, version, name) VALUES (?, ?, ?)"
    c.execute(insert, ("champion", 1, "my model"))
    c.execute(insert, ("7up", 1, "my model"))
    values = [("accuracy", 0.75, 2, 1, 0, RUN), ("loss", 0.0, 1, 0, 1, RUN)]
    c.executemany("INSERT INTO latest_metrics VALUES (?, ?, ?, ?, ?, ?)", values)
    c.execute(
        "INSERT INTO logged_models VALUES (?, 'lm', ?, 1, ?)",
        (LOGGED, f"file://{root}/logged", RUN),
    )
    values = [(LOGGED, "f1", 1, 0, 0.5, "squad"), (LOGGED, "f1", 2, 1, 0.9, "squad")]
    c.executemany("INSERT INTO logged_model_metrics VALUES (?, ?, ?, ?, ?, ?)", values)
    c.execute("INSERT INTO logged_model_params VALUES (?, 'layers', '3')", (LOGGED,))


def file_store(root: Path) -> str:
    make_models(root)
    runs = root / "mlruns"
    write = _writer(runs)
    write("5/meta.yaml", {"experiment_id": "5"})
    write(f"5/{RUN}/meta.yaml", {"artifact_uri": f"file://{root}/art/{RUN}/artifacts"})
    write(f"5/{RUN}/params/lr", "0.1")
    write(f"5/{RUN}/metrics/accuracy", "1 0.5 0\n2 0.75 1\n")
    write(f"5/{RUN}/metrics/loss", "1 nan 0\n")
    about = {"name": "lm", "artifact_location": f"file://{root}/logged", "source_run_id": RUN}
    write(f"5/models/{LOGGED}/meta.yaml", {**about, "creation_timestamp": 1})
    write(f"5/models/{LOGGED}/metrics/f1", f"1 0.5 0 {RUN}\n2 0.9 1 {RUN}\n")
    write(f"5/models/{LOGGED}/params/layers", "3")
    for i, (name, number, source, run, stage) in enumerate(sources(root)):
        content = {
            "name": name,
            "version": number,
            "creation_timestamp": 1000 + i,
            "current_stage": stage,
            "source": source,
            "run_id": run or None,
            "status": "READY",
        }
        write(f"models/{name}/version-{number}/meta.yaml", content)
    write("models/my model/meta.yaml", {"name": "my model", "aliases": {"champion": "1"}})
    write("models/other/meta.yaml", {"name": "other"})
    write("models/my model/aliases/7up", "1")
    write("models/my model/tags/owner", "me")
    write("models/my model/version-1/tags/quality", "good")
    return str(runs)


def _writer(root: Path) -> Callable[[str, object], None]:
    def write(path: str, content: object) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        (root / path).write_text(text)

    return write
