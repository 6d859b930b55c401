"""A small zoo with a base, two experts and a merge of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import zoo
from zoo import Registry, Version
from zoo.plugins import Plugins, load_plugins

Write = Callable[..., Path]


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

    def write(
        name: str, value: float, files: Mapping[str, str] | None = None, **config: Any
    ) -> Path:
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        tensors = {"a.weight": torch.arange(12.0).reshape(3, 4) + value, "b": torch.ones(3) * value}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps({"model_type": "tiny", **config}))
        for path, content in (files or {}).items():
            (folder / path).write_text(content)
        return folder

    return write


@pytest.fixture
def family(registry: Registry, model: Write) -> dict[str, Version]:
    """`qwen` of the hub, its experts `math` and `code`, and `both`, their merge."""
    registry.register(
        model("qwen", 0.0), name="qwen", kind="base", origin="hf://Qwen/Qwen-tiny@" + "a" * 40
    )
    for i, name in enumerate(("math", "code")):
        registry.register(
            model(name, i + 1.0),
            name=name,
            base="qwen",
            task=name,
            license="MIT",
            tags={"seed": str(i)},
            metrics={"accuracy/test": 0.5 + i / 10},
        )
    made = registry.merge(
        method="task_arithmetic",
        base="qwen",
        experts=["math", "code"],
        parameters={"weight": [0.25, 0.75]},
        name="both",
    )
    assert made is not None
    return {name: registry.get(name) for name in ("qwen", "math", "code", "both")}
