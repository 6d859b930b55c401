"""Dense siblings of each kind, made once, and a zoo for what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_siblings import dense

import zoo
from zoo import Registry
from zoo.plugins import Plugins

pytest.importorskip("transformers")


@pytest.fixture
def registry(tmp_path: Path, plugins: Plugins) -> Iterator[Registry]:
    with zoo.open(tmp_path / "registry.db", plugins=plugins) as opened:
        yield opened


@pytest.fixture(scope="session")
def siblings(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Path]]:
    """A base and three experts of a kind: directories that tests read and never change."""
    known: dict[str, list[Path]] = {}

    def made(kind: str) -> list[Path]:
        if kind not in known:
            folder = tmp_path_factory.mktemp(kind)
            names = ["base", "math", "code", "prose"]
            known[kind] = [dense(kind, folder / n, seed) for seed, n in enumerate(names)]
        return known[kind]

    return made
