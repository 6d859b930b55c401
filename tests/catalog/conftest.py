"""Registries for the catalog's tests, on SQLite and, when `ZOO_TEST_POSTGRES` names a server, on
PostgreSQL: every test that asks for `url` or `catalog` runs on both.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from zoo.catalog import Catalog

POSTGRES = os.environ.get("ZOO_TEST_POSTGRES", "")


@contextmanager
def fresh_url(engine: str, folder: Path) -> Iterator[str]:
    """A place for a registry that does not exist yet: a path, or an empty schema of its own."""
    if engine == "sqlite":
        yield str(folder / "registry.db")
        return
    if not POSTGRES:
        pytest.skip("ZOO_TEST_POSTGRES names no server")
    from sqlalchemy import create_engine, make_url, text

    schema = f"zoo_{uuid.uuid4().hex[:12]}"
    admin = create_engine(POSTGRES, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    options = {"options": f"-csearch_path={schema}"}
    try:
        yield make_url(POSTGRES).update_query_dict(options).render_as_string(hide_password=False)
    finally:
        with admin.connect() as connection:
            connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
        admin.dispose()


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
