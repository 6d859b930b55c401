"""`zoo evaluate` and `zoo leaderboard`, on the digits that zoo ships."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from zoo_cli.main import cli


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOO_REGISTRY", raising=False)
    monkeypatch.delenv("ZOO_PLUGINS_DIR", raising=False)

    def zoo(*args: str | Path) -> Result:
        return CliRunner().invoke(cli, [str(a) for a in args], prog_name="zoo")

    return zoo


@pytest.fixture
def family(run, network) -> Callable[..., Any]:
    """A base, two experts of `digits` and their mean; runs a command that prints JSON."""

    def data(*args: str | Path, code: int = 0) -> Any:
        result = run(*args, "--json")
        assert code == result.exit_code, result.output
        return json.loads(result.stdout)

    for seed, name in enumerate(("base", "one", "two")):
        source = network(name, seed=seed, inputs=64, classes=10)
        more = ("--kind", "base") if name == "base" else ("--base", "base", "--task", "digits")
        data("register", source, "--name", name, *more)
    data("merge", "--method", "linear", "--where", "kind = 'expert'", "--as", "mean")
    return data


def test_evaluate_tells_the_scores_and_records_them(family):
    found = family("evaluate", "--where", "kind = 'expert'")

    assert ["one@1", "two@1"] == [one["model"] for one in found]
    assert {"accuracy", "loss", "calibration_error"} == set(found[0]["scores"])
    assert set("0123456789") == set(found[0]["parts"]["class_accuracy"])
    assert not found[0]["was_known"] and found[0]["recorded"]
    shown = family("show", "one")["metrics"]
    assert found[0]["scores"]["accuracy"] == shown["accuracy"] == shown["accuracy/digits"]
    assert all(one["was_known"] for one in family("evaluate", "--where", "kind = 'expert'"))


def test_in_a_pipe_every_line_is_a_model_on_a_task(family, run):
    family("evaluate", "one")
    result = run("evaluate", "one", "two", "--split", "test")

    head, *lines = result.stdout.splitlines()
    assert ["model", "task", "accuracy", "calibration_error", "loss", ""] == head.split("\t")
    assert [["one@1", "digits"], ["two@1", "digits"]] == [line.split("\t")[:2] for line in lines]
    assert ["recorded before", ""] == [line.split("\t")[-1] for line in lines]


def test_one_failure_is_told_and_decides_the_exit_code(family, run):
    result = run("evaluate", "base", "one")

    assert 8 == result.exit_code
    assert "`base@1` has no task of its own" in result.stderr
    assert "1 of 2 evaluations failed" in result.stderr
    assert ["one@1"] == [line.split("\t")[0] for line in result.stdout.splitlines()[1:]]
    said = family("evaluate", "base", "one", code=8)
    assert [True, False] == [one["error"] is not None for one in said]


def test_a_path_is_marked_as_not_recorded(family, run, tmp_path):
    line = run("evaluate", tmp_path / "two", "--task", "digits").stdout.splitlines()[1]

    assert "not recorded: a path" == line.split("\t")[-1]


def test_a_path_needs_no_registry(run, network, tmp_path):
    directory = network("loose", inputs=64, classes=10)
    result = run("evaluate", directory, "--task", "digits", "--task", "digits", "--json")

    assert 0 == result.exit_code, result.output
    (found,) = json.loads(result.stdout)
    assert 0 <= found["scores"]["accuracy"] <= 1 and not found["recorded"]
    assert not (tmp_path / "registry.db").exists()
    assert 3 == run("evaluate", "--where", "kind = 'expert'").exit_code


def test_models_are_named_or_selected(run, family):
    for command in ("evaluate", "leaderboard"):
        assert 2 == run(command).exit_code
        assert 2 == run(command, "one", "--where", "kind = 'expert'").exit_code


def test_unknown_tasks_are_refused_with_a_suggestion(run, family):
    result = run("evaluate", "one", "--task", "digit")

    assert 3 == result.exit_code
    assert "Did you mean `digits`?" in result.stderr


def test_the_leaderboard_normalizes_by_the_best_expert(family, run):
    family("evaluate", "one", "two", "mean", "--task", "digits")
    board = family("leaderboard", "mean", "one", "two")

    values = {row["version"]: row["mean"] for row in board["rows"]}
    best = max(("one@1", "two@1"), key=values.__getitem__)
    assert {"digits": best} == board["experts"]
    for row in board["rows"]:
        cell = row["cells"]["digits"]
        assert values[row["version"]] / values[best] == pytest.approx(row["normalized"])
        assert 355 == cell["examples"] and cell["low"] < cell["value"] < cell["high"]
    assert sorted(values.values(), reverse=True) == [row["mean"] for row in board["rows"]]

    lines = run("leaderboard", "mean", "one", "two", "--by", "normalized").stdout.splitlines()
    assert ["rank", "version", "mean accuracy", "95 %", "normalized", "digits"] == lines[0].split(
        "\t"
    )
    assert 4 == len(lines)


def test_a_leaderboard_of_nothing_says_what_to_run(family, run):
    result = run("leaderboard", "--where", "kind = 'merge'")

    assert 3 == result.exit_code
    assert "zoo evaluate" in result.stderr


def table_row(result, version):
    """A row of a table in a pipe, by column."""
    head, *lines = (line.split("\t") for line in result.stdout.splitlines())
    rows = [dict(zip(head, line, strict=True)) for line in lines]
    return next(row for row in rows if version == row["version"])


def test_a_list_has_columns_for_what_the_query_names(family, run):
    family("evaluate", "one")
    family("annotate", "one", "--tag", "training=sha256:" + "0123456789abcdef" * 4)
    where = "metric.'class_accuracy'.'7' >= 0 and calibration_error >= 0"

    columns = list(table_row(run("ls", "--where", where), "one@1"))

    assert ["calibration_error", "class_accuracy/7", "accuracy", "loss", "tags"] == columns[
        columns.index("calibration_error") : columns.index("tags") + 1
    ]
    assert "training=0123456789ab" in table_row(run("ls"), "one@1")["tags"]


def test_a_terminal_gets_a_line_for_each_metric_and_split(family, run, monkeypatch):
    family("evaluate", "one")
    family("evaluate", "one", "--split", "train")
    monkeypatch.setattr("zoo_cli.versions.on_terminal", lambda: True)
    scores = {name: f"{x:.5g}" for name, x in family("show", "one")["metrics"].items()}

    said = run("show", "one").stdout

    assert f"accuracy {scores['accuracy']} (digits:train={scores['accuracy/digits:train']})" in said
    assert f"class_accuracy 0={scores['class_accuracy/0']}, 1=" in said
    assert f"class_accuracy/digits:train 0={scores['class_accuracy/digits:train/0']}, 1=" in said
    assert "class_accuracy/digits " not in said


def test_a_list_shows_the_scores_of_the_whole(family, run):
    family("evaluate", "one", "mean", "--task", "digits")

    one, mean = (table_row(run("ls"), name) for name in ("one@1", "mean@1"))

    assert {"accuracy", "calibration_error", "loss"} <= {name for name, x in one.items() if x}
    # The mean has no task of its own, so all it has are scores on others.
    assert float(mean["accuracy/digits"]) > 0
    assert "+" == mean["more"][0]
    assert "" == one["more"]
    assert "class_accuracy/digits/9" in family("show", "mean")["metrics"]
