"""What every test is run with."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from zoo.plugins import Plugins, load_plugins

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


@pytest.fixture(scope="session")
def plugins() -> Plugins:
    """All that is installed, loaded once for tests that open many zoos."""
    return load_plugins()
