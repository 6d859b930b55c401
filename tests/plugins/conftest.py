"""Plugins written on the spot."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from zoo.plugins import BrokenPluginWarning, Plugins, load_plugins


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
def load() -> Callable[..., Plugins]:
    """Loads drop-ins alone, and lets broken ones pass without a warning."""

    def loaded(*directories: Path) -> Plugins:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BrokenPluginWarning)
            return load_plugins(directories, entry_points=False)

    return loaded
