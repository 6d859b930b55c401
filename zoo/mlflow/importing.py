"""Take the models of an MLflow registry in: versions, aliases, tags, parameters and metrics.

A version is known again by its name, number and time of creation, kept as tags; so an import that
is repeated brings what is new, moves aliases and updates metrics, and leaves the rest alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from zoo.catalog.references import check_alias
from zoo.errors import InvalidName, RegistryError, ZooError
from zoo.mlflow.artifacts import Unavailable, weights_of
from zoo.mlflow.file_store import FileStore
from zoo.mlflow.records import MlflowStore, MlflowVersion
from zoo.mlflow.sql_store import SqlStore
from zoo.names import LONGEST_NAME, check_entry_name
from zoo.records import MetricValue, Version

if TYPE_CHECKING:
    from zoo.progress import Progress
    from zoo.registry import Registry

LONGEST_TAG = 1_000
"""Characters of a tag or parameter that is taken over; longer ones are cut."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of one version."""

    model: str
    version: int
    """As MLflow calls them."""
    outcome: str
    """`imported`, `updated`, `unchanged`, `skipped`; or `found`, when nothing was to be written."""
    ref: str | None = None
    reason: str | None = None
    """Why it was skipped, or what of it was left out."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def import_mlflow(
    registry: Registry,
    uri: str,
    *,
    models: Sequence[str] = (),
    stages: Sequence[str] = (),
    aliases: Sequence[str] = (),
    artifacts_root: Path | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> list[Imported]:
    """Take versions over from a registry of MLflow, which is only read.

    Args:
        uri: `mlflow.db`, a database URL, or the directory of a file store.
        models: glob patterns of names; all by default.
        stages: only versions in one of these stages, any case.
        aliases: only versions with one of these aliases.
        artifacts_root: directory that `mlflow-artifacts:/` stands for.
        dry_run: find the weights, and write nothing.
    Returns:
        One record for each version that fits, by name and number. What cannot be taken over is
        skipped with its reason, and the others go on.
    Raises:
        NotFound, RegistryError: there is no registry of MLflow at the URI.
    """
    store = open_store(uri)
    found = []
    for one in store.versions():
        wanted = (
            (not models or any(fnmatchcase(one.model, pattern) for pattern in models))
            and (not stages or one.stage.lower() in [s.lower() for s in stages])
            and (not aliases or bool(set(aliases) & set(one.aliases)))
        )
        if wanted:
            found.append(_one(registry, store, one, artifacts_root, dry_run, progress))
    return found


def open_store(uri: str) -> MlflowStore:
    """The registry at a URI.

    Raises:
        NotFound, RegistryError
    """
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https", "databricks", "databricks-uc", "uc"):
        raise RegistryError(
            f"`{uri}` is a server of MLflow:",
            "a registry is read where it is stored.",
            "Give what the server has as --backend-store-uri, a database URL or a directory.",
            uri=uri,
        )
    if scheme == "file":
        return FileStore(Path(unquote(urlsplit(uri).path)))
    if "://" in uri:
        return SqlStore(uri)
    return FileStore(Path(uri)) if Path(uri).is_dir() else SqlStore(f"sqlite:///{uri}")


def _one(
    registry: Registry,
    store: MlflowStore,
    one: MlflowVersion,
    artifacts_root: Path | None,
    dry_run: bool,
    progress: Progress | None,
) -> Imported:
    try:
        name = entry_name(one.model)
        known = _known(registry, name, one)
        if known is not None:
            return Imported(one.model, one.number, *_brought_up(registry, known, one, dry_run))
        if one.status != "READY":
            return _skipped(one, f"Its status is {one.status}.")
        path = weights_of(registry, store, one, artifacts_root)
        if dry_run:
            return Imported(one.model, one.number, "found", reason=str(path))
        version = registry.register(
            path,
            name=name,
            tags=_tags(one),
            metrics=_metrics(one),
            origin=f"models:/{one.model}/{one.number}",
            progress=progress,
        )
        left = _point(registry, version, one)
        return Imported(one.model, one.number, "imported", version.ref, left)
    except Unavailable as reason:
        return _skipped(one, str(reason))
    except ZooError as error:
        return _skipped(one, str(error))
    except OSError as error:
        return _skipped(one, f"{error.strerror}: {error.filename}")


def entry_name(model: str) -> str:
    """What an entry for a registered model is called: its name, with `-` for what cannot stand in
    one.

    Raises:
        InvalidName: nothing is left of it.
    """
    parts = [re.sub(r"[^A-Za-z0-9._-]+", "-", p).strip("-._") for p in model.split("/", 1)]
    name = "/".join(p for p in parts if p)[:LONGEST_NAME].strip("-._/").replace("..", ".")
    if not name:
        raise InvalidName(f"The model `{model}` has no letter or digit to name an entry by.")
    return check_entry_name(name)


def _known(registry: Registry, name: str, one: MlflowVersion) -> Version | None:
    """The version that this one became before.

    Raises:
        Unavailable: the entry is another model's.
    """
    there = registry.select(f"name = '{name}'")
    for version in there:
        tags = version.tags
        if tags.get("mlflow.name") not in (None, one.model):
            raise Unavailable(
                f"Entry `{name}` is for MLflow's model `{tags['mlflow.name']}` already."
            )
        mine = (str(one.number), str(one.created))
        if (tags.get("mlflow.version"), tags.get("mlflow.created")) == mine:
            return version
    return None


def _brought_up(
    registry: Registry, known: Version, one: MlflowVersion, dry_run: bool
) -> tuple[str, str, str | None]:
    """Outcome, reference and what was left out, of a version that is here already."""
    tags = {k: v for k, v in _tags(one).items() if known.tags.get(k) != v}
    was = {(m.name, m.dataset): m.value for m in registry.catalog.measured(known.id)}
    metrics = [m for m in _metrics(one) if was.get((m.name, m.dataset)) != m.value]
    moved = [a for a in one.aliases if a not in known.aliases]
    if dry_run or not (tags or metrics or moved):
        return ("found" if dry_run else "unchanged"), known.ref, None
    if tags or metrics:
        registry.annotate(known.ref, tags=tags, metrics=metrics)
    left = _point(registry, known, one)
    changed = registry.get(known.ref).aliases != known.aliases or bool(tags or metrics)
    return ("updated" if changed else "unchanged"), known.ref, left


def _point(registry: Registry, version: Version, one: MlflowVersion) -> str | None:
    """Point MLflow's aliases at the version; which of them cannot be names here."""
    refused = []
    for alias in one.aliases:
        try:
            check_alias(alias)
        except InvalidName:
            refused.append(alias)
            continue
        registry.alias(version.ref, alias)
    names = ", ".join(f"`{alias}`" for alias in refused)
    return f"Aliases that cannot be names here: {names}." if refused else None


def _tags(one: MlflowVersion) -> dict[str, str]:
    """MLflow's tags as they are, parameters as `param.NAME`, and `mlflow.*` of its origin."""
    found = {k: v for k, v in one.tags.items() if not k.startswith("mlflow.")}
    found |= {f"param.{k}": v for k, v in one.params.items()}
    found |= {
        "mlflow.name": one.model,
        "mlflow.version": str(one.number),
        "mlflow.created": str(one.created),
    }
    about = {"stage": one.stage, "run": one.run, "description": one.description}
    found |= {f"mlflow.{key}": value for key, value in about.items() if value}
    return {k: v[:LONGEST_TAG] for k, v in found.items() if k and "\0" not in k + v}


def _metrics(one: MlflowVersion) -> list[MetricValue]:
    return [
        MetricValue(
            m.name,
            m.value,
            dataset=m.dataset,
            protocol={"step": m.step, **({"run": one.run} if one.run else {})},
            tool="mlflow",
        )
        for m in one.metrics
        if m.name
    ]


def _skipped(one: MlflowVersion, reason: str) -> Imported:
    return Imported(one.model, one.number, "skipped", reason=reason)
