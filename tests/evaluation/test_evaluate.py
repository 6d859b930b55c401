"""`Registry.evaluate`: what is recorded, under which protocol, and what is run again."""

from __future__ import annotations

import json

import pytest
import torch

import zoo
from zoo.errors import InvalidRecipe, NotFound, PluginError
from zoo.measuring.evaluation import evaluate
from zoo.networks.modules import save_module
from zoo.sample import Sample


@pytest.fixture
def runs(registry, monkeypatch):
    """Counts the evaluations of each task."""
    count: dict[str, int] = {}
    for name in ("three", "again", "two"):
        task = registry.plugins.tasks[name]

        def counted(module, sample, run=task.evaluate, name=name):
            count[name] = count.get(name, 0) + 1
            return run(module, sample)

        monkeypatch.setattr(task, "evaluate", counted)
    return count


def accuracy(registry, module, task, rows=slice(None)) -> float:
    """Worked out apart from zoo's scores."""
    x, y = registry.plugins.tasks[task].tensors("test")
    with torch.no_grad():
        return float((module(x[rows]).argmax(1) == y[rows]).double().mean())


def test_scores_are_recorded_under_the_task_and_its_own_under_the_bare_name(registry, add):
    add("expert", task="three")

    (found,) = registry.evaluate(["expert"], tasks=["three", "again"])

    module = registry.load("expert")
    own, other = (accuracy(registry, module, t) for t in ("three", "again"))
    assert own == found.metrics["accuracy"] == found.metrics["accuracy/three"]
    assert other == found.metrics["accuracy/again"] and other != own
    assert {"a", "b", "c", "three/a", "again/c"} <= {
        name.partition("/")[2] for name in found.metrics if name.startswith("class_accuracy")
    }
    assert [found] == registry.select(f"accuracy > {own - 0.01} and metric.'loss'.'again' > 0")


def test_a_value_carries_protocol_data_set_and_tool(registry, add):
    version = add("expert", task="three")

    registry.evaluate(["expert"], samples=20, seed=3)

    kept = {(v.name, v.split): v for v in registry.catalog.measured(version.id)}
    value = kept["accuracy", ""]
    assert {
        "metric": "scores",
        "version": "1.0.0",
        "parameters": {},
        "task": "three",
        "data": registry.plugins.tasks["three"].digest("test"),
        "split": "test",
        "samples": 20,
        "batch": 256,
        "seed": 3,
        "examples": 20,
    } == value.protocol
    assert "three" == value.dataset and value.tool.startswith("zoo-registry ")
    assert torch.__version__ == value.environment["torch"]


def test_the_same_protocol_gives_the_same_values(registry, add):
    version = add("expert", task="three")

    registry.evaluate(["expert"], samples=30, seed=1)
    first = registry.catalog.measured(version.id)
    registry.evaluate(["expert"], samples=30, seed=1, force=True)

    assert first == registry.catalog.measured(version.id)


def test_what_is_recorded_is_not_run_again_unless_forced(registry, add, runs):
    add("expert", task="three")

    evaluate(registry, ["expert"])
    (again,) = evaluate(registry, ["expert"])
    assert {"three": 1} == runs and again.was_known
    assert again.version.metrics["accuracy"] == again.scores()["accuracy"]
    assert "c" in {v.split for v in again.values}

    (forced,) = evaluate(registry, ["expert"], force=True)
    assert {"three": 2} == runs and not forced.was_known
    assert forced.scores() == again.scores()


@pytest.mark.parametrize("other", [{"samples": 10}, {"seed": 4}, {"batch": 7}, {"split": "train"}])
def test_another_protocol_is_run(registry, add, runs, other):
    add("expert", task="three")
    registry.evaluate(["expert"])
    registry.evaluate(["expert"], **other)

    assert {"three": 2} == runs


def test_what_was_replaced_by_another_protocol_is_run_again(registry, add, runs):
    """A small sample lacks classes, whose accuracy is then left over from the larger one."""
    add("expert", task="three")
    for samples in (None, 1, None):
        (found,) = registry.evaluate(["expert"], samples=samples)

    assert {"three": 3} == runs
    assert accuracy(registry, registry.load("expert"), "three") == found.metrics["accuracy"]


def test_a_changed_data_set_is_another_protocol(registry, add, runs):
    add("expert", task="three")
    registry.evaluate(["expert"])
    task = registry.plugins.tasks["three"]
    _, y = task.tensors("test")
    task._kept["test"] = task._kept["test"]._replace(targets=(y + 1) % 3)
    task._digests["test"] = "sha256:" + "0" * 64

    registry.evaluate(["expert"])

    assert {"three": 2} == runs


