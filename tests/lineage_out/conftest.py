"""Registries with a base, two experts and a merge of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from exported_zoo import HOSTILE, Write, small_zoo, writer

import zoo
from zoo import Registry, Version
from zoo.plugins import Plugins


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, plugins: Plugins) -> Path:
    """The directory of a zoo with the family, to be copied."""
    root = tmp_path_factory.mktemp("template")
    with zoo.open(root / "registry.db", plugins=plugins) as registry:
        small_zoo(registry, writer(root / "sources"))
    return root


@pytest.fixture
def registry(
    request: pytest.FixtureRequest, tmp_path: Path, plugins: Plugins
) -> Iterator[Registry]:
    """An empty registry, or one with the family where a test asks for it."""
    if "family" in request.fixturenames:
        shutil.copytree(request.getfixturevalue("template"), tmp_path, dirs_exist_ok=True)
    with zoo.open(tmp_path / "registry.db", plugins=plugins) as opened:
        yield opened


@pytest.fixture
def model(tmp_path: Path) -> Write:
    """Writes a model's directory: `model("math", 1.0, {"README.md": "..."})`."""
    return writer(tmp_path)


@pytest.fixture
def family(registry: Registry) -> dict[str, Version]:
    """`qwen` of the hub, its experts `math` and `code`, and `both`, their merge."""
    return {v.name: v for v in registry.select()}


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
