"""Models scored with parts of a task: overlays, and heads of experts."""

from __future__ import annotations

import json

import pytest
import torch

from zoo.errors import IncompatibleModels, InvalidRecipe, PluginError
from zoo.measuring.evaluation import evaluate
from zoo.networks.modules import save_module


@pytest.fixture
def family(add):
    """A base and two experts whose heads have other classes."""
    add("base", kind="base")
    add("expert-3", task="three", base="base", seed=1)
    add("expert-2", task="two", base="base", seed=2, classes=2)


@pytest.fixture
def merged(family, registry):
    """Their mean, with the head of the base."""
    return registry.merge(
        {
            "method": "linear",
            "experts": ["expert-3", "expert-2"],
            "base": "base",
            "exclude": ["head.*"],
        },
        name="merged",
    )


def accuracy(registry, trunk: str, head: str, task: str) -> float:
    """Of a trunk's hidden layer under another model's head, multiplied out."""
    x, y = registry.plugins.tasks[task].tensors("test")
    a, b = registry.load_state(trunk), registry.load_state(head)
    hidden = (x @ a["fc1.weight"].T + a["fc1.bias"]).relu()
    return float(((hidden @ b["head.weight"].T + b["head.bias"]).argmax(1) == y).double().mean())


def test_each_expert_gives_its_head_to_its_own_task(registry, merged):
    (found,) = registry.evaluate(
        ["merged"], tasks=["three", "two"], heads_from=["expert-2", "expert-3"]
    )

    assert accuracy(registry, "merged", "expert-3", "three") == found.metrics["accuracy/three"]
    assert accuracy(registry, "merged", "expert-2", "two") == found.metrics["accuracy/two"]


def test_the_head_is_part_of_the_protocol(registry, merged, add):
    add("other", task="three", seed=9)

    for head, known in (("expert-3", False), ("expert-3", True), ("other", False)):
        (found,) = evaluate(registry, ["merged"], tasks=["three"], heads_from=[head])
        assert known == found.was_known
        assert accuracy(registry, "merged", head, "three") == found.scores()["accuracy"]
    (own,) = evaluate(registry, ["merged"], tasks=["three"])

    assert not own.was_known
    assert accuracy(registry, "merged", "base", "three") == own.scores()["accuracy"]


def test_one_expert_serves_all_tasks(registry, merged):
    found = evaluate(registry, ["merged"], tasks=["three", "again"], heads_from=["expert-3"])

    assert [None, None] == [one.error for one in found]
    assert accuracy(registry, "merged", "expert-3", "again") == found[1].scores()["accuracy"]


def test_a_compressed_family_is_scored_as_the_model_of_each_task(registry, family):
    registry.compress(
        name="both", method="tall_masks", experts=["expert-3", "expert-2"], exclude=["head.*"]
    )

    (found,) = registry.evaluate(["both"])

    for task in ("three", "two"):
        module = registry.load("both", task=task)
        x, y = registry.plugins.tasks[task].tensors("test")
        with torch.no_grad():
            wanted = float((module(x).argmax(1) == y).double().mean())
        assert wanted == found.metrics[f"accuracy/{task}"]
    assert "accuracy" not in found.metrics


def test_a_compressed_family_is_measured_as_the_model_of_the_task(registry, family):
    registry.compress(
        name="both", method="tall_masks", experts=["expert-3", "expert-2"], exclude=["head.*"]
    )

    (found,) = registry.measure(["both", "expert-2"], metrics=["disagreement"], task="two")

    assert found.error is None
    x, _ = registry.plugins.tasks["two"].tensors("test")
    with torch.no_grad():
        answers = [
            module(x).argmax(1)
            for module in (registry.load("both", task="two"), registry.load("expert-2"))
        ]
    wanted = float((answers[0] != answers[1]).double().mean())
    assert wanted == {v.name: v.value for v in found.values}["disagreement"]


def test_a_family_kept_in_half_precision_is_run_in_float32(registry, mlp, network, tmp_path):
    for seed, name in enumerate(("base", "left", "right")):
        single = network(name, seed=seed)
        config = json.loads((single / "config.json").read_text())
        half = mlp.load(single).bfloat16()
        registry.register(
            save_module(half, config, tmp_path / "half" / name),
            name=name,
            kind="base" if name == "base" else "expert",
            task={"left": "three", "right": "again"}.get(name),
            base=None if name == "base" else "base",
        )
    registry.compress(name="both", method="tall_masks", experts=["left", "right"])

    (scored,) = evaluate(registry, ["both"], tasks=["three"])
    (measured,) = registry.measure(["both", "left"], metrics=["disagreement"], task="three")

    assert torch.bfloat16 == registry.load_state("both")["head.weight"].dtype
    assert (None, None) == (scored.error, measured.error)


def test_heads_that_cannot_be_taken_are_refused(registry, merged, add, network, monkeypatch):
    add("wide", task="three", width=6)
    add("plain")
    add("twin", task="three", seed=5)

    def fails(error, said, *heads, tasks=("three",)):
        with pytest.raises(error, match=said):
            registry.evaluate(["merged"], tasks=tasks, heads_from=heads)

    fails(IncompatibleModels, r"takes \(6,\) features, and the model has \(5,\)", "wide")
    fails(InvalidRecipe, "registered without a task", "plain", "expert-3")
    fails(InvalidRecipe, "gives the head of `three` already", "twin", "expert-3")
    fails(InvalidRecipe, "for task `again`", "expert-2", "expert-3", tasks=("three", "again"))
    architecture = registry.plugins.architectures["zoo_mlp"]
    monkeypatch.setattr(type(architecture), "head", lambda self, config: None)
    fails(PluginError, "does not say what its head is", "expert-3")
    assert {} == registry.get("merged").metrics


def test_a_head_of_another_architecture_is_refused(registry, merged, tmp_path):
    from zoo.networks.modules import save_module

    config = {
        "model_type": "zoo_cnn", "channels": 1, "size": 4, "width": 2, "depth": 1, "hidden": 5,
        "classes": 3, "norm": "none",
    }  # fmt: skip
    module = registry.plugins.architectures["zoo_cnn"].build(config)
    registry.register(save_module(module, config, tmp_path / "cnn"), name="cnn", task="three")

    with pytest.raises(IncompatibleModels, match="`zoo_cnn` and `zoo_mlp`"):
        registry.evaluate(["merged"], tasks=["three"], heads_from=["cnn"])
