"""MLflow's tables, in SQLite, PostgreSQL or MySQL, of any schema since aliases or before.

Source: https://github.com/mlflow/mlflow, `mlflow/store/db_migrations` and
`mlflow/store/model_registry/dbmodels/models.py`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import (
    Connection,
    Engine,
    MetaData,
    NullPool,
    Table,
    create_engine,
    func,
    inspect,
    make_url,
    select,
)
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from zoo.errors import NotFound, RegistryError
from zoo.mlflow.records import MlflowMetric, MlflowStore, MlflowVersion

_NEEDED = ("registered_models", "model_versions")
_READ = (
    *_NEEDED,
    *("registered_model_tags", "model_version_tags", "registered_model_aliases"),
    *("runs", "latest_metrics", "params", "logged_models", "logged_model_metrics"),
    "logged_model_params",
)
_LOGGED = "models:/m-"
"""Begins the source of a version that is a logged model."""


class SqlStore(MlflowStore):
    """A registry in a database; a connection is open only while something is read."""

    def __init__(self, url: str) -> None:
        """
        Raises:
            NotFound: no such file.
            RegistryError: it cannot be read, or holds no registry.
        """
        self._url = url
        self._tables: dict[str, Table] = {}
        with self._reading() as connection:
            there = set(inspect(connection).get_table_names())
            if missing := [name for name in _NEEDED if name not in there]:
                raise RegistryError(
                    f"`{_shown(url)}` is no registry of MLflow:",
                    f"it has no table `{missing[0]}`.",
                    "Give what `mlflow server` was started with as --backend-store-uri.",
                )
            self._tables = {
                name: Table(name, MetaData(), autoload_with=connection, resolve_fks=False)
                for name in _READ
                if name in there
            }

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """A connection, and errors in our words."""
        try:
            engine = _engine(self._url)
            try:
                with engine.connect() as connection:
                    yield connection
            finally:
                engine.dispose()
        except (SQLAlchemyError, ImportError) as error:
            said = " ".join(str(getattr(error, "orig", None) or error).split())
            raise RegistryError(
                f"Cannot read `{_shown(self._url)}` as a registry of MLflow: {said}."
            ) from None

    def _select(self, connection: Connection, table: str, **equal: Any) -> list[Mapping[str, Any]]:
        """Rows of a table, none where this schema has no such table.

        Args:
            equal: values of columns, or queries that give them.
        """
        if table not in self._tables:
            return []
        columns = self._tables[table].c
        query = select(self._tables[table])
        for name, value in equal.items():
            one = isinstance(value, str)
            query = query.where(columns[name] == value if one else columns[name].in_(value))
        return [dict(row) for row in connection.execute(query).mappings()]

    def versions(self) -> list[MlflowVersion]:
        with self._reading() as c:
            v = self._tables["model_versions"].c
            runs, logged = select(v.run_id), select(func.substr(v.source, len(_LOGGED) - 1))
            rows = self._select(c, "model_versions")
            tags = _grouped(self._select(c, "model_version_tags"), "name", "version")
            model_tags = _grouped(self._select(c, "registered_model_tags"), "name")
            aliases = _grouped(self._select(c, "registered_model_aliases"), "name", "version")
            metrics = _grouped(self._select(c, "latest_metrics", run_uuid=runs), "run_uuid")
            params = _grouped(self._select(c, "params", run_uuid=runs), "run_uuid")
            own = _grouped(self._select(c, "logged_model_metrics", model_id=logged), "model_id")
            set_ = _grouped(self._select(c, "logged_model_params", model_id=logged), "model_id")
        found = []
        for row in rows:
            if row.get("current_stage") == "Deleted_Internal":
                continue  # a deleted version keeps its row
            key, workspace = (row["name"], row["version"]), row.get("workspace", "default")
            run = row.get("run_id") or ""
            pairs = [*model_tags[row["name"],], *tags[key]]
            source, stage = row.get("source") or "", row.get("current_stage")
            model_id = source.removeprefix("models:/") if source.startswith(_LOGGED) else ""
            found.append(
                MlflowVersion(
                    model=row["name"] if workspace == "default" else f"{workspace}/{row['name']}",
                    number=int(row["version"]),
                    created=int(row.get("creation_time") or 0),
                    source=source,
                    location=row.get("storage_location") or source,
                    run=run,
                    stage="" if stage in (None, "None") else stage,
                    status=row.get("status") or "READY",
                    description=row.get("description") or "",
                    tags={t["key"]: t["value"] or "" for t in pairs if _same(t, workspace)},
                    aliases=tuple(a["alias"] for a in aliases[key] if _same(a, workspace)),
                    metrics=tuple(_metrics(metrics[run,], own[model_id,])),
                    params={p["key"]: p["value"] for p in params[run,]}
                    | {p["param_key"]: p["param_value"] for p in set_[model_id,]},
                )
            )
        return sorted(found, key=lambda v: (v.model, v.number))

    def run_artifacts(self, run: str) -> str | None:
        with self._reading() as connection:
            rows = self._select(connection, "runs", run_uuid=run)
        return rows[0]["artifact_uri"] if rows else None

    def logged_model(self, model_id: str) -> str | None:
        with self._reading() as connection:
            rows = self._select(connection, "logged_models", model_id=model_id)
        return rows[0]["artifact_location"] if rows else None

    def logged_by(self, run: str, name: str) -> str | None:
        with self._reading() as connection:
            rows = self._select(connection, "logged_models", source_run_id=run, name=name)
        newest = sorted(rows, key=lambda r: r["creation_timestamp_ms"])
        return newest[-1]["artifact_location"] if newest else None


def _metrics(
    of_run: Iterable[Mapping[str, Any]], of_model: Iterable[Mapping[str, Any]]
) -> Iterator[MlflowMetric]:
    """Those of the model itself, and those of its run that have other names."""
    newest: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in sorted(of_model, key=lambda r: (r["metric_step"], r["metric_timestamp_ms"])):
        newest[row["metric_name"], row["dataset_name"] or ""] = row
    for (name, dataset), row in newest.items():
        if row["metric_value"] is not None and math.isfinite(row["metric_value"]):
            yield MlflowMetric(name, row["metric_value"], row["metric_step"], dataset)
    said = {name for name, _ in newest}
    for row in of_run:
        usable = not row.get("is_nan") and math.isfinite(row["value"])
        if usable and row["key"] not in said:
            yield MlflowMetric(row["key"], row["value"], int(row.get("step") or 0))


def _engine(url: str) -> Engine:
    """An engine that reads: SQLite is opened read-only, and no file is made."""
    if not url.startswith("sqlite"):
        return create_engine(url, poolclass=NullPool)
    path = Path(make_url(url).database or "")
    if not path.is_file():
        raise NotFound(f"There is no registry of MLflow at `{path}`.", path=str(path))
    read_only = f"sqlite:///file:{quote(str(path.absolute()))}?mode=ro&uri=true"
    return create_engine(read_only, poolclass=NullPool)


def _shown(url: str) -> str:
    """A URL without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url.rpartition("@")[2]


def _same(row: Mapping[str, Any], workspace: str) -> bool:
    return bool(row.get("workspace", "default") == workspace)


def _grouped(
    rows: Iterable[Mapping[str, Any]], *keys: str
) -> defaultdict[tuple[Any, ...], list[Mapping[str, Any]]]:
    found: defaultdict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        found[tuple(row[key] for key in keys)].append(row)
    return found
