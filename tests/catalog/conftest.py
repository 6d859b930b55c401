"""Registries for the catalog's tests, on SQLite and, when `ZOO_TEST_POSTGRES` names a server, on
PostgreSQL: every test that asks for `url` or `catalog` runs on both.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from empty_registries import fresh_url

from zoo.catalog.catalog import Catalog


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with fresh_url(request.param, tmp_path) as made:
        yield made


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "registry.store"


@pytest.fixture
def catalog(url: str, store: Path) -> Iterator[Catalog]:
    with Catalog.open(url, store=store) as opened:
        yield opened


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared_catalog(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Catalog]:
    """One registry for all tests of a module; each keeps to names of its own."""
    folder = tmp_path_factory.mktemp("shared")
    with (
        fresh_url(request.param, folder) as made,
        Catalog.open(made, store=folder / "registry.store") as opened,
    ):
        yield opened
