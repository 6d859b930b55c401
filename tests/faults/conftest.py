"""A warm process to kill children of, and models to register and merge in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from warm_process import Warm, started


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    with started() as process:
        yield process


@pytest.fixture
def zoo_path(tmp_path: Path) -> str:
    (tmp_path / "zoo").mkdir()
    return str(tmp_path / "zoo" / "registry.db")


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, str]:
    """Directories of a base and two experts; 20 tensors each, about 170 kB."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name in ("base", "a", "b"):
        directory = tmp_path / name
        directory.mkdir()
        state = {
            f"layers.{i}.weight": torch.randn(48 + i, 40, generator=generator) for i in range(19)
        }
        state["steps"] = torch.arange(5)
        save_file(state, directory / "model.safetensors", {"format": "pt"})
        (directory / "config.json").write_text('{"model_type": "tiny"}')
        found[name] = str(directory)
    return found


@pytest.fixture
def stocked(zoo_path: str, sources: dict[str, str], warm: Warm) -> str:
    """A zoo with `base`, `a` and `b`."""
    warm.run(
        """
        with open_zoo(path) as registry:
            registry.register(sources["base"], name="base", kind="base")
            registry.register(sources["a"], name="a", base="base")
            registry.register(sources["b"], name="b", base="base")
        """,
        path=zoo_path,
        sources=sources,
    )
    return zoo_path
