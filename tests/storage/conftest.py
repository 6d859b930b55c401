"""Safetensors files made by hand, so that they can be wrong in any way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WriteRaw = Callable[..., Path]


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
