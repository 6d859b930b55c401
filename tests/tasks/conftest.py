"""A registry without bundled plugins, and data to declare."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import zoo
from zoo.plugins import Plugins

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def registry(tmp_path: Path, plugins: Plugins) -> Iterator[zoo.Registry]:
    with zoo.open(tmp_path / "registry.db", plugins=plugins) as opened:
        yield opened


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real data; tests are skipped where it is not."""
    if not DATA.is_dir():
        pytest.skip("the published data sets are not here (../shared/data)")
    return DATA
