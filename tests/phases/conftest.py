"""A zoo of a grid: widths by batch sizes by seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import pytest
from grids import PLACES, TASK, draft, spread

import zoo
from zoo.plugins import Plugins
from zoo.records import MetricValue, Version
from zoo.registry import Registry


@pytest.fixture
def registry(tmp_path: Path, plugins: Plugins) -> Iterator[Registry]:
    with zoo.open(tmp_path / "registry.db", plugins=plugins) as opened:
        yield opened


@pytest.fixture
def grid(registry: Registry) -> Callable[..., dict[tuple[str, str], list[Version]]]:
    """Fills the registry with the grid; each measure is spread about its mean over the seeds."""

    def fill(seeds: int = 3, pairs: bool = True) -> dict[tuple[str, str], list[Version]]:
        made = {}
        for place, (_, loss, connectivity, cka, trace) in PLACES.items():
            width, batch = place
            drafts = [
                draft(
                    f"w{width}-b{batch}-s{seed}",
                    len(made) * 10 + seed,
                    tags={
                        "grow.width": width,
                        "grow.batch": batch,
                        "grow.seed": str(seed),
                        "owner": f"seed-{seed}",
                    },
                    metrics=(
                        MetricValue("loss", loss + spread(seed, seeds, loss), f"{TASK}:train"),
                        MetricValue("loss", 3.0),
                        MetricValue("hessian_trace", trace, TASK),
                        MetricValue("accuracy", 1 / (1 + loss)),
                    ),
                )
                for seed in range(seeds)
            ]
            made[place] = registry.catalog.add_many(drafts)
            ids = list(combinations([v.id for v in made[place]], 2)) if pairs else []
            for i, pair in enumerate(ids):
                values = [
                    MetricValue(
                        "mode_connectivity",
                        connectivity + spread(i, len(ids), connectivity),
                        f"{TASK}:train",
                    ),
                    MetricValue("mode_connectivity", 77.0, TASK),
                    MetricValue("cka", cka + spread(i, len(ids), cka), TASK),
                    MetricValue("cka", cka, ""),
                ]
                registry.catalog.record_group_metrics(pair, values)
        return made

    return fill
