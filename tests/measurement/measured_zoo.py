"""A small zoo to measure, and metrics that count, fail and draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

import zoo
from zoo.metrics import Metric, metric
from zoo.networks.modules import save_module
from zoo.plugins import Plugins, load_plugins
from zoo.records import MetricValue
from zoo.sample import Sample
from zoo.subject import Subject

CONFIG = {
    "model_type": "zoo_mlp",
    "inputs": 64,
    "width": 8,
    "depth": 1,
    "classes": 10,
    "activation": "relu",
}


@cache
def bundled() -> Plugins:
    return load_plugins()


def network(seed: int, classes: int = 10) -> nn.Module:
    """Weights as drawn; what is measured of them matters to nobody here."""
    torch.manual_seed(seed)
    return bundled().architectures["zoo_mlp"].build(CONFIG | {"classes": classes}).eval()


def saved(folder: Path, seed: int, classes: int = 10) -> Path:
    path = folder / f"network-{seed}-{classes}"
    if not path.exists():
        save_module(network(seed, classes), CONFIG | {"classes": classes}, path)
    return path


def filled(folder: Path, plugins: Plugins | None = None) -> zoo.Registry:
    """A base, three experts of it for the digits, and a model of two classes without a task."""
    registry = zoo.open(folder / "registry.db", plugins=plugins or bundled())
    registry.register(saved(folder, 0), name="base", kind="base")
    for seed in (1, 2, 3):
        registry.register(
            saved(folder, seed),
            name=f"e{seed}",
            base="base",
            task="digits",
            tags={"parity": str(seed % 2)},
        )
    registry.register(saved(folder, 4, 2), name="odd", kind="base")
    return registry


class Own:
    """Metrics of a test, which say how often they were computed."""

    def __init__(self, plugins: Plugins) -> None:
        self.seen: list[tuple[str, ...]] = []
        self.fails: dict[str, BaseException] = {}
        """By label: what to raise, after the first value."""

        @metric(
            "told",
            version="1.0.0",
            gives={"told": "a number, dimensionless", "told_last": "another"},
        )
        def told(model: Subject, *, plus: float = 0.0, layers: int = 1) -> Iterator[MetricValue]:
            self.seen.append((model.label,))
            yield MetricValue("told", plus)
            for layer in range(layers):
                yield MetricValue("told", float(layer), split=f"layer{layer}")
            if model.label in self.fails:
                raise self.fails[model.label]
            yield MetricValue("told_last", 2.0)

        @metric(
            "drawn",
            version="1.0.0",
            needs="data",
            gives={"drawn": "a random number", "inner": "the mean input"},
            passes=lambda p, models: 1,
        )
        def drawn(model: Subject, sample: Sample) -> Iterator[MetricValue]:
            self.seen.append((model.label,))
            yield MetricValue("drawn", float(torch.rand(())))
            yield MetricValue("inner", float(torch.cat([x for x, _ in sample.batches()]).mean()))

        @metric("both", version="1.0.0", arity=2, gives={"both": "a number"})
        def both(models: Sequence[Subject], *, plus: float = 0.0) -> Iterator[MetricValue]:
            self.seen.append(tuple(m.label for m in models))
            if models[0].label in self.fails:
                raise self.fails[models[0].label]
            yield MetricValue("both", plus)

        @metric("everyone", version="1.0.0", arity=None, gives={"everyone": "how many"})
        def everyone(models: Sequence[Subject]) -> Iterator[MetricValue]:
            self.seen.append(tuple(m.label for m in models))
            yield MetricValue("everyone", len(models))

        @metric("liar", version="1.0.0", gives={"announced": "a number"})
        def liar(model: Subject) -> Iterator[MetricValue]:
            yield MetricValue("other", 1.0)

        @metric("infinite", version="1.0.0", gives={"infinite": "no number", "fine": "one"})
        def infinite(model: Subject) -> Iterator[MetricValue]:
            yield MetricValue("fine", 1.0)
            yield MetricValue("infinite", float("inf"))

        @metric("silent", version="1.0.0", gives={"silent": "a number"})
        def silent(model: Subject) -> Iterator[MetricValue]:
            self.seen.append((model.label,))
            yield from ()

        made: list[Metric] = [told, drawn, both, everyone, liar, infinite, silent]
        plugins.metrics |= {m.name: m for m in made}


class Counted:
    """Progress that remembers."""

    def __init__(self) -> None:
        self.works: list[dict[str, Any]] = []

    def start(self, total_bytes: int, label: str) -> None:
        self.works.append({"label": label, "total": total_bytes, "done": 0})

    def advance(self, nbytes: int) -> None:
        self.works[-1]["done"] += nbytes

    def done(self) -> None:
        self.works[-1]["ended"] = True
