"""What every test of a metric of one model is run with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from zoo.engine.single_thread import single_threaded_torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors: threads would only wait for each other."""
    with single_threaded_torch():
        yield
