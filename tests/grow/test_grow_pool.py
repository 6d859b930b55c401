"""Processes that grow models end with the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import time

import pytest

import zoo
from zoo.errors import ZooError
from zoo.grow.member import Grown
from zoo.grow.pool import workers


def sleep(registry, seconds: float) -> Grown:
    time.sleep(seconds)
    return Grown("slept")


def die(registry) -> Grown:
    os._exit(9)


@pytest.fixture
def registry(tmp_path):
    with zoo.open(tmp_path / "registry.db") as found:
        _ = found.catalog
        yield found


def test_leaving_by_an_exception_ends_what_is_running(registry):
    with pytest.raises(KeyboardInterrupt), workers(registry, 2) as run:
        done = run(sleep, [(0,), (3600,), (3600,)])
        assert "slept" == next(done).name
        raise KeyboardInterrupt
    assert [] == multiprocessing.active_children()


def test_a_process_that_was_ended_from_outside_is_told(registry):
    with (
        pytest.raises(ZooError, match="fewer --jobs"),
        workers(registry, 2) as run,
    ):
        list(run(die, [()]))
    assert [] == multiprocessing.active_children()
