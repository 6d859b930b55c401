"""MLflow's file store: `mlruns/`, a tree of `meta.yaml` files.

    models/NAME/meta.yaml, models/NAME/version-N/meta.yaml, .../tags/KEY, models/NAME/aliases/ALIAS
    EXPERIMENT/RUN/meta.yaml, .../params/KEY, .../metrics/KEY (lines `timestamp value step`)
    EXPERIMENT/models/m-ID/meta.yaml

Source: https://github.com/mlflow/mlflow, `mlflow/store/model_registry/file_store.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from zoo.declarations.plain import LARGEST, mapping, yaml_mapping
from zoo.errors import NotFound, RegistryError
from zoo.mlflow.records import MlflowMetric, MlflowStore, MlflowVersion

_VERSION = re.compile(r"version-(\d+)")


class FileStore(MlflowStore):
    """A registry in a directory."""

    def __init__(self, root: Path) -> None:
        """
        Raises:
            NotFound, RegistryError: it is no directory, or holds no models.
        """
        if not root.is_dir():
            raise NotFound(f"There is no registry of MLflow at `{root}`.", path=str(root))
        if not (root / "models").is_dir():
            raise RegistryError(
                f"`{root}` is no registry of MLflow:",
                "it has no directory `models`.",
                "Give the directory that is usually called `mlruns`, or the `.db` file.",
                path=str(root),
            )
        self._root = root

    def versions(self) -> list[MlflowVersion]:
        found = []
        for model in _folders(self._root / "models"):
            about = _meta(model)
            aliases = {str(k): str(v) for k, v in mapping(about.get("aliases")).items()}
            aliases |= _small(model / "aliases")
            for folder in _folders(model):
                numbered = _VERSION.fullmatch(folder.name)
                meta = _meta(folder)
                if numbered and meta and meta.get("current_stage") != "Deleted_Internal":
                    number = int(numbered[1])
                    names = [a for a, n in aliases.items() if n == str(number)]
                    tags = {**_small(model / "tags"), **_small(folder / "tags")}
                    found.append(self._version(about, meta, number, tags, sorted(names)))
        return sorted(found, key=lambda v: (v.model, v.number))

    def _version(
        self,
        about: Mapping[str, Any],
        meta: Mapping[str, Any],
        number: int,
        tags: Mapping[str, str],
        aliases: Iterable[str],
    ) -> MlflowVersion:
        run = str(meta.get("run_id") or "")
        source = str(meta.get("source") or "")
        stage = meta.get("current_stage")
        folders = [self._runs.get(run), self._logged.get(source.removeprefix("models:/"))]
        metrics: dict[str, MlflowMetric] = {}
        params: dict[str, str] = {}
        for folder in folders:
            if folder is not None:
                metrics |= {m.name: m for m in _metrics(folder / "metrics")}
                params |= _small(folder / "params")
        return MlflowVersion(
            model=str(about.get("name") or meta.get("name")),
            number=number,
            created=_integer(meta.get("creation_timestamp")),
            source=source,
            location=str(meta.get("storage_location") or source),
            run=run,
            stage="" if stage in (None, "None") else str(stage),
            status=str(meta.get("status") or "READY"),
            description=str(meta.get("description") or ""),
            tags=tags,
            aliases=tuple(aliases),
            metrics=tuple(metrics.values()),
            params=params,
        )

    def run_artifacts(self, run: str) -> str | None:
        folder = self._runs.get(run)
        return None if folder is None else _text(_meta(folder).get("artifact_uri"))

    def logged_model(self, model_id: str) -> str | None:
        folder = self._logged.get(model_id)
        return None if folder is None else _text(_meta(folder).get("artifact_location"))

    def logged_by(self, run: str, name: str) -> str | None:
        metas = [_meta(folder) for folder in self._logged.values()]
        mine = [m for m in metas if (m.get("source_run_id"), m.get("name")) == (run, name)]
        newest = sorted(mine, key=lambda m: _integer(m.get("creation_timestamp")))
        return _text(newest[-1].get("artifact_location")) if newest else None

    @cached_property
    def _runs(self) -> dict[str, Path]:
        """Directories of runs by id."""
        return {
            run.name: run
            for experiment in self._experiments()
            for run in _folders(experiment)
            if (run / "meta.yaml").is_file()
        }

    @cached_property
    def _logged(self) -> dict[str, Path]:
        """Directories of logged models by id."""
        return {
            model.name: model
            for experiment in self._experiments()
            for model in _folders(experiment / "models")
        }

    def _experiments(self) -> list[Path]:
        kept = [f for f in _folders(self._root) if f.name not in ("models", ".trash")]
        return [f for f in kept if (f / "meta.yaml").is_file()]


def _folders(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    return sorted(f for f in directory.iterdir() if f.is_dir() and not f.is_symlink())


def _meta(folder: Path) -> dict[str, Any]:
    return yaml_mapping(_read(folder / "meta.yaml"))


def _small(directory: Path) -> dict[str, str]:
    """Content of the files below a directory, by relative path: a key may hold slashes."""
    if not directory.is_dir():
        return {}
    files = sorted(f for f in directory.rglob("*") if f.is_file() and not f.is_symlink())
    return {f.relative_to(directory).as_posix(): _read(f).strip() for f in files}


def _metrics(directory: Path) -> Iterator[MlflowMetric]:
    """The last finite value of each metric, by step and time."""
    for name, lines in _small(directory).items():
        values = []
        for parts in (line.split() for line in lines.splitlines()):
            try:
                time, value = int(parts[0]), float(parts[1])
                values.append((int(parts[2]) if len(parts) > 2 else 0, time, value))
            except (ValueError, IndexError):
                continue
        if values and math.isfinite(max(values)[2]):
            yield MlflowMetric(name, max(values)[2], max(values)[0])


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST or path.is_symlink():
            return ""
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _integer(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
