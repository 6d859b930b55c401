"""The lm-evaluation-harness as tasks, with a stand-in for the library."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from zoo import Sample
from zoo.errors import IncompatibleModels, NotFound, PluginError

RESULTS = {
    "alias": "colours",
    "sample_len": 4,
    "acc,none": 0.5,
    "acc_stderr,none": 0.25,
    "acc_norm,none": 0.75,
    "acc_norm_stderr,none": "N/A",
    "exact_match,strict-match": 0.125,
    "exact_match_stderr,strict-match": 0.0625,
}


@pytest.fixture
def harness(monkeypatch):
    """The calls of `lm_eval` and `transformers` that are made, and what they were given."""
    calls = SimpleNamespace(asked=None, model=None)

    def simple_evaluate(**options):
        calls.asked = options
        if isinstance(calls.model["pretrained"], Model):
            calls.heard = calls.model["pretrained"]("tokens")
        return {"results": {"colours": RESULTS}}

    def module(name, **contents):
        made = ModuleType(name)
        made.__dict__.update(contents)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    def model(**options):
        calls.model = options
        return "the model"

    manager = SimpleNamespace(all_tasks=["colours", "numbers"])
    tasks = module("lm_eval.tasks", TaskManager=lambda include_path: manager)
    module("lm_eval", simple_evaluate=simple_evaluate, tasks=tasks)
    module("lm_eval.models")
    module("lm_eval.models.huggingface", HFLM=model)
    tokenizer = SimpleNamespace(from_pretrained=lambda place: f"tokenizer of {place}")
    module("transformers", AutoTokenizer=tokenizer)
    return calls


class Model(torch.nn.Module):
    name_or_path = "/models/one"

    def forward(self, *given, **named):
        return given, named


def test_scores_of_the_harness_are_values(registry, harness):
    task = registry.task("lm_eval:colours")

    found = task.evaluate(Model(), Sample(task, count=4, batch=8, seed=3))

    assert [
        ("accuracy", "", 0.5, 0.25),
        ("acc_norm", "", 0.75, None),
        ("exact_match", "strict-match", 0.125, 0.0625),
    ] == [(v.name, v.split, v.value, v.stderr) for v in found]


def test_the_harness_is_asked_with_the_sample_s_protocol(registry, harness):
    task, module = registry.task("lm_eval:colours"), Model()

    task.evaluate(module, Sample(task, count=4, batch=8, seed=3))

    assert module is harness.model["pretrained"]
    assert ("tokenizer of /models/one", 8, "cpu") == tuple(
        harness.model[k] for k in ("tokenizer", "batch_size", "device")
    )
    assert (["colours"], 4) == (harness.asked["tasks"], harness.asked["limit"])
    assert ((), {"input_ids": "tokens"}) == harness.heard
    assert (("tokens",), {}) == module("tokens")
    assert {3} == {v for k, v in harness.asked.items() if k.endswith("seed")}


def test_a_task_the_harness_lacks_is_named_with_the_nearest(registry, harness):
    task = registry.task("lm_eval:colour")

    with pytest.raises(NotFound, match=r"no task `colour`. Did you mean `colours`"):
        task.evaluate(Model(), Sample(task))


def test_a_model_without_a_place_has_no_tokenizer(registry, harness):
    task = registry.task("lm_eval:colours")

    with pytest.raises(IncompatibleModels, match="`Linear` does not say where"):
        task.evaluate(torch.nn.Linear(1, 1), Sample(task))


def test_without_the_library_the_message_says_how_to_get_it(registry, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    task = registry.task("lm_eval:colours")

    with pytest.raises(PluginError, match=r"pip install .lm_eval"):
        task.evaluate(Model(), Sample(task))
    with pytest.raises(PluginError, match="gives no batches"):
        task.batches("test")
