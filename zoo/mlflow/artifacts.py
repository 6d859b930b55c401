"""Where the weights of an MLflow version are on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import unquote, urlsplit

from zoo.errors import UnsupportedFormat
from zoo.mlflow.records import MlflowStore, MlflowVersion
from zoo.source import format_of

if TYPE_CHECKING:
    from zoo.registry import Registry

DEEPEST = 3
"""Directories below a version's own that are looked into: `model/`, `artifacts/x/`, `data/`."""
MOST = 500
"""Directories looked into."""


class Unavailable(Exception):
    """The weights cannot be had; the message is the reason, a sentence."""


def weights_of(
    registry: Registry, store: MlflowStore, version: MlflowVersion, root: Path | None
) -> Path:
    """The file or directory to register.

    Args:
        root: what `mlflow-artifacts:/` stands for on this machine.
    Raises:
        Unavailable: it is elsewhere, gone, or holds no weights that are read here.
    """
    place = located(store, version, root)
    if not place.exists():
        raise Unavailable(f"`{place}` does not exist.")
    if place.is_file():
        _check(registry, place)
        return place
    found = [folder for folder in _folders(place) if _holds_weights(folder)]
    if not found:
        raise Unavailable(f"There are no weights below `{place}`.")
    safe = [folder for folder in found if any(folder.glob("*.safetensors"))] or found
    if len(safe) > 1 and safe[0] != place:
        names = ", ".join(f"`{folder.relative_to(place)}`" for folder in safe[:5])
        raise Unavailable(f"Several directories below `{place}` hold weights: {names}.")
    _check(registry, safe[0])
    return safe[0]


def located(store: MlflowStore, version: MlflowVersion, root: Path | None) -> Path:
    """The path that a version's source stands for, whether or not anything is there.

    Raises:
        Unavailable: it is on no disk of this machine, or its run is not known.
    """
    uri = version.location or version.source
    if uri.startswith("models:/"):
        model_id = uri.removeprefix("models:/").partition("/")[0]
        uri = store.logged_model(model_id) or _fail(f"There is no logged model `{model_id}`.")
    if uri.startswith("runs:/"):
        run, _, inner = uri.removeprefix("runs:/").partition("/")
        artifacts = store.run_artifacts(run) or _fail(f"There is no run `{run}`.")
        path = _local(artifacts, root) / inner
        logged = store.logged_by(run, inner)
        return _local(logged, root) if logged and not path.exists() else path
    return _local(uri, root)


def _local(uri: str, root: Path | None) -> Path:
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    if parts.scheme == "mlflow-artifacts":
        if root is None:
            _fail(f"`{uri}` is served by a server; name its directory by --artifacts-root.")
        inner = Path(unquote(parts.path).lstrip("/"))
        if ".." in inner.parts:
            _fail(f"`{uri}` leads out of the artifacts.")
        return root / inner
    if "://" in uri or parts.scheme in ("dbfs", "s3", "gs", "hdfs", "wasbs"):
        _fail(f"Its weights are at `{uri}`, which is not on this machine.")
    if not uri:
        _fail("It has no source.")
    return Path(uri)


def _folders(place: Path) -> list[Path]:
    """The directory and those below it, the nearest first."""
    found, level = [place], [place]
    for _ in range(DEEPEST):
        level = [
            f
            for folder in level
            for f in sorted(folder.iterdir())
            if f.is_dir() and not f.is_symlink()
        ]
        found += level
        if len(found) > MOST:
            break
    return found[:MOST]


def _holds_weights(folder: Path) -> bool:
    suffixes = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf")
    return any(f.is_file() and f.suffix in suffixes for f in folder.iterdir())


def _check(registry: Registry, path: Path) -> None:
    try:
        format_of(registry, path)
    except UnsupportedFormat as error:
        raise Unavailable(f"`{path}` is in no format that zoo reads.") from error


def _fail(reason: str) -> NoReturn:
    raise Unavailable(reason)
