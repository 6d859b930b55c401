"""`zoo plot`: files are made, the numbers are printed, mistakes are told before anything runs."""

from __future__ import annotations

import json
import sys

import pytest
from click.testing import CliRunner
from zoo_cli.main import cli


def run(*args):
    return CliRunner().invoke(cli, [str(a) for a in args], prog_name="zoo")


def run_json(*args):
    result = run(*args, "--json")
    assert 0 == result.exit_code, result.output
    return json.loads(result.stdout)


COMMANDS = {
    "barrier": ["barrier", "a", "b", "--samples", "32", "--points", "3"],
    "surface": ["surface", "a", "b", "--task", "digits", "--samples", "32", "--points", "3"],
    "methods": ["methods", "--where", "kind = 'merge'"],
    "coefficient": ["coefficient", "--where", "kind = 'merge'"],
    "computed": ["coefficient", "a", "b", "--task", "digits", "--samples", "32", "--points", "3"],
}


@pytest.mark.parametrize("suffix", ["svg", "png"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_picture_is_written_beside_its_numbers(name, suffix, merges, tmp_path):
    args = COMMANDS[name]
    if name == "barrier":
        args = [*args, "--task", "digits"]

    told = run_json("plot", *args, "--out", f"x.{suffix}", "--title", "A title")

    assert f"x.{suffix}" == told["picture"]
    assert 1000 < (tmp_path / f"x.{suffix}").stat().st_size
    assert {k: v for k, v in told.items() if k != "picture"} == {
        k: v for k, v in run_json("plot", *args).items() if k != "picture"
    }


def test_the_numbers_of_a_matrix_are_those_recorded(merges, tmp_path):
    from zoo.records import MetricValue

    ids = [merges.get(ref).id for ref in ("a", "b")]
    merges.catalog.record_group_metrics(ids, [MetricValue("cka", 0.625)])

    told = run_json("plot", "matrix", "a", "b", "--metric", "cka", "--out", "m.svg")

    assert [[None, 0.625], [0.625, None]] == told["values"]
    assert (tmp_path / "m.svg").exists()


def test_alone_it_lists_the_pictures():
    assert ["barrier", "coefficient", "matrix", "methods", "surface"] == [
        row["picture"] for row in run_json("plot")
    ]


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["barrier", "a", "b"], 2, "--out"),
        (["barrier", "a", "--out", "x.svg"], 2, "two models"),
        (["barrier", "a", "b", "--out", "x.pdf"], 4, ".svg or .png"),
        (["barrier", "a", "b", "--out", "no/x.svg"], 10, "no directory"),
        (["barrier", "a", "zz", "--out", "x.svg"], 3, "zz"),
        (["matrix", "--metric", "cka", "--out", "x.svg"], 2, "--where"),
        (["matrix", "--metric", "cka", "--where", "name = 'q'", "--out", "x.svg"], 3, "No version"),
        (["coefficient", "a", "--where", "true", "--out", "x.svg"], 2, "one of the two"),
        (["methods", "--where", "kind = 'expert'", "--out", "x.svg"], 3, "is a merge"),
    ],
)
def test_mistakes_are_told_and_leave_no_picture(args, code, said, family, tmp_path):
    result = run("plot", *args)

    assert code == result.exit_code, result.output
    assert said in result.output + result.stderr
    assert not list(tmp_path.glob("x.*"))


def test_a_missing_matplotlib_is_told_before_anything_is_run(family, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    result = run("plot", "barrier", "a", "no-such-model", "--out", "x.svg")

    assert 13 == result.exit_code
    assert "pip install 'zoo-registry[plot]'" in result.output + result.stderr
    (line,) = run_json("plot", "barrier", "a", "b", "--points", "3", "--samples", "8")["lines"]
    assert 3 == len(line["loss"]), "numbers need no matplotlib"
