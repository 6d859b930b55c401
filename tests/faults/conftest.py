"""A warm process to kill children of, and models to register and merge in them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from safetensors.torch import save_file
from warm_process import Warm, started


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    with started() as process:
        yield process


@pytest.fixture
def zoo_path(tmp_path: Path) -> Iterator[str]:
    """Where a test's registry is: in memory, where there is room. A kill loses nothing that a file
    system was given, so a disk would show no more, and it takes its time over each fsync."""
    memory = Path("/dev/shm")
    roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 32 << 20
    with TemporaryDirectory(prefix="zoo-test-", dir=memory if roomy else tmp_path) as place:
        (Path(place) / "zoo").mkdir()
        yield str(Path(place) / "zoo" / "registry.db")


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
