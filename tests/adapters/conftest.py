"""A registry with a base and two adapters of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import save_file
from small_adapters import base_state, write_adapter

import zoo
from zoo.plugins import Plugins
from zoo.registry import Registry


@pytest.fixture
def base_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    save_file(base_state(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "none-such"}))
    return folder


@pytest.fixture
def registry(tmp_path: Path, base_folder: Path, plugins: Plugins) -> Iterator[Registry]:
    """`base`, and `one` and `two`, its adapters."""
    with zoo.open(tmp_path / "r.db", plugins=plugins) as found:
        found.register(base_folder, name="base", kind="base")
        found.register(write_adapter(tmp_path / "one", 1), name="one", base="base")
        found.register(write_adapter(tmp_path / "two", 2), name="two", base="base")
        yield found
