"""Many processes at one registry."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import races

from zoo.catalog.catalog import Catalog

SECONDS = 120


def at_once(count: int, target: Callable[..., None], url: str, store: Path) -> list[Any]:
    """What `count` processes report that run `target` at the same moment."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["zoo.catalog.catalog", "zoo.digest"])
    barrier, results = context.Barrier(count), context.Queue()
    processes = [
        context.Process(target=target, args=(barrier, url, str(store), results))
        for _ in range(count)
    ]
    for process in processes:
        process.start()
    reports = [results.get(timeout=SECONDS) for _ in processes]
    for process in processes:
        process.join()
    return reports


def test_sixteen_first_runs_at_once_make_one_schema(url: str, store: Path) -> None:
    reports = at_once(16, races.open_at_once, url, store)

    assert [1] * 16 == reports
    with Catalog.open(url, store=store) as catalog:
        assert ["init"] == [event["action"] for event in catalog.events()]
        assert [] == catalog.check_audit()


def test_eight_processes_that_add_one_name_get_dense_unique_numbers(url: str, store: Path) -> None:
    Catalog.open(url, store=store).close()

    reports = at_once(8, races.add_at_once, url, store)

    assert list(range(1, 25)) == sorted(number for report in reports for number in report)
    with Catalog.open(url, store=store) as catalog:
        assert list(range(1, 25)) == [version.version for version in catalog.select()]
        assert [] == catalog.check_audit()
