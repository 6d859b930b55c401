"""A registry of neural-network checkpoints that merges them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.architecture import Architecture
    from zoo.contract import AGAIN, Chunk, Mergekit, Method, Overlay, Parts, Statistic, method
    from zoo.engine.in_memory import merge
    from zoo.errors import ZooError
    from zoo.hookspecs import hookimpl
    from zoo.metrics import Metric, metric
    from zoo.networks.loading import load, load_state
    from zoo.parameters import Fraction, PerExpert
    from zoo.records import MetricValue, Registration, Version
    from zoo.registry import Registry, open
    from zoo.sample import Sample
    from zoo.subject import Subject
    from zoo.task import Task
    from zoo.tasks.data import DataTask

# Public name -> module. Loaded on first use, so that `import zoo` costs nothing.
_HOMES = {
    "AGAIN": "zoo.contract",
    "Architecture": "zoo.architecture",
    "Chunk": "zoo.contract",
    "DataTask": "zoo.tasks.data",
    "Fraction": "zoo.parameters",
    "Mergekit": "zoo.contract",
    "Method": "zoo.contract",
    "Metric": "zoo.metrics",
    "MetricValue": "zoo.records",
    "Overlay": "zoo.contract",
    "Parts": "zoo.contract",
    "PerExpert": "zoo.parameters",
    "Registration": "zoo.records",
    "Registry": "zoo.registry",
    "Sample": "zoo.sample",
    "Statistic": "zoo.contract",
    "Subject": "zoo.subject",
    "Task": "zoo.task",
    "Version": "zoo.records",
    "ZooError": "zoo.errors",
    "hookimpl": "zoo.hookspecs",
    "load": "zoo.networks.loading",
    "load_state": "zoo.networks.loading",
    "merge": "zoo.engine.in_memory",
    "method": "zoo.contract",
    "metric": "zoo.metrics",
    "open": "zoo.registry",
}

__all__ = [
    "AGAIN",
    "Architecture",
    "Chunk",
    "DataTask",
    "Fraction",
    "Mergekit",
    "Method",
    "Metric",
    "MetricValue",
    "Overlay",
    "Parts",
    "PerExpert",
    "Registration",
    "Registry",
    "Sample",
    "Statistic",
    "Subject",
    "Task",
    "Version",
    "ZooError",
    "hookimpl",
    "load",
    "load_state",
    "merge",
    "method",
    "metric",
    "open",
]


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}") from None
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
