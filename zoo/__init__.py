"""A registry of neural-network checkpoints that merges them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.contract import AGAIN, Chunk, Mergekit, Method, Overlay, Parts, Statistic, method
    from zoo.errors import ZooError
    from zoo.extensions import Architecture, Metric, Task
    from zoo.hookspecs import hookimpl
    from zoo.in_memory import merge
    from zoo.loading import load
    from zoo.parameters import Fraction, PerExpert
    from zoo.records import MetricValue, Version
    from zoo.registry import Registry, open

# Public name -> module. Loaded on first use, so that `import zoo` costs nothing.
_HOMES = {
    "AGAIN": "zoo.contract",
    "Architecture": "zoo.extensions",
    "Chunk": "zoo.contract",
    "Fraction": "zoo.parameters",
    "Mergekit": "zoo.contract",
    "Method": "zoo.contract",
    "Metric": "zoo.extensions",
    "MetricValue": "zoo.records",
    "Overlay": "zoo.contract",
    "Parts": "zoo.contract",
    "PerExpert": "zoo.parameters",
    "Registry": "zoo.registry",
    "Statistic": "zoo.contract",
    "Task": "zoo.extensions",
    "Version": "zoo.records",
    "ZooError": "zoo.errors",
    "hookimpl": "zoo.hookspecs",
    "load": "zoo.loading",
    "merge": "zoo.in_memory",
    "method": "zoo.contract",
    "open": "zoo.registry",
}

__all__ = [
    "AGAIN",
    "Architecture",
    "Chunk",
    "Fraction",
    "Mergekit",
    "Method",
    "Metric",
    "MetricValue",
    "Overlay",
    "Parts",
    "PerExpert",
    "Registry",
    "Statistic",
    "Task",
    "Version",
    "ZooError",
    "hookimpl",
    "load",
    "merge",
    "method",
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
