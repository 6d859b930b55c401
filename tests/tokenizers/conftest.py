"""A zoo, and a way to merge into a directory that transformers reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tiny_vocabularies import Merged

import zoo
from zoo import Registry
from zoo.plugins import Plugins


@pytest.fixture
def registry(tmp_path: Path, plugins: Plugins) -> Iterator[Registry]:
    (tmp_path / "zoo").mkdir()
    with zoo.open(tmp_path / "zoo" / "registry.db", plugins=plugins) as opened:
        yield opened


@pytest.fixture
def merged(registry: Registry, tmp_path: Path) -> Callable[..., Merged]:
    """Merge by a recipe: the tensors, the tokenizer as transformers sees it, the configuration."""
    numbers = iter(range(100))

    def run(recipe: Mapping[str, Any], **options: Any) -> Merged:
        out = tmp_path / f"out-{next(numbers)}"
        registry.merge(recipe, out=out, **options)
        return Merged(out)

    return run
