"""The how-to on architectures works as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "add-an-architecture.md"


def test_the_page_runs_as_written(tmp_path):
    plugin, *later = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "my-plugins").mkdir()
    (tmp_path / "my-plugins" / "two_layers.py").write_text(plugin)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")  # not one of a directory above
    (tmp_path / "test_page.py").write_text("\n".join([plugin, *later]))

    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_page.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("ZOO_")},
    )
    assert "8 passed" in ran.stdout, ran.stdout + ran.stderr


def test_the_page_lists_each_bundled_architecture_with_all_its_keys():
    from dataclasses import fields
    from importlib import import_module

    rows = re.findall(r"^\| `zoo_(\w+)` \|.*\| (.*) \|$", PAGE.read_text(), re.MULTILINE)

    assert {"mlp", "cnn", "vgg", "resnet", "vit", "gpt"} == {name for name, _ in rows}
    for name, keys in rows:
        config = import_module(f"zoo_plugins.{name}_architecture").Config
        written = re.findall(r"`(\w+)`", keys.partition("(")[0])
        assert [f.name for f in fields(config)] == written
