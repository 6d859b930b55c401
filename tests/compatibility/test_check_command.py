"""`zoo check`, run as a person or a script would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from checked_models import llama, words, write
from click.testing import CliRunner, Result
from zoo_cli.main import cli

REMOTE = """
from pathlib import Path
import shutil
from zoo import hookimpl
from zoo.source import RemoteSource

class Far(RemoteSource):
    origin, notes = "far://model@1234", {}

    def outline(self, folder):
        (folder / "config.json").write_bytes(Path("far/config.json").read_bytes())
        whole = Path("far/model.safetensors").read_bytes()
        header = 8 + int.from_bytes(whole[:8], "little")
        with open(folder / "model.safetensors", "wb") as file:
            file.write(whole[:header])
            file.truncate(len(whole))
        return folder

    def fetch(self, progress):
        Path("fetched").touch()
        raise AssertionError("weights were fetched")

@hookimpl
def zoo_resolve_source(source):
    return Far() if source.startswith("far://") else None
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs `zoo check ARGS` in a directory with models `a`, `b` near it and `wide`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOO_REGISTRY", raising=False)
    near, config = llama(1)
    write(Path("a"), near, config, words())
    write(Path("b"), *llama(2, near=near), words())
    write(Path("wide"), *llama(3, hidden_size=16), words())

    def check(*args: str) -> Result:
        before = sorted(p for p in tmp_path.rglob("*") if "__pycache__" not in p.parts)
        result = CliRunner().invoke(cli, [*args], prog_name="zoo")

        now = sorted(p for p in tmp_path.rglob("*") if "__pycache__" not in p.parts)
        assert before == now
        return result

    return check


def test_models_that_can_be_merged_exit_with_zero_and_print_nothing_on_stdout(
    run: Callable[..., Result],
) -> None:
    result = run("check", "a", "b")

    assert (0, "") == (result.exit_code, result.stdout)
    assert "ok  2 models can be merged: nothing was found.\n" == result.stderr


def test_models_that_cannot_exit_with_six_and_a_line_for_each_problem(
    run: Callable[..., Result],
) -> None:
    result = run("check", "a", "wide")

    title, line = result.stdout.splitlines()
    assert 6 == result.exit_code
    assert ["severity", "code", "what", "why", "remedy"] == title.split("\t")
    assert ["error", "shapes"] == line.split("\t")[:2]
    assert "no  2 models cannot be merged as they are: 1 error.\n" == result.stderr


def test_json_holds_every_problem_with_its_parts(run: Callable[..., Result]) -> None:
    result = run("check", "a", "wide", "--json")

    found = json.loads(result.stdout)
    assert 6 == result.exit_code and found["ok"] is False
    assert ["a", "wide"] == found["models"]
    (problem,) = found["problems"]
    assert {"code", "severity", "what", "why", "remedy", "models", "tensors"} == problem.keys()
    assert 21 == len(problem["tensors"])


def test_the_dry_run_of_a_merge_refuses_with_the_same_words(run: Callable[..., Result]) -> None:
    checked = run("check", "a", "wide", "--json")
    options = ("--expert", "a", "--expert", "wide", "--json")
    planned = run("merge", "--method", "linear", "--dry-run", *options)

    (problem,) = json.loads(checked.stdout)["problems"]
    error = json.loads(planned.stderr)["error"]
    assert 6 == planned.exit_code
    assert [problem] == error["details"]


def test_a_recipe_is_checked_as_it_would_be_merged(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    write(Path("longer"), *llama(4, vocab_size=18), words(18))
    recipe = "method: linear\nexperts: [a, longer]\n"
    Path("refused.yaml").write_text(recipe)
    Path("union.yaml").write_text(recipe + "tokenizer: {source: union}\n")

    assert 6 == run("check", "--recipe", "refused.yaml").exit_code
    assert 0 == run("check", "--recipe", "union.yaml").exit_code


def test_recipes_of_several_stages_are_checked_to_the_end(run: Callable[..., Result]) -> None:
    first = "name: soup\nmethod: linear\nexperts: [a, b]\n---\n"
    Path("good.yaml").write_text(first + "method: linear\nexperts: [soup, a]\n")
    Path("stages.yaml").write_text(first + "method: linear\nexperts: [soup, wide]\n")

    good, bad = (run("check", "--recipe", f"{n}.yaml", "--json") for n in ("good", "stages"))

    assert 0 == good.exit_code, good.output
    (problem,) = json.loads(bad.stdout)["problems"]
    assert 6 == bad.exit_code and ["soup", "wide"] == problem["models"]
    assert 8 == run("check", "a", "--recipe", "good.yaml").exit_code


def test_a_model_elsewhere_is_checked_by_its_headers_and_not_fetched(
    run: Callable[..., Result],
) -> None:
    write(Path("far"), *llama(5, vocab_size=20))
    Path("plugins").mkdir()
    Path("plugins/far_source.py").write_text(REMOTE)

    result = run("--plugins-dir", "plugins", "check", "a", "far://model")

    assert 6 == result.exit_code
    assert "16 in `a` and 20 in `far://model`" in result.stdout
    assert not Path("fetched").exists()


def test_versions_are_checked_by_a_query(run: Callable[..., Result]) -> None:
    for name in ("a", "b", "wide"):
        CliRunner().invoke(cli, ["register", name, "--name", name])

    assert 0 == run("check", "--where", "name in ('a', 'b')").exit_code
    assert 6 == run("check", "--where", "kind = 'expert'").exit_code
    assert 3 == run("check", "--where", "name = 'nobody'").exit_code


def test_nothing_to_check_is_wrong_usage(run: Callable[..., Result]) -> None:
    assert 2 == run("check").exit_code
