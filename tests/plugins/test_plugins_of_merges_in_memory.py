"""Where `zoo.merge` finds a method by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import zoo

PLUGIN = """
import zoo

@zoo.method("filled", version="1.0.0")
def filled(experts):
    \"\"\"Fill with a number.\"\"\"
    return experts[0].fill_({value})

@zoo.hookimpl
def zoo_register_methods(register):
    register(filled)
"""


def merged(method: str) -> float:
    return float(zoo.merge(method, [torch.zeros(2), torch.ones(2)])[0])


def test_installed_plugins_are_loaded_for_the_first_merge_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ZOO_PLUGINS_DIR", raising=False)
    first = merged("linear")
    monkeypatch.setattr("zoo.plugins.load_plugins", None)

    assert 0.5 == first == merged("linear")


def test_an_edited_drop_in_is_seen_by_the_next_merge(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ZOO_PLUGINS_DIR", str(tmp_path))
    seen = []
    for value in (2.0, 3.0):
        (tmp_path / "filled.py").write_text(PLUGIN.format(value=value))
        seen.append(merged("filled"))

    assert [2.0, 3.0] == seen
