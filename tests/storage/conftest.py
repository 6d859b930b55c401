"""Files made by hand, so that they can be wrong in any way; models made small; a fresh zoo."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import zoo
from zoo import Registry

WriteRaw = Callable[..., Path]
Save = Callable[..., Path]


@pytest.fixture
def write_raw(tmp_path: Path) -> WriteRaw:
    """Write (header, data) as they are: a dict as JSON, bytes untouched; `length` may lie."""

    def write(
        header: dict[str, Any] | bytes,
        data: bytes = b"",
        *,
        length: int | None = None,
        name: str = "model.safetensors",
    ) -> Path:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        claimed = len(text) if length is None else length
        path.write_bytes(claimed.to_bytes(8, "little") + text + data)
        return path

    return write


@pytest.fixture
def zoo_path(tmp_path: Path) -> Path:
    """Where a test's registry is, for tests that open it in other processes too."""
    return tmp_path / "zoo" / "registry.db"


@pytest.fixture
def registry(zoo_path: Path) -> Iterator[Registry]:
    zoo_path.parent.mkdir()
    with zoo.open(zoo_path) as opened:
        yield opened


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write a model's directory from tensors; the same name again is another directory."""
    count = itertools.count()

    def write(state: Mapping[str, torch.Tensor], **config: Any) -> Path:
        directory = tmp_path / f"model-{next(count)}"
        directory.mkdir()
        save_file(dict(state), directory / "model.safetensors", {"format": "pt"})
        (directory / "config.json").write_text(json.dumps({"model_type": "tiny", **config}))
        return directory

    return write
