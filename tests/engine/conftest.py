"""Small models with a base, and a zoo that holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import State, family, write

import zoo
from zoo import Registry
from zoo.plugins import Plugins


@pytest.fixture
def zoo_path(tmp_path: Path) -> Path:
    """Where a test's registry is, for tests that open it more than once."""
    (tmp_path / "zoo").mkdir()
    return tmp_path / "zoo" / "registry.db"


@pytest.fixture
def registry(zoo_path: Path, plugins: Plugins) -> Iterator[Registry]:
    with zoo.open(zoo_path, plugins=plugins) as opened:
        yield opened


@pytest.fixture
def register(registry: Registry, tmp_path: Path) -> Callable[..., zoo.Version]:
    """Register tensors under a name: `register("math", state, base="qwen", task="math")`."""
    count = iter(range(1000))

    def add(name: str, state: Mapping[str, torch.Tensor], **about: Any) -> zoo.Version:
        config = about.pop("config", {})
        return registry.register(
            write(tmp_path / f"source-{next(count)}", state, **config), name=name, **about
        )

    return add


@pytest.fixture
def members(register: Callable[..., zoo.Version]) -> list[State]:
    """`base` and the experts `a`, `b`, `c`, registered: their tensors, the base first."""
    models = family(3)
    register("base", models[0], kind="base", license="mit")
    for name, state in zip("abc", models[1:], strict=True):
        register(name, state, base="base", task=f"task-{name}", license="mit")
    return models


@pytest.fixture
def load() -> Callable[..., State]:
    """The tensors of a directory, however many files they lie in."""
    from safetensors.torch import load_file

    def loaded(directory: Path) -> State:
        found: State = {}
        for file in sorted(Path(directory).glob("*.safetensors")):
            found.update(load_file(file))
        return found

    return loaded
