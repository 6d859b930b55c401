"""Registries with a base, two experts and a merge of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from exported_zoo import HOSTILE, Write, small_zoo, writer

import zoo
from zoo import Registry, Version
from zoo.plugins import Plugins, load_plugins


@pytest.fixture(scope="session")
def plugins() -> Plugins:
    return load_plugins()


@pytest.fixture
def registry(tmp_path: Path, plugins: Plugins) -> Iterator[Registry]:
    with zoo.open(tmp_path / "registry.db", plugins=plugins) as opened:
        yield opened


@pytest.fixture
def model(tmp_path: Path) -> Write:
    """Writes a model's directory: `model("math", 1.0, {"README.md": "..."})`."""
    return writer(tmp_path)


@pytest.fixture
def family(registry: Registry, model: Write) -> dict[str, Version]:
    """`qwen` of the hub, its experts `math` and `code`, and `both`, their merge."""
    return small_zoo(registry, model)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, plugins: Plugins) -> Iterator[Registry]:
    """The family and more, for tests that only look: `tuned` and `odd` declare their parents,
    `last` is a merge with them."""
    root = tmp_path_factory.mktemp("shelf")
    write = writer(root)
    card = "---\nbase_model: meta-llama/Llama-3.1-8B\nlicense: gemma\ndatasets: [squad]\n---\n"
    adapter = json.dumps({"base_model_name_or_path": HOSTILE})
    with zoo.open(root / "registry.db", plugins=plugins) as registry:
        small_zoo(registry, write)
        registry.register(
            write("tuned", 5.0, {"README.md": card}), name="tuned", origin="/home/me/secret/tuned"
        )
        registry.register(
            write("odd", 6.0, {"adapter_config.json": adapter}), name="odd", license="My own"
        )
        registry.merge(method="linear", experts=["both", "tuned", "odd"], name="last")
        yield registry
