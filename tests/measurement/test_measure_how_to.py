"""The how-to on measuring: its Python and its plugin do what they say."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from measured_zoo import network

import zoo
from zoo.measuring.subjects import subjects
from zoo.plugins import load_plugins
from zoo.sample import Sample

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "measure-models.md"


@pytest.fixture
def blocks() -> list[str]:
    """Its Python: a use of `measure`, a path, a plugin."""
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_measuring_in_python_works_as_written(
    blocks: list[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    with zoo.open("registry.db") as registry:
        for name in ("e1", "e2"):
            registry.annotate(name, tags={"grow.width": "64"})

    exec(blocks[0], {})

    printed = capsys.readouterr().out.splitlines()
    assert 2 == len(printed)
    assert all(line.endswith(" None") for line in printed)
    assert "'error_barrier': " in printed[0] and "'cka_debiased': " in printed[1]


def test_the_path_of_ones_own_is_as_written(blocks: list[str], registry: zoo.Registry) -> None:
    space: dict[str, Any] = {}
    exec(blocks[1], space)
    sample = Sample(registry.plugins.tasks["digits"])

    with ExitStack() as stack:
        found = space["losses"](subjects(registry, ["e1", "e2"], stack), sample)

    assert 25 == len(found)


def test_the_metric_of_ones_own_works_as_written(
    blocks: list[str], folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "logit_norm.py").write_text(blocks[2])
    task = load_plugins().tasks["digits"]
    with torch.no_grad():
        expected = torch.cat([network(1)(x).norm(dim=1) for x, _ in task.batches("test")])

    with zoo.open(folder / "registry.db", plugins_dirs=[tmp_path]) as registry:
        (done,) = registry.measure(["e1"], metrics=["logit_norm"])
        (other,) = registry.measure(["e1"], metrics=["logit_norm"], parameters={"order": 1})

    assert float(expected.mean()) == pytest.approx(done.values[0].value)
    assert other.values[0].value > done.values[0].value
