"""Documents in one file are stages: what one makes, another merges."""

from __future__ import annotations

import json
import logging
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from small_models import State, left_behind, same_bytes, write
from tiny_llamas import llama, llama_config

import zoo
from zoo import Registry
from zoo.errors import InvalidRecipe, NotFound
from zoo.progress import NoProgress

THREE = """
name: mean
merge_method: linear
models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 3}}]
---
name: arc
merge_method: slerp
base_model: mean
models: [{model: c}]
parameters: {t: 0}
---
merge_method: task_arithmetic
base_model: a
models:
  - {model: arc, parameters: {weight: 0.5}}
  - {model: c, parameters: {weight: 2.0}}
"""


@pytest.fixture
def models(register: Callable[..., zoo.Version]) -> dict[str, State]:
    found = {}
    for seed, name in enumerate("abc"):
        found[name] = llama(seed, 2)
        register(name, found[name], config=llama_config(2))
    return found


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], Path]:
    """A file with what a test writes in it."""

    def written(text: str) -> Path:
        path = tmp_path / "stages.yaml"
        path.write_text(textwrap.dedent(text))
        return path

    return written


def expected(models: dict[str, State]) -> State:
    a, b, c = (models[n] for n in "abc")
    mean = {n: (a[n] + 3 * b[n]) / 4 for n in a}
    return {n: a[n] + 0.5 * (mean[n] - a[n]) + 2.0 * (c[n] - a[n]) for n in a}


def test_stages_are_versions_with_lineage(
    models: dict[str, State],
    registry: Registry,
    recipe: Callable[[str], Path],
    load: Callable[..., State],
) -> None:
    version = registry.merge(recipe(THREE), name="result", tags={"for": "test"})

    assert version is not None and "result@1" == version.ref
    torch.testing.assert_close(load(registry.path("result")), expected(models))
    nodes = {n["ref"]: n["method"] for n in registry.lineage("result").nodes}
    assert "linear" == nodes["result-mean@1"] and "slerp" == nodes["result-arc@1"]
    assert {"a@1", "b@1", "c@1"} < nodes.keys()
    assert {} == registry.get("result-mean").tags
    for ref in ("result", "result-mean"):
        assert registry.verify(ref, replay=True).ok


def test_a_stage_that_is_there_already_is_not_made_again(
    models: dict[str, State], registry: Registry, recipe: Callable[[str], Path]
) -> None:
    registry.merge(recipe(THREE), name="result")

    registry.merge(recipe(THREE.replace("weight: 2.0", "weight: 3.0")), name="result")

    assert 2 == registry.get("result").version
    assert 1 == registry.get("result-mean").version == registry.get("result-arc").version


def test_stages_on_the_way_to_a_directory_vanish(
    models: dict[str, State],
    registry: Registry,
    recipe: Callable[[str], Path],
    load: Callable[..., State],
    tmp_path: Path,
) -> None:
    out = tmp_path / "somewhere" / "out"

    assert registry.merge(recipe(THREE), out=out) is None

    torch.testing.assert_close(load(out), expected(models))
    assert [out] == list(out.parent.iterdir())
    assert {"a", "b", "c"} == {v.name for v in registry.select()}
    assert [] == left_behind(registry)
    said = (out / "README.md").read_text()
    assert "`arc`" in said and str(tmp_path) not in said


class Passes(NoProgress):
    """Counts merges, and interrupts one."""

    def __init__(self, ends: int = 0) -> None:
        self.merges, self._ends = 0, ends

    def start(self, total: int, what: str) -> None:
        self.merges += what == "merge"
        if self.merges == self._ends:
            raise KeyboardInterrupt


