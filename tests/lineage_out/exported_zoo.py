"""A small zoo with a base, two experts and a merge of them, and how its models are written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from zoo import Registry

Write = Callable[..., Path]
HOSTILE = 'a/b"\n<x>|#\\ é\x1b'
"""A model's name, as a stranger may write it."""


def writer(root: Path) -> Write:
    """Writes directories of models below a directory."""

    def write(
        name: str, value: float, files: Mapping[str, str] | None = None, **config: Any
    ) -> Path:
        folder = root / "models" / name
        folder.mkdir(parents=True)
        tensors = {
            "a.weight": torch.arange(12.0).reshape(3, 4) + value,
            "a.bias": torch.ones(3) * value,
        }
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps({"model_type": "tiny", **config}))
        for path, content in (files or {}).items():
            (folder / path).write_text(content)
        return folder

    return write


def small_zoo(registry: Registry, write: Write) -> None:
    """`qwen` of the hub, its experts `math` and `code`, and `both`, their merge."""
    registry.register(
        write("qwen", 0.0), name="qwen", kind="base", origin="hf://Qwen/Qwen-tiny@" + "a" * 40
    )
    for i, name in enumerate(("math", "code")):
        registry.register(
            write(name, i + 1.0),
            name=name,
            base="qwen",
            task=name,
            license="MIT",
            tags={"seed": str(i)},
            metrics={"accuracy/test": 0.5 + i / 10},
        )
    registry.merge(
        method="task_arithmetic",
        base="qwen",
        experts=["math", "code"],
        parameters={"weight": [0.25, 0.75]},
        name="both",
    )
