"""`zoo demo`, run for real: what it leaves behind, what it says of it, and the tutorial."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest
from click.testing import CliRunner, Result
from docs_pages import DOCS, Page
from shells import typed
from zoo_cli.main import cli

import zoo

LEVELS = ("clean", "q90", "q70", "q50", "q30")


def run(*args: str, cwd: Path) -> Result:
    """`zoo ARGS`, without the seconds that a process of its own takes to load torch."""
    with contextlib.chdir(cwd):
        return CliRunner().invoke(cli, args, prog_name="zoo")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def first(place) -> str:
    """What the first run says at a terminal."""
    code, shown = typed("zoo demo", place)
    assert 0 == code, shown
    return shown


@pytest.fixture(scope="module")
def piped(place, first) -> Result:
    """What a second run in the same directory says to a pipe."""
    done = run("demo", cwd=place)
    assert 0 == done.exit_code, done.output
    return done


@pytest.fixture(scope="module")
def again(place, first):
    """What another run in the same directory says, as JSON."""
    done = run("demo", "--json", cwd=place)
    assert 0 == done.exit_code, done.output
    return json.loads(done.stdout)


def plain(line: str) -> str:
    """A line without figures, stars and rules: these differ in the last digit between machines."""
    return " ".join(re.sub(r"\d+\.\d+|[*─]+", "", line).split())


def published(report):
    return [row for row in report["leaderboard"] if row["kind"] != "merge"]


def merges(report):
    return [row for row in report["leaderboard"] if row["kind"] == "merge"]


def test_the_tutorial_shows_what_the_demo_says(first):
    page = Page(DOCS / "tutorial/index.md")
    said = {plain(line) for line in first.splitlines()}
    lines = [line for block in page.blocks("text") for line in block.text.splitlines()]

    assert [line for line in lines if line != "..." and plain(line) not in said] == []


def test_the_base_and_four_experts_are_registered_with_licence_and_scores(again):
    rows = {row["name"]: row for row in published(again)}

    assert {"upscaler-base", *(f"upscaler-noise{i}" for i in range(4))} == set(rows)
    assert {"MIT"} == {row["license"] for row in rows.values()}
    assert {"upresnet10"} == {row["architecture"] for row in rows.values()}
    for name, row in rows.items():
        assert (None if name == "upscaler-base" else "upscaler-base@1") == row["base"]
        assert {"psnr", *(f"psnr/{level}" for level in LEVELS)} == set(row["metrics"])


def test_four_methods_make_versions_with_scores(place, again):
    assert len(merges(again)) >= 10
    assert all("psnr" in row["metrics"] for row in merges(again))
    with zoo.open(str(place / "registry.db"), create=False) as registry:
        methods = {
            registry.catalog.run_of(registry.get(f"{row['name']}@{row['version']}").id).method
            for row in merges(again)
        }
    assert {"linear", "slerp", "task_arithmetic", "ties"} == methods


def test_the_best_merge_beats_every_published_model_on_average(again):
    best = next(row for row in merges(again))

    assert again["best"] == f"{best['name']}@{best['version']}"
    for row in published(again):
        assert best["psnr"]["mean"] > row["psnr"]["mean"], row["name"]


def test_the_best_merge_replays_byte_for_byte(again):
    assert again["verdict"]["ok"]
    assert 45 == again["verdict"]["checked"]
    assert [] == again["verdict"]["mismatched"]


def test_lineage_leads_from_the_best_merge_to_what_the_query_selected(again):
    parents = {e["parent"] for e in again["lineage"]["edges"] if e["child"] == again["best"]}

    assert set(again["selection"]["selected"]) <= parents
    assert "upscaler-base@1" in {n["ref"] for n in again["lineage"]["nodes"]}


def test_the_picture_is_a_png_of_five_columns(place, first):
    with PIL.Image.open(place / "zoo-demo.png") as picture:
        assert "PNG" == picture.format
        assert picture.width > 5 * 192


def test_a_second_run_makes_nothing_new_and_says_so(again):
    assert all(row["reused"] for row in again["leaderboard"])
    numbers = [(row["name"], row["version"]) for row in again["leaderboard"]]
    assert len(set(numbers)) == len(numbers)
    with_digest = {row["digest"] for row in again["leaderboard"]}
    assert len(with_digest) == len(numbers)


def test_a_pipe_gets_the_leaderboard_as_tab_separated_lines(piped):
    lines = [line.split("\t") for line in piped.stdout.splitlines() if "\t" in line]

    assert ["version", "kind", *LEVELS, "mean"] == lines[0]
    means = [float(line[7].lstrip("*")) for line in lines[1:]]
    assert sorted(means, reverse=True) == means
    assert "\x1b" not in piped.stdout


def test_what_it_leaves_behind_is_a_sound_registry(place, again):
    assert 0 == run("fsck", cwd=place).exit_code


@pytest.mark.parametrize("number", range(5))
def test_the_next_commands_work_as_printed(place, again, number):
    program, *args = shlex.split(again["next"][number])
    assert "zoo" == program

    done = run(*args, cwd=place)

    assert 0 == done.exit_code, done.stderr
    assert done.stdout.strip()


def test_the_next_commands_name_a_zoo_that_is_not_on_the_path(place, again, tmp_path, monkeypatch):
    program = tmp_path / ".venv" / "bin" / "zoo"
    monkeypatch.setattr(sys, "argv", [str(program), "demo"])
    monkeypatch.setenv("PATH", str(tmp_path))

    done = run("demo", "--json", cwd=place)

    assert [str(program)] * 5 == [shlex.split(c)[0] for c in json.loads(done.stdout)["next"]]


def test_a_directory_without_the_example_is_refused_before_anything_is_made(tmp_path):
    done = run("demo", "--example", str(tmp_path / "nowhere"), cwd=tmp_path)

    assert 3 == done.exit_code
    assert "zoo demo --example DIR" in done.stderr
    assert [] == list(tmp_path.iterdir())


def test_without_pillow_it_names_the_extra_to_install_and_makes_nothing(tmp_path):
    program = "import sys; sys.modules['PIL'] = None; from zoo_cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "demo"], cwd=tmp_path, capture_output=True, text=True
    )

    assert 13 == done.returncode
    assert "pip install 'zoo-registry[demo]'" in done.stderr
    assert [] == list(tmp_path.iterdir())
