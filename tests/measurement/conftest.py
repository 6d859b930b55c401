"""Registries to measure in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from measured_zoo import Own, filled

import zoo
from zoo.plugins import load_plugins


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo that was filled once; tests work on copies."""
    folder = tmp_path_factory.mktemp("zoo")
    filled(folder).close()
    return folder


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "zoo"
    shutil.copytree(template, copy, symlinks=True)
    return copy


@pytest.fixture
def registry(folder: Path) -> Iterator[zoo.Registry]:
    with zoo.open(folder / "registry.db", plugins=load_plugins()) as opened:
        yield opened


@pytest.fixture
def own(registry: zoo.Registry) -> Own:
    """Metrics of the tests' own, in the registry's plugins."""
    return Own(registry.plugins)
