"""A zoo of tiny networks on the shipped digits."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import zoo
from zoo.networks.modules import save_module
from zoo.plugins import Plugins
from zoo.records import MetricValue, Version

CONFIG = {
    "model_type": "zoo_mlp",
    "inputs": 64,
    "depth": 1,
    "classes": 10,
    "activation": "relu",
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry of commands is the one of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOO_REGISTRY", raising=False)
    monkeypatch.delenv("ZOO_PLUGINS_DIR", raising=False)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a registry of `base`, its experts `a` and `b`, and `other` without a base,
    and merges of `a` and `b` by two methods at three scales, each with an accuracy on two tasks.
    """
    directory = tmp_path_factory.mktemp("made")
    with zoo.open(directory / "registry.db") as registry:
        add = adder(registry, directory)
        add("base", seed=0, kind="base")
        add("a", seed=1, base="base")
        add("b", seed=2, base="base")
        add("other", seed=3)
        for i, scale in enumerate((0.2, 0.4, 0.6)):
            for name, method in (("ta", "task_arithmetic"), ("ti", "ties")):
                merged = registry.merge(
                    method=method, experts=["a", "b"], base="base", parameters={"lambda": scale},
                    name=name,
                )  # fmt: skip
                assert merged is not None
                score = 0.5 + 0.1 * i + 0.01 * (name == "ti")
                registry.annotate(merged.ref, metrics=scores(score, score - 0.2))
    return directory


@pytest.fixture
def family(made: Path, tmp_path: Path, plugins: Plugins) -> Iterator[zoo.Registry]:
    """The registry of `made`, for one test."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    with zoo.open(tmp_path / "registry.db", plugins=plugins) as opened:
        yield opened


@pytest.fixture
def merges(family: zoo.Registry) -> zoo.Registry:
    """The same, with experts of tasks of their own."""
    family.annotate("a", metrics=[*scores(0.9, 0.1), MetricValue("accuracy", 0.9)], task="one")
    family.annotate("b", metrics=[*scores(0.1, 0.8), MetricValue("accuracy", 0.8)], task="two")
    family.annotate("base", metrics=scores(0.3, 0.3))
    return family


@pytest.fixture
def add(family: zoo.Registry, tmp_path: Path) -> Callable[..., Version]:
    return adder(family, tmp_path)


def adder(registry: zoo.Registry, directory: Path) -> Callable[..., Version]:
    """Registers a network with random weights; with a base, its weights plus a random delta."""

    def register(
        name: str,
        *,
        seed: int,
        base: str | None = None,
        kind: str = "expert",
        task: str | None = "digits",
        width: int = 6,
    ) -> Version:
        config = {**CONFIG, "width": width}
        torch.manual_seed(seed)
        module = registry.plugins.architectures["zoo_mlp"].build(config)
        if base is not None:
            start = zoo.load_state(base, registry=registry)
            own = module.state_dict()
            module.load_state_dict({k: start[k] + 0.5 * own[k] for k in own})
        save_module(module, config, directory / "models" / name)
        return registry.register(
            directory / "models" / name, name=name, kind=kind, base=base, task=task
        )

    return register


def scores(one: float, two: float) -> list[MetricValue]:
    return [
        MetricValue("accuracy", value, split=task, dataset=task, stderr=0.02)
        for task, value in (("one", one), ("two", two))
    ]
