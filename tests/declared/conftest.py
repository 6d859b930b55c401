"""A registry, and models with files and metadata of strangers beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import zoo
from zoo import Registry
from zoo.plugins import Plugins


@pytest.fixture
def registry(tmp_path: Path, plugins: Plugins) -> Iterator[Registry]:
    with zoo.open(tmp_path / "registry.db", plugins=plugins) as opened:
        yield opened


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Path]:
    """Writes a model's directory, with files beside it and metadata in its weights."""
    count = iter(range(1000))

    def write(
        files: Mapping[str, Any] | None = None,
        metadata: Mapping[str, str] | None = None,
        value: float | None = None,
    ) -> Path:
        n = next(count)
        folder = tmp_path / "models" / str(n)
        folder.mkdir(parents=True)
        tensors = {"w": torch.full((2, 3), float(n) if value is None else value)}
        save_file(tensors, folder / "model.safetensors", {"format": "pt", **(metadata or {})})
        for path, content in (files or {}).items():
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / path).write_text(text, encoding="utf-8")
        return folder

    return write
