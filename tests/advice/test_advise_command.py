"""`zoo advise` on a registry: what is recorded counts, and what is missing is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from zoo_cli.main import cli

import zoo
from zoo.advice.advise import Pair
from zoo.advice.records import gathered
from zoo.records import MetricValue


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A base, and experts `a`, `b` and `c` of it, for tasks of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOO_REGISTRY", raising=False)
    with zoo.open("registry.db") as opened:
        for i, name in enumerate(("base", "a", "b", "c")):
            source = Path(f"{name}.safetensors")
            draw = torch.Generator().manual_seed(i)
            save_file({"w": torch.randn(4, 3, generator=draw)}, source)
            kind = {"kind": "base"} if name == "base" else {"base": "base"}
            opened.register(source, name=name, task=f"task-{name}", **kind)
        yield opened


def record(registry, a, b, **values):
    """Keep metrics of a pair; `NAME__SPLIT` for one of a split."""
    ids = [registry.get(ref).id for ref in (a, b)]
    named = ((*key.split("__"), "")[:2] for key in values)
    registry.catalog.record_group_metrics(
        ids,
        [MetricValue(n, v, split=s) for (n, s), v in zip(named, values.values(), strict=True)],
    )


def run(*args):
    return CliRunner().invoke(cli, ["advise", *args], prog_name="zoo")


def test_recorded_metrics_decide(registry):
    record(registry, "a", "b", error_barrier=0.5, task_vector_cosine=0.1)
    record(registry, "b", "c", error_barrier=0.0, task_vector_cosine=0.1)

    result = run("--where", "kind = 'expert'", "--json")

    assert 0 == result.exit_code, result.output
    told = json.loads(result.stdout)
    assert ["b@1", "c@1"] == told["sets"][0]["experts"]
    assert "task_arithmetic" == told["sets"][0]["method"]
    assert {"lambda": 0.5} == told["sets"][0]["parameters"]
    assert ["a@1", "b@1"] in [s["experts"] for s in told["sets"][-2:]]
    assert [
        "zoo measure --where \"kind = 'expert'\" --metric task_vector --metric task_vectors",
        *(
            f"zoo measure --where \"kind = 'expert'\" --metric barrier --metric cka --task task-{t}"
            for t in "abc"
        ),
    ] == told["measure"]


def test_people_are_told_why_and_what_to_run(registry):
    record(registry, "a", "b", error_barrier=0.0, task_vector_cosine=0.6, sign_agreement=0.7)

    result = run("a", "b")

    assert 0 == result.exit_code, result.output
    assert "linear" in result.stdout
    assert "Their task vectors point the same way (mean cosine 0.60)" in result.stderr
    assert "zoo merge --method linear --expert a@1 --expert b@1 --as NAME" in result.stderr
    assert "zoo measure a@1 b@1 --metric task_vector --metric task_vectors" in result.stderr


def test_of_several_tasks_the_highest_barrier_counts_and_parts_do_not(registry):
    recorded = {
        "error_barrier__task-a": 0.1,
        "error_barrier__task-b": 0.2,
        "error_barrier__task-c": 0.9,
        "error_barrier__task-a/x": 0.7,
        "cka__task-a:train": 0.1,
        "cka__other": 0.4,
        "sign_agreement__fc1": 0.9,
        "sign_agreement": 0.6,
    }
    record(registry, "a", "b", **recorded)

    _, pairs = gathered(registry, [registry.get("a"), registry.get("b")])

    expected = Pair(error_barrier=0.2, cka=0.4, sign_agreement=0.6)
    assert {frozenset(("a@1", "b@1")): expected} == pairs


def test_experts_carry_what_is_recorded_of_them(registry):
    registry.annotate(
        "a", metrics={"accuracy": 0.75, "task_vector_relative_norm": 2.5}, phase="IV-B"
    )

    (expert,), _ = gathered(registry, [registry.get("a")])

    assert ("a@1", "base@1", "task-a", "IV-B", 0.75, 2.5) == (
        expert.ref, expert.base, expert.task, expert.phase, expert.accuracy, expert.length,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        ((), 2, "--where"),
        (("a", "--where", "true"), 2, "one of the two"),
        (("a",), 8, "1 expert"),
        (("--where", "name = 'q'"), 3, "No expert fits"),
        (("--where", "kind = 'base'"), 3, "bases and adapters"),
        (("a", "b", "--task", "task-a", "--task", "task-q"), 3, "task-q"),
    ],
)
def test_mistakes_are_told(args, code, said, registry):
    result = run(*args)

    assert code == result.exit_code, result.output
    assert said in result.output + result.stderr


def test_a_barrier_counts_only_where_its_unit_is_known(registry):
    from zoo.task import Task

    class Squares(Task):
        name = "squares"

        def batches(self, split, size=256):
            return []

        def loss(self, outputs, targets):
            return (outputs - targets).square().mean()

    registry.plugins.tasks["squares"] = Squares()
    ids = [registry.get(ref).id for ref in ("a", "b")]
    for task in ("squares", "gone"):
        value = MetricValue("barrier", 0.01, split=task, dataset=task)
        registry.catalog.record_group_metrics(ids, [value])
    assert Pair() == gathered(registry, [registry.get("a"), registry.get("b")])[1].get(
        frozenset(("a@1", "b@1")), Pair()
    )

    value = MetricValue("barrier", 0.02, split="digits", dataset="digits")
    registry.catalog.record_group_metrics(ids, [value])
    (pair,) = gathered(registry, [registry.get("a"), registry.get("b")])[1].values()
    assert Pair(barrier=0.02) == pair
