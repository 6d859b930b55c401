"""Published checkpoints, kept outside the repository (some are GPL-3.0)."""

from __future__ import annotations

from pathlib import Path

import pytest

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder with the real data; tests are skipped where it is not."""
    if not DATA.is_dir():
        pytest.skip("the published checkpoints are not here (../shared/data)")
    return DATA
