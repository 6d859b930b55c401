"""What the how-to on tasks shows is a declaration, and what can run here runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from zoo.readers import FORMATS
from zoo.tasks.declaration import declared, read_declaration
from zoo.tasks.derivations import STEPS

PAGE = (Path(__file__).parents[2] / "docs/how-to/declare-a-task.md").read_text(encoding="utf-8")
SHOWN = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]


@pytest.mark.parametrize("written", SHOWN, ids=lambda d: d["name"])
def test_what_is_shown_is_a_declaration(written, registry):
    if "from" in written:
        task = registry.add_task(written)
        assert len(task.tensors("test")[0]) == task.size("test")
    else:
        assert written["name"] == declared(read_declaration(written), registry.task).name


def test_the_python_that_is_shown_runs(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(tmp_path)

    exec(compile(code, "the page", "exec"), {})

    assert "torch.Size([64, 1, 8, 8]) torch.Size([64])" == capsys.readouterr().out.split("\n")[0]


def test_every_format_and_every_step_is_in_a_table():
    named = set(re.findall(r"^\| `(\w+)", PAGE, re.MULTILINE))

    assert {*FORMATS, *STEPS} <= named
