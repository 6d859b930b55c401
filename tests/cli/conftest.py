"""The command line, run in this process on a registry of its own."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from zoo_cli.main import cli


@pytest.fixture
def zoo_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs `zoo ARGS` in an empty directory, with `registry.db` as the registry."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOO_REGISTRY", raising=False)
    monkeypatch.delenv("ZOO_PLUGINS_DIR", raising=False)

    def run(*args: str | Path) -> Result:
        return CliRunner().invoke(cli, [str(a) for a in args], prog_name="zoo")

    return run


@pytest.fixture
def zoo_json(zoo_run: Callable[..., Result]) -> Callable[..., Any]:
    """Runs `zoo ARGS --json`, which must succeed; returns the parsed data."""

    def run(*args: str | Path) -> Any:
        result = zoo_run(*args, "--json")
        assert 0 == result.exit_code, result.output
        return json.loads(result.stdout)

    return run


@pytest.fixture
def drop_in(tmp_path: Path) -> Callable[[str, str], Path]:
    """Writes a drop-in plugin; returns its directory."""
    directory = tmp_path / "plugins"
    directory.mkdir()

    def write(name: str, source: str) -> Path:
        (directory / f"{name}.py").write_text(textwrap.dedent(source))
        return directory

    return write


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Writes a safetensors file of two small tensors around a value."""

    def write(name: str, value: float) -> Path:
        import torch
        from safetensors.torch import save_file

        path = tmp_path / f"{name}.safetensors"
        generator = torch.Generator().manual_seed(7)
        weight = torch.randn(6, 5, generator=generator) + value
        save_file({"a.weight": weight, "b.bias": torch.arange(4.0)}, path)
        return path

    return write