def test_another_split_has_a_place_of_its_own(registry, add):
    add("expert", task="three")

    (found,) = registry.evaluate(["expert"], split="train")

    assert "accuracy/three:train" in found.metrics and "accuracy" not in found.metrics


def test_a_killed_run_goes_on_where_it_was(registry, add, runs, monkeypatch):
    for i in range(3):
        add(f"expert-{i}", task="three", seed=i)
    task = registry.plugins.tasks["three"]
    whole = task.evaluate

    def dies(module, sample):
        if runs.get("three") == 2:
            raise KeyboardInterrupt
        return whole(module, sample)

    monkeypatch.setattr(task, "evaluate", dies)
    with pytest.raises(KeyboardInterrupt):
        registry.evaluate(where="kind = 'expert'")
    assert 2 == len(registry.select("accuracy >= 0"))

    monkeypatch.setattr(task, "evaluate", whole)
    registry.evaluate(where="kind = 'expert'")

    assert {"three": 3} == runs
    assert 3 == len(registry.select("accuracy >= 0"))


def test_nothing_of_a_task_is_recorded_when_its_recording_fails(registry, add, monkeypatch):
    from zoo.catalog import additions

    version = add("expert", task="three")
    row = additions.metric_row

    def fails(metric, at):
        if metric.name == "calibration_error":
            raise RuntimeError("the disk is full")
        return row(metric, at)

    monkeypatch.setattr(additions, "metric_row", fails)
    with pytest.raises(RuntimeError):
        registry.evaluate(["expert"])

    assert [] == registry.catalog.measured(version.id)


def test_one_failure_is_told_and_the_others_go_on(registry, add):
    add("good", task="three")
    add("bad", task="two")  # its head is for three classes
    add("late", task="again")

    found = evaluate(registry, where="kind = 'expert'", order_by="name desc")

    assert ["late@1", "good@1", "bad@1"] == [one.label for one in found]
    assert [None, None] == [one.error for one in found[:2]]
    assert "task `two` has 2 labels" in str(found[2].error)
    assert {} == registry.get("bad").metrics

    with pytest.raises(zoo.ZooError, match="2 labels"):
        registry.evaluate(where="kind = 'expert'", force=True)


def test_torch_is_back_on_its_threads(registry, add):
    add("expert", task="three")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        registry.evaluate(["expert"])
        assert 2 == torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def test_a_path_is_scored_and_not_recorded(registry, network):
    directory = network("loose")

    (found,) = evaluate(registry, [str(directory)], tasks=["three"])

    module = registry.load(directory)
    assert accuracy(registry, module, "three") == found.scores()["accuracy"]
    assert found.version is None and not found.as_dict()["recorded"]
    assert [] == registry.select()
    assert [] == registry.evaluate([str(directory)], tasks=["three"])


class Told:
    """Remembers what progress was told."""

    def __init__(self):
        self.said = []

    def start(self, total_bytes, label):
        self.said.append([label, total_bytes, 0])

    def advance(self, nbytes):
        self.said[-1][2] += nbytes

    def done(self):
        pass


def test_progress_counts_examples(registry, add):
    add("expert", task="three")
    told = Told()

    registry.evaluate(["expert"], tasks=["three", "again"], batch=16, progress=told)
    registry.evaluate(["expert"], samples=25, progress=told)

    assert [
        ["expert@1 on three", 60, 60],
        ["expert@1 on again", 60, 60],
        ["expert@1 on three", 25, 25],
    ] == told.said


# What cannot be done


def test_errors_say_what_is_wrong_and_nothing_is_recorded(registry, add, network, tmp_path):
    add("expert", task="three")
    add("plain")
    broken = network("broken", width=3)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "model_type": "unheard-of"}))
    registry.register(broken, name="unknown", task="three")

    for asked, error, said in (
        ({"refs": ["expert"], "tasks": ["thre"]}, NotFound, "three"),
        ({"refs": ["expert"], "split": "tset"}, NotFound, "`test`"),
        ({"refs": ["expert"], "samples": 0}, InvalidRecipe, "1 or more"),
        ({"refs": ["expert"], "device": "moon"}, InvalidRecipe, "moon"),
        ({"refs": ["expert"], "where": "kind = 'expert'"}, InvalidRecipe, "one of the two"),
        ({}, InvalidRecipe, "one of the two"),
        ({"where": "task = 'none'"}, NotFound, "No version fits"),
        ({"refs": ["plain"]}, InvalidRecipe, "no task of its own"),
        ({"refs": ["unknown"]}, PluginError, "unheard-of"),
        ({"refs": ["nobody"], "tasks": ["three"]}, NotFound, "nobody"),
    ):
        with pytest.raises(error, match=said):
            registry.evaluate(asked.pop("refs", None), **asked)
    assert all(not v.metrics for v in registry.select())