@pytest.mark.parametrize("changed, again", [("", 1), ("weight: 2", 3)])
def test_stages_on_the_way_to_a_directory_survive_an_interruption(
    models: dict[str, State],
    registry: Registry,
    recipe: Callable[[str], Path],
    load: Callable[..., State],
    tmp_path: Path,
    changed: str,
    again: int,
) -> None:
    out = tmp_path / "somewhere" / "out"
    with pytest.raises(KeyboardInterrupt):
        registry.merge(recipe(THREE), out=out, progress=Passes(ends=3))
    text = THREE.replace("weight: 3", changed or "weight: 3")
    counted = Passes()

    registry.merge(recipe(text), out=out, progress=counted)

    assert again == counted.merges
    registry.merge(recipe(text), out=tmp_path / "whole")
    assert same_bytes(load(tmp_path / "whole"), load(out))
    assert [out] == list(out.parent.iterdir())


def test_a_failing_stage_leaves_nothing_in_a_directory(
    models: dict[str, State], registry: Registry, recipe: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "somewhere" / "out"

    with pytest.raises(NotFound, match="nobody"):
        registry.merge(recipe(THREE.replace("{model: c, ", "{model: nobody, ")), out=out)

    assert not out.parent.exists()


def test_stages_run_in_the_order_of_their_needs(
    models: dict[str, State], registry: Registry, recipe: Callable[[str], Path]
) -> None:
    first, second, last = THREE.split("---")

    version = registry.merge(recipe("---".join([last, second, first])), name="r")

    assert version is not None and "r@1" == version.ref


def test_the_last_of_named_stages_is_the_result(
    models: dict[str, State],
    registry: Registry,
    recipe: Callable[[str], Path],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    text = """
        {name: one, method: linear, experts: [a, b]}
        ---
        {name: two, method: linear, experts: [a, c]}
        ---
        {name: three, method: slerp, experts: [one, b], parameters: {t: 0.5}}
    """

    registry.merge(recipe(text), name="r")
    with caplog.at_level(logging.WARNING):
        registry.merge(recipe(text), out=tmp_path / "out")

    assert {"r", "r-one", "r-two"} == {v.name for v in registry.select("kind = 'merge'")}
    assert ["nothing merges `two`, so it was not made; --as keeps it"] == caplog.messages


def test_a_stage_may_be_a_donor_a_base_and_a_source_of_slices(
    models: dict[str, State],
    registry: Registry,
    recipe: Callable[[str], Path],
    load: Callable[..., State],
) -> None:
    text = """
        {name: tall, merge_method: passthrough, slices: [
            {sources: [{model: a, layer_range: [0, 2]}]},
            {sources: [{model: b, layer_range: [1, 2]}]}]}
        ---
        {merge_method: passthrough, base_model: tall, slices: [
            {sources: [{model: tall, layer_range: [1, 3]}]},
            {sources: [{model: c, layer_range: [0, 1]}]}]}
    """

    registry.merge(recipe(text), name="r")

    name = "model.layers.{}.mlp.down_proj.weight"
    found = load(registry.path("r"))
    assert torch.equal(models["b"][name.format(1)], found[name.format(1)])
    assert torch.equal(models["c"][name.format(0)], found[name.format(2)])
    assert 3 == json.loads((registry.path("r") / "config.json").read_text())["num_hidden_layers"]


@pytest.mark.parametrize("asked", [{"name": "r"}, {"out": "r"}])
def test_a_stage_may_give_the_tokenizer(
    registry: Registry,
    recipe: Callable[[str], Path],
    load: Callable[..., State],
    tmp_path: Path,
    asked: dict[str, str],
) -> None:
    for seed, words in ((1, "tic tac"), (2, "tic tac toe")):
        tokens = {word: i for i, word in enumerate(words.split())}
        state = {"model.embed_tokens.weight": torch.full((len(tokens), 2), float(seed))}
        directory = write(tmp_path / f"m{seed}", state, vocab_size=len(tokens))
        (directory / "tokenizer.json").write_text(json.dumps({"model": {"vocab": tokens}}))
    text = f"""
        {{name: both, method: linear, experts: [{tmp_path}/m1, {tmp_path}/m2],
          tokenizer: {{source: union}}}}
        ---
        {{method: linear, experts: [{tmp_path}/m1, both], tokenizer: {{source: both}}}}
    """
    options = {k: tmp_path / v if k == "out" else v for k, v in asked.items()}

    planned = registry.plan(recipe(text))
    registry.merge(recipe(text), **options)

    assert [(3, 2)] == [t.info.shape for t in planned.tasks]
    found = load(options.get("out") or registry.path("r"))["model.embed_tokens.weight"]
    assert [1.25, 1.25, 2.0] == found[:, 0].tolist()


def test_a_plan_has_every_stage_and_reads_none(
    models: dict[str, State], registry: Registry, recipe: Callable[[str], Path]
) -> None:
    plans = registry.plans(recipe(THREE))

    assert ["mean", "arc", None] == [name for name, _ in plans]
    assert ["linear", "slerp", "task_arithmetic"] == [p.method.name for _, p in plans]
    assert plans[-1][1].as_dict() == registry.plan(recipe(THREE)).as_dict()
    assert {"a", "b", "c"} == {v.name for v in registry.select()}


def test_a_dry_run_shows_stages_and_slices(
    models: dict[str, State],
    registry: Registry,
    zoo_path: Path,
    recipe: Callable[[str], Path],
) -> None:
    from zoo_cli.main import cli

    text = """
        {name: tall, method: passthrough, slices: [
            {sources: [{model: a, layers: [0, 2]}]},
            {sources: [{model: b, layers: [1, 2]}], parameters: {scale: 0.5}}]}
        ---
        {method: linear, experts: [tall, tall]}
    """
    registry.close()

    def run(*options: str) -> str:
        arguments = ["--registry", str(zoo_path), "merge", str(recipe(text)), "--dry-run", *options]
        result = CliRunner().invoke(cli, arguments)
        assert 0 == result.exit_code, result.output
        return result.stdout

    shown = run()
    assert "stage\ttall\n" in shown and "experts\ttall tall\n" in shown
    assert "layers   0-1 = a@1[0-1]  scale=[1.0]" in shown
    assert "layers   2-2 = b@1[1-1]  scale=[0.5]" in shown
    assert ["tall", None] == [s["name"] for s in json.loads(run("--json"))["stages"]]


MISTAKES = [
    (
        "{name: x, method: linear, experts: [a]}\n---\n{name: x, method: linear, experts: [b]}",
        "Two",
    ),
    ("{method: linear, experts: [a]}\n---\n{method: linear, experts: [b]}", "Two.*no `name`"),
    (
        "{name: x, method: linear, experts: [y]}\n---\n{name: y, method: linear, experts: [x]}",
        "wait",
    ),
    (
        "{name: x, method: linear, experts: [x]}\n---\n{method: linear, experts: [x]}",
        "`x` wait for",
    ),
    (
        "{name: 3, method: linear, experts: [a]}\n---\n{method: linear, experts: [b]}",
        "be text, not 3",
    ),
]


@pytest.mark.parametrize("text, message", MISTAKES, ids=lambda v: str(v)[:30])
def test_stages_that_cannot_run_are_refused(
    text: str,
    message: str,
    models: dict[str, State],
    registry: Registry,
    recipe: Callable[[str], Path],
) -> None:
    with pytest.raises(InvalidRecipe, match=message):
        registry.merge(recipe(text), name="m")


def test_options_are_for_one_merge(
    models: dict[str, State], registry: Registry, recipe: Callable[[str], Path]
) -> None:
    with pytest.raises(InvalidRecipe, match="3 stages, and `seed` is for one merge"):
        registry.merge(recipe(THREE), name="m", seed=4)


def test_a_document_that_is_one_of_several_is_still_a_recipe(
    models: dict[str, State], registry: Registry
) -> None:
    documents: list[Any] = list(yaml.safe_load_all(THREE))

    version = registry.merge(documents[0], name="only")

    assert version is not None and "linear" in version.source
