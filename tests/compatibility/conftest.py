"""A registry, and proof that looking at models changes nothing anywhere."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import zoo
from zoo import Registry
from zoo.compatibility import Problem, Report
from zoo.plugins import Plugins


@pytest.fixture
def registry(tmp_path: Path, plugins: Plugins) -> Iterator[Registry]:
    (tmp_path / "zoo").mkdir()
    with zoo.open(tmp_path / "zoo" / "registry.db", plugins=plugins) as opened:
        yield opened


def _tree(*roots: Path) -> dict[str, tuple[int, int]]:
    """Every file below some directories, with its size and when it was changed."""
    return {
        str(p): (p.lstat().st_size, p.lstat().st_mtime_ns)
        for root in roots
        for p in sorted(root.rglob("*"))
        if not p.name.endswith(("-journal", "-wal", "-shm"))
    }


@pytest.fixture
def check(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Report]:
    """`registry.check`, which must leave the registry, the store, the models, the temporary
    directory and the cache as they were."""
    temporary, cache = tmp_path / "temporary", tmp_path / "cache"
    temporary.mkdir()
    cache.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("ZOO_CACHE_DIR", str(cache))

    def checked(*models: str | Path, **options: object) -> Report:
        before = _tree(tmp_path)
        report = registry.check([str(m) for m in models], **options)  # type: ignore[arg-type]

        assert before == _tree(tmp_path)
        return report

    return checked


@pytest.fixture
def refused(check: Callable[..., Report], registry: Registry) -> Callable[..., list[Problem]]:
    """Errors of a check that must find some; a merge must refuse the same, and leave nothing."""

    def run(*models: str | Path, **options: object) -> list[Problem]:
        report = check(*models, **options)
        versions = registry.select()

        assert not report.ok
        asked = {**options, **({"experts": [str(m) for m in models]} if models else {})}
        asked.setdefault("method", "task_arithmetic" if "base" in options else "linear")
        if "recipe" in options:
            del asked["method"]
        with pytest.raises(zoo.ZooError):
            registry.merge(**asked, name="never")  # type: ignore[arg-type]
        assert versions == registry.select()
        assert not list((registry.store.root / "staging").rglob("*"))
        return report.of("error")

    return run
