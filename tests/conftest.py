"""What every test is run with."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from zoo.plugins import Plugins, load_plugins

# torch's threads wait for one another in a loop, and workers that share cores for each other's: on
# tiny tensors that is most of the time. Read when torch is loaded, by the processes of tests too.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# A busy machine is no error, so nothing here has a deadline. Where CI says what it is, the
# examples are the same in every run: what is found at random belongs on a desk.
settings.register_profile(
    "zoo",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("zoo")


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is remembered from the user's own merges, nor for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_collection_finish() -> None:
    """All that is imported by now stays: the collector need not walk over it in every test."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def migrations() -> Iterator[Callable[..., None]]:
    """The migrations run for the first registry on SQLite; later ones get the schema they made.

    A schema takes alembic 45 ms, and thousands of tests need one. All else is as it is: who makes a
    registry, when, and in which transaction. The value is what runs them.
    """
    from alembic import command

    migrate = command.upgrade
    made: list[tuple[str, tuple[Any, ...]]] = []

    def upgrade(config: Any, revision: str) -> None:
        connection = config.attributes["connection"]
        run = connection.exec_driver_sql
        new = connection.dialect.name == "sqlite" and not run("SELECT 1 FROM sqlite_schema").all()
        if revision != "head" or not new:
            migrate(config, revision)
        elif made:
            for statement, row in made:
                run(statement, row)
        else:
            migrate(config, revision)
            made[:] = statements(run)

    def statements(run: Callable[..., Any]) -> list[tuple[str, tuple[Any, ...]]]:
        schema = run("SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL").all()
        found: list[tuple[str, tuple[Any, ...]]] = [(sql, ()) for _, _, sql in schema]
        for table in (name for kind, name, _ in schema if kind == "table"):
            for row in run(f'SELECT * FROM "{table}"').all():
                marks = ", ".join("?" * len(row))
                found.append((f'INSERT INTO "{table}" VALUES ({marks})', tuple(row)))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "upgrade", upgrade)
        yield migrate


@pytest.fixture(scope="session")
def plugins() -> Plugins:
    """All that is installed, loaded once for tests that open many zoos."""
    return load_plugins()
