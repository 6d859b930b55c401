"""The format on the how-to page works as written."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

import zoo
from zoo.plugins import load_plugins

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "use-other-formats.md"


def test_the_format_on_the_page_registers_what_it_reads(tmp_path):
    (source,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "npz.py").write_text(source, encoding="utf-8")
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.int64(7)}
    np.savez(tmp_path / "model.npz", **arrays)

    with zoo.open(
        tmp_path / "registry.db", plugins=load_plugins([tmp_path / "plugins"])
    ) as registry:
        registry.register(tmp_path / "model.npz", name="m")
        state = registry.load_state("m")

    assert ["n", "w"] == sorted(state)
    assert torch.equal(torch.from_numpy(arrays["w"]), state["w"])
    assert 7 == state["n"].item()
