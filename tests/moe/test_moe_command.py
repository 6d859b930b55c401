"""`zoo moe` from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from tiny_siblings import logits
from zoo_cli.main import cli

Siblings = Callable[[str], list[Path]]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Result]:
    def ran(*words: str) -> Result:
        return CliRunner().invoke(cli, ["--registry", str(tmp_path / "r.db"), *words])

    return ran


@pytest.fixture
def mixture(siblings: Siblings, tmp_path: Path) -> str:
    base, math, code, _ = siblings("mistral")
    document: dict[str, Any] = {
        "base_model": str(base),
        "gate_mode": "hidden",
        "dtype": "float32",
        "experts": [
            {"source_model": str(math), "positive_prompts": ["w1 w2"]},
            {"source_model": str(code), "positive_prompts": ["w7", "w3 w4"]},
        ],
    }
    (path := tmp_path / "mixture.yaml").write_text(yaml.safe_dump(document))
    return str(path)


def test_a_dry_run_says_what_would_come_out_and_writes_nothing(
    run: Callable[..., Result], mixture: str, tmp_path: Path
):
    before = sorted(tmp_path.iterdir())

    found = json.loads(run("moe", "build", mixture, "--dry-run", "--json").stdout)

    assert ("mixtral", 2) == (found["architecture"], len(found["parents"]["expert"]))
    assert before == sorted(tmp_path.iterdir())
    assert "mixtral" in run("moe", "build", mixture, "--dry-run").stdout


def test_a_mixture_is_built_and_its_experts_are_merged(
    run: Callable[..., Result], mixture: str, tmp_path: Path
):
    assert 0 == run("moe", "build", mixture, "--as", "moe").exit_code
    small = run("moe", "merge-experts", "moe", "--experts", "1", "--as", "small", "--json")

    found = json.loads(small.stdout)
    assert ("small", 1, "mixtral") == (found["name"], found["version"], found["architecture"])
    assert 0 == run("verify", "small", "--replay").exit_code
    assert "moe@1" in run("lineage", "small").stdout


def test_without_a_name_only_a_directory_is_written(
    run: Callable[..., Result], mixture: str, tmp_path: Path
):
    out = tmp_path / "moe"

    said = run("moe", "build", mixture, "--out", str(out))

    assert f"{out}\n" == said.stdout
    assert not (tmp_path / "r.db").exists()
    logits(out)


def test_notes_go_to_stderr(run: Callable[..., Result], mixture: str, tmp_path: Path):
    document = yaml.safe_load(Path(mixture).read_text())
    document["gate_mode"] = "random"
    Path(mixture).write_text(yaml.safe_dump(document))

    said = run("moe", "build", mixture, "--out", str(tmp_path / "moe"))

    assert "Note: the router is drawn at random: train it before use.\n" == said.stderr


def test_alone_it_lists_the_layouts(run: Callable[..., Result]):
    found = json.loads(run("moe", "--json").stdout)

    assert ["mixtral", "qwen2_moe", "qwen3_moe"] == [one["layout"] for one in found]
    assert "mixtral" in run("moe").stdout


def test_a_result_needs_a_place(run: Callable[..., Result], mixture: str):
    assert 2 == run("moe", "build", mixture).exit_code
    assert 2 == run("moe", "merge-experts", "x", "--experts", "2").exit_code


def test_problems_are_listed_with_the_exit_code_of_models_that_do_not_fit(
    run: Callable[..., Result], mixture: str, siblings: Siblings
):
    document = yaml.safe_load(Path(mixture).read_text())
    document["experts"][0]["source_model"] = str(siblings("qwen2")[0])
    document["experts_per_token"] = 3
    Path(mixture).write_text(yaml.safe_dump(document))

    said = run("moe", "build", mixture, "--as", "moe")

    assert 6 == said.exit_code
    assert "2 problems" in said.stderr
