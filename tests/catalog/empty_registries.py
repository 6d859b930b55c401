"""Places for registries that do not exist yet, on SQLite and on the server under test."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

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
