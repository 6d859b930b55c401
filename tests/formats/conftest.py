"""A zoo for files of every format."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import zoo
from zoo import Registry
from zoo.plugins import Plugins

with warnings.catch_warnings():
    # What libraries warn of while they are loaded is theirs to mend.
    warnings.simplefilter("ignore")
    import transformers

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


@pytest.fixture
def registry(tmp_path: Path, plugins: Plugins) -> Iterator[Registry]:
    (tmp_path / "zoo").mkdir()
    with zoo.open(tmp_path / "zoo" / "registry.db", plugins=plugins) as opened:
        yield opened
