"""A registry with small networks, and tasks of a few points."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from zoo.networks.modules import save_module
from zoo.plugins import load_plugins
from zoo.tasks.data import DataTask
from zoo.tasks.examples import Examples

FEATURES = 4
SIZES = {"train": 40, "test": 60}


def points(classes: int, seed: int) -> Callable[[str], Examples]:
    """Reads points whose class is the place of their largest coordinate, some of them wrong."""

    def read(split: str) -> Examples:
        draw = torch.Generator().manual_seed(seed + len(split))
        x = torch.randn(SIZES[split], FEATURES, generator=draw)
        y = x[:, :classes].argmax(1)
        wrong = torch.rand(len(y), generator=draw) < 0.2
        return Examples(x, torch.where(wrong, (y + 1) % classes, y))

    return read


def toy(name: str, classes: int, seed: int = 0) -> DataTask:
    return DataTask(name, points(classes, seed), labels=tuple("abcdef"[:classes]))


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[zoo.Registry]:
    """A zoo that knows the tasks `three`, `again` (three classes too) and `two`."""
    plugins = load_plugins()
    for task in (toy("three", 3), toy("again", 3, seed=7), toy("two", 2)):
        plugins.tasks[task.name] = task
    with zoo.open(tmp_path / "registry.db", plugins=plugins) as opened:
        yield opened


@pytest.fixture(scope="session")
def mlp() -> zoo.Architecture:
    return load_plugins().architectures["zoo_mlp"]


@pytest.fixture
def network(tmp_path: Path, mlp: zoo.Architecture) -> Callable[..., Path]:
    """Writes a network with random weights; returns its directory."""

    def write(name: str, *, classes: int = 3, seed: int = 0, width: int = 5, **more: Any) -> Path:
        config = {
            "model_type": "zoo_mlp",
            "inputs": FEATURES,
            "width": width,
            "depth": 1,
            "classes": classes,
            "activation": "relu",
            **more,
        }
        torch.manual_seed(seed)
        module = mlp.build(config)
        return save_module(module, config, tmp_path / name)

    return write


@pytest.fixture
def add(registry: zoo.Registry, network: Callable[..., Path]) -> Callable[..., zoo.Version]:
    """Registers a network."""

    def register(
        name: str, *, task: str | None = None, kind: str = "expert", base: str | None = None,
        **asked: Any,
    ) -> zoo.Version:  # fmt: skip
        source = network(name, **asked)
        return registry.register(source, name=name, kind=kind, task=task, base=base)

    return register
