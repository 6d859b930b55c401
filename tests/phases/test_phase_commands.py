"""`zoo phases`: the same as the library does, told to people and as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from grids import PLACES
from zoo_cli.main import cli

from zoo.records import Version
from zoo.registry import Registry

Grid = Callable[..., dict[tuple[str, str], list[Version]]]


@pytest.fixture
def zoo_run(registry: Registry, grid: Grid, tmp_path: Path) -> Callable[..., Result]:
    grid()

    def run(*args: str) -> Result:
        url = str(tmp_path / "registry.db")
        return CliRunner().invoke(cli, ["--registry", url, *args], prog_name="zoo")

    return run


def as_json(result: Result) -> Any:
    assert 0 == result.exit_code, result.output
    return json.loads(result.stdout)


def test_assigning_tells_each_cell_its_phase_and_why(zoo_run: Callable[..., Result]) -> None:
    result = zoo_run("phases", "assign", "--set", "loss=0.2", "--rule", "wide")

    assert 0 == result.exit_code, result.output
    head, *rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert "phase" == head[0]
    first = dict(zip(head, rows[0], strict=True))
    assert ("I", "100%", "batch=8 width=2", "3", "-12") == tuple(
        first[key] for key in ("phase", "sure", "cell", "seeds", "connectivity")
    )
    assert "train loss 1.2 > 0.2" in first["why"]
    assert len(PLACES) == len(rows)
    assert "Rule wide@1: loss 0.2" in result.stderr


def test_the_issues_selection_finds_what_was_labelled(zoo_run: Callable[..., Result]) -> None:
    as_json(zoo_run("phases", "assign", "--json"))

    where = "phase = 'IV-B' and metric.'hessian_trace'.'digits' < 100 and accuracy > 0.9"
    found = as_json(zoo_run("ls", "--where", where, "--json"))

    assert [("w64-b8-s0", "default@1")] == [(v["name"], v["phase_rule"]) for v in found][:1]
    assert 3 == len(found)
    shown = zoo_run("show", "w64-b8-s0").stdout
    assert "IV-B (by default@1)" in shown


def test_a_dry_run_says_so_and_json_holds_all(zoo_run: Callable[..., Result]) -> None:
    before = zoo_run("phases", "assign", "--dry-run")
    assert "Nothing was written" in before.stderr

    told = as_json(zoo_run("phases", "assign", "--dry-run", "--json"))

    assert ("default@1", []) == (told["rule"], told["without"])
    assert sorted(p[0] for p in PLACES.values()) == sorted(c["phase"] for c in told["cells"])
    assert [] == as_json(zoo_run("phases", "show", "--json"))


def test_showing_lists_rules_and_what_they_labelled(zoo_run: Callable[..., Result]) -> None:
    assert "No rule" in zoo_run("phases", "show").stderr
    zoo_run("phases", "assign", "--set", "loss=0.5")
    zoo_run("phases", "assign", "--set", "loss=0.1", "--where", "name like 'w2-%'")

    first, second = as_json(zoo_run("phases", "show", "--json"))

    assert ("default@1", "default@2") == (first["rule"], second["rule"])
    assert ({"I": 3, "II": 3}, 0.1) == (second["versions"], second["thresholds"]["loss"])
    assert {"III": 3, "IV-A": 6, "IV-B": 3} == first["versions"]
    assert [first] == as_json(zoo_run("phases", "show", "default@1", "--json"))
    assert [first, second] == as_json(zoo_run("phases", "--json"))
    assert "default@1" in zoo_run("phases", "show", "defualt").output
    assert 0 != zoo_run("phases", "show", "default@7").exit_code


def test_plotting_writes_the_picture_and_its_numbers(
    zoo_run: Callable[..., Result], tmp_path: Path
) -> None:
    out = tmp_path / "map.svg"
    axes = ("--x", "grow.batch", "--y", "grow.width", "--out", str(out))

    told = as_json(zoo_run("phases", "plot", *axes, "--color", "cka", "--json"))

    assert out.read_text().startswith("<?xml")
    assert {"x": "8", "y": "64", "value": pytest.approx(0.85), "phase": None} in told["cells"]


def test_a_picture_of_another_kind_is_refused_before_any_work(
    zoo_run: Callable[..., Result], tmp_path: Path
) -> None:
    out = tmp_path / "map.jpg"

    result = zoo_run("phases", "plot", "--x", "a", "--y", "b", "--out", str(out))

    assert 4 == result.exit_code
    assert ".svg or .png" in result.output


def test_the_command_imports_nothing_heavy_until_it_draws() -> None:
    code = (
        "import sys, zoo_cli.commands.phases, zoo.phases.assignment, zoo.phases.map;"
        "print([m for m in ('torch', 'matplotlib', 'duckdb', 'numpy') if m in sys.modules])"
    )

    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert ("[]\n", "") == (out.stdout, out.stderr)