def test_inputs_of_another_shape_are_told(registry, add):
    add("wide", task="three", inputs=9)

    (found,) = evaluate(registry, ["wide"])

    assert "`wide@1` cannot be run on task `three`" in str(found.error)
    assert 6 == found.error.exit_code


def test_data_that_is_gone_is_told_before_anything_is_run(registry, add, runs, monkeypatch):
    add("expert", task="three")

    def missing(split):
        raise FileNotFoundError(2, "no such file", "points.npz")

    monkeypatch.setattr(registry.plugins.tasks["again"], "_read", missing)
    with pytest.raises(zoo.ZooError, match=r"points\.npz"):
        registry.evaluate(["expert"], tasks=["three", "again"])

    assert {} == runs


def test_a_task_of_other_scores_records_those(registry, add):
    class Upscaling(zoo.Task):
        name = "psnr-like"

        def batches(self, split, size=256):
            yield torch.zeros(2, 4), torch.zeros(2, 3)

        def evaluate(self, module, sample: Sample):
            for x, y in sample.batches():
                error = float((module(x) - y).square().mean())
            return [
                zoo.MetricValue("error", error),
                zoo.MetricValue("error", 2 * error, split="noise1"),
                zoo.MetricValue("ratio", float("nan")),
            ]

    registry.plugins.tasks["psnr-like"] = Upscaling()
    add("expert", task="psnr-like")

    (found,) = registry.evaluate(["expert"])
    (again,) = evaluate(registry, ["expert"])

    assert {"error", "error/psnr-like", "error/noise1", "error/psnr-like/noise1"} == set(
        found.metrics
    )
    assert again.was_known and 2 * again.scores()["error"] == found.metrics["error/noise1"]


def test_a_version_whose_base_is_gone_is_still_run(registry, add):
    add("base", kind="base", seed=1)
    add("expert", task="three", base="base")
    registry.remove("base")
    registry.gc()

    (found,) = registry.evaluate(["expert"])

    assert 0 <= found.metrics["accuracy"] <= 1


def test_a_task_that_is_given_later_gets_the_bare_names(registry, add, runs):
    add("expert")
    registry.evaluate(["expert"], tasks=["three", "again"])

    for task in ("three", "again"):
        found = registry.annotate("expert", task=task)

        assert found.metrics["accuracy"] == found.metrics[f"accuracy/{task}"]
        assert found.metrics["class_accuracy/a"] == found.metrics[f"class_accuracy/{task}/a"]
        assert [found] == registry.evaluate(["expert"])
    assert {"three": 1, "again": 1} == runs


def test_a_task_that_is_taken_back_keeps_no_bare_names(registry, add):
    add("expert", task="three")
    registry.annotate("expert", metrics={"size": 3.0})
    registry.evaluate(["expert"])
    registry.evaluate(["expert"], split="train")

    found = registry.annotate("expert", task="again")

    assert "accuracy" not in found.metrics
    assert 3.0 == found.metrics["size"]
    assert {"three", "three:train"} == {
        v.split for v in registry.catalog.measured(found.id) if v.name == "accuracy"
    }
    assert not registry.catalog.check_audit()


@pytest.mark.parametrize(
    "error", [KeyError("hidden_size"), AssertionError("width"), OverflowError()]
)
def test_an_architecture_that_fails_is_told(registry, add, monkeypatch, error):
    add("expert", task="three")

    def fails(self, directory):
        raise error

    monkeypatch.setattr(type(registry.plugins.architectures["zoo_mlp"]), "load", fails)
    (found,) = evaluate(registry, ["expert"])

    assert f"`expert@1` cannot be loaded: {type(error).__name__}: {error}" in str(found.error)


@pytest.mark.parametrize("error", [AssertionError("width"), ZeroDivisionError("0")])
def test_a_task_that_fails_on_a_model_is_told(registry, add, monkeypatch, error):
    add("expert", task="three")

    def fails(outputs, targets):
        raise error

    monkeypatch.setattr(zoo.measuring.scores, "check_outputs", fails)
    (found,) = evaluate(registry, ["expert"])

    assert "`expert@1` cannot be run on task `three`" in str(found.error)
    assert not registry.get("expert").metrics


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_any_type_are_run_in_float32(registry, mlp, network, tmp_path, dtype):
    plain = network("plain")
    config = json.loads((plain / "config.json").read_text())
    other = save_module(mlp.load(plain).to(dtype), config, tmp_path / "other")
    for directory in (plain, other):
        registry.register(directory, name=directory.name, task="three")

    registry.evaluate(["plain", "other"])

    first, second = (registry.get(n).metrics["loss"] for n in ("plain", "other"))
    assert first == pytest.approx(second, abs=1e-2)
    assert {dtype} == {t.dtype for t in registry.load_state("other").values()}
