"""`zoo measure`: what it prints, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from zoo_cli.main import cli
from zoo_cli.output import say_errors

Run = Callable[..., Result]


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `zoo ARGS` beside the small zoo."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("ZOO_REGISTRY", raising=False)
    monkeypatch.delenv("ZOO_PLUGINS_DIR", raising=False)
    return lambda *args: CliRunner().invoke(cli, ["measure", *args], prog_name="zoo")


def rows(result: Result) -> list[list[str]]:
    return [line.split("\t") for line in result.stdout.splitlines()]


def test_values_are_printed_and_recorded(run: Run) -> None:
    first = run("e1", "e2", "--metric", "cka", "--metric", "sign_agreement", "--samples", "40")
    again = run("e1", "e2", "--metric", "cka", "--samples", "40")

    assert 0 == first.exit_code, first.output
    names = [row[0] for row in rows(first)[1:]]
    assert ["cka", "cka_debiased"] == names[:2]
    assert "sign_agreement" in names
    assert "e1@1" in rows(first)[1][1] and "digits" == rows(first)[1][2]
    assert "recorded before" in again.stdout
    assert rows(first)[1][3] == rows(again)[1][3]


def test_json_has_the_whole_of_it(run: Run) -> None:
    result = run("e1", "--metric", "task_vector", "--set", "parts=tensors", "--json")

    (one,) = json.loads(result.stdout)
    assert ("task_vector", ["e1@1"], None) == (one["metric"], one["versions"], one["error"])
    values = {(v["name"], v["part"]): v["value"] for v in one["values"]}
    assert values["task_vector_norm", None] > values["task_vector_norm", "head.weight"] > 0
    assert "tensors" == one["values"][0]["protocol"]["parameters"]["parts"]


def test_failures_are_told_and_end_in_their_exit_code(run: Run) -> None:
    result = run("e1", "odd", "--metric", "task_vector")

    assert 6 == result.exit_code
    assert "task_vector_norm" in result.stdout
    assert "error: task_vector odd@1: Metric `task_vector` needs the base of" in result.stderr
    assert "1 of 2 measurements failed; the others are recorded." in result.stderr


def test_a_dry_run_tells_the_cost_and_records_nothing(run: Run) -> None:
    asked = ("e1", "e2", "--metric", "barrier", "--samples", "40")

    shown, as_json = run(*asked, "--dry-run"), run(*asked, "--dry-run", "--json")

    assert 0 == shown.exit_code, shown.output
    assert "1 measurements to do" in shown.stderr
    (planned,) = json.loads(as_json.stdout)
    assert (40, 11, False) == (planned["examples"], planned["passes"], planned["is_known"])
    assert planned["seconds"] > 0
    run(*asked)
    assert json.loads(run(*asked, "--dry-run", "--json").stdout)[0]["is_known"]
    assert not json.loads(run(*asked, "--dry-run", "--force", "--json").stdout)[0]["is_known"]


def test_a_dry_run_tells_what_cannot_be_measured(run: Run) -> None:
    result = run("e1", "odd", "--metric", "task_vector", "--dry-run", "--json")

    assert [False, True] == sorted(
        "needs the base" in str(r["error"]) for r in json.loads(result.stdout)
    )


def test_metrics_are_listed_and_explained(run: Run) -> None:
    listed, explained = run("--list"), run("--list", "--metric", "error_barrier")

    assert ["barrier", "a pair", "data (test)"] == next(
        row[:3] for row in rows(listed) if row[0] == "barrier"
    )
    assert ["subspace_overlap", "a pair", "weights, bases"] == next(
        row[:3] for row in rows(listed) if row[0] == "subspace_overlap"
    )
    assert "Loss barrier on the straight line between two models" in explained.stdout
    assert ["cost", "11 passes over the sample"] in rows(explained)
    assert ["points", "integer >= 3", "11"] == next(
        row[:3] for row in rows(explained) if row[0] == "points"
    )


def test_every_metric_that_is_listed_says_all_in_json(run: Run) -> None:
    for metric in json.loads(run("--list", "--json").stdout):
        assert metric["gives"]
        assert all(metric["gives"].values())
        assert all(p.get("description") for p in metric["parameters"].values()), metric["name"]
        assert metric["arity"] in (1, 2, None)
        assert (metric["split"] is None) == (metric["needs"] == "weights")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--metric", "cka"), "Name the versions, or select them with --where"),
        (("e1", "--where", "true", "--metric", "cka"), "Name the versions, or select"),
        (("e1", "e2"), "Name a metric with --metric"),
        (("e1", "--metric", "cka", "--set", "layer"), "not of the form key=value"),
    ],
)
def test_wrong_usage_is_told(run: Run, asked: tuple[str, ...], said: str) -> None:
    result = run(*asked)

    assert 2 == result.exit_code
    assert said in result.stderr


def test_an_unknown_metric_is_told_with_the_nearest(run: Run) -> None:
    result = run("e1", "--metric", "bariers")

    assert 8 == result.exit_code
    assert "Did you mean `barrier`" in result.stderr


def test_a_score_is_told_where_to_get(run: Run) -> None:
    assert "`zoo evaluate`" in run("e1", "--metric", "accuracy").stderr


def test_of_many_errors_only_the_first_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    say_errors([(f"m{i}", "no") for i in range(12)])

    lines = capsys.readouterr().err.splitlines()
    assert [f"error: m{i}: no" for i in range(10)] == lines[:10]
    assert ["and 2 more errors; --json has all"] == lines[10:]


def test_listing_metrics_does_not_load_torch(folder: Path) -> None:
    code = (
        "import sys; from zoo_cli.main import cli\n"
        "cli(['measure', '--list'], standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)

    assert 0 == done.returncode, done.stderr
    assert "barrier" in done.stdout
