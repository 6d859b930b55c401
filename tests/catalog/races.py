"""What the processes of `test_catalog_races.py` do; imported by each of them."""

from __future__ import annotations

from typing import Any

from drafts import draft

from zoo.catalog.catalog import Catalog


def open_at_once(barrier: Any, url: str, store: str, results: Any) -> None:
    """Open a registry that may be missing, together with everybody else."""
    barrier.wait()
    try:
        with Catalog.open(url, store=store) as catalog:
            results.put(len(catalog.events()))
    except BaseException as error:
        results.put(repr(error))


def add_at_once(barrier: Any, url: str, store: str, results: Any) -> None:
    """Add three versions of one name, together with everybody else."""
    try:
        with Catalog.open(url, store=store) as catalog:
            barrier.wait()
            results.put([catalog.add(draft("same", seed)).version for seed in range(3)])
    except BaseException as error:
        results.put(repr(error))
