"""Growing populations on the shipped digits: whole models or none, each once."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import zoo
from zoo.errors import (
    IncompatibleModels,
    InvalidRecipe,
    NotFound,
    PluginError,
)
from zoo.grow import training
from zoo.grow.estimate import estimate
from zoo.grow.training import TrainingPlan, fresh, train
from zoo.metrics import metric
from zoo.plugins import load_plugins
from zoo.records import MetricValue

PLAN = {
    "name": "tiny",
    "architecture": {
        "model_type": "zoo_mlp",
        "inputs": 64,
        "width": 4,
        "depth": 1,
        "classes": 10,
        "activation": "relu",
    },
    "task": "digits",
    "train": {"lr": 0.1, "epochs": 2, "data": 0.1},
    "grid": {"width": [2, 8], "seed": [0, 1]},
}


@metric("weights_norm", version="1.0.0", gives={"weights_norm": "2-norm of all weights"})
def weights_norm(model) -> Iterator[MetricValue]:
    total = sum(float((t.double() ** 2).sum()) for t in model.state().values())
    yield MetricValue("weights_norm", total**0.5)


@metric(
    "like_phase_4b",
    version="1.0.0",
    arity=2,
    needs="data",
    split="train",
    gives={"mode_connectivity": "no barrier at all", "cka": "alike in all"},
)
def like_phase_4b(models, sample) -> Iterator[MetricValue]:
    yield MetricValue("mode_connectivity", 0.5)
    yield MetricValue("cka", 1.0)


@metric("needs_a_base", version="1.0.0", base=True, gives={"distance": "from the base"})
def needs_a_base(model) -> Iterator[MetricValue]:
    yield MetricValue("distance", 0.0)


@pytest.fixture(scope="module")
def plugins():
    found = load_plugins()
    for one in (weights_norm, like_phase_4b, needs_a_base):
        found.metrics[one.name] = one
    return found


@pytest.fixture
def registry(tmp_path, plugins):
    with zoo.open(tmp_path / "registry.db", plugins=plugins) as found:
        yield found


def test_a_grown_model_is_a_version_with_the_whole_record_of_its_training(registry):
    grown = registry.grow({**PLAN, "keep": {"epochs": [1]}}, jobs=1)
    first, last = (registry.get(ref) for ref in grown.members[-1].versions)

    assert () == grown.problems
    assert ("tiny/width8-seed1@1", "tiny/width8-seed1@2") == (first.ref, last.ref)
    assert ("digits", "zoo_mlp", "expert") == (last.task, last.architecture, last.kind)
    tags = last.tags
    assert ("8", "1", "2", "yes") == tuple(
        tags[f"grow.{key}"] for key in ("width", "seed", "epoch", "last")
    )
    assert ("1", "no") == (first.tags["grow.epoch"], first.tags["grow.last"])
    assert {"grow:tiny"} == {first.source, last.source}
    assert (grown.plan.digest, "tiny", "width8") == tuple(
        tags[f"grow.{key}"] for key in ("plan", "name", "cell")
    )
    record = json.loads((registry.path(last.ref) / "training.json").read_text())
    assert record["train_accuracy"] == last.metrics["train_accuracy"]
    assert [1, 2] == [e["epoch"] for e in record["epochs"]]
    assert (144, 0.1) == (record["examples"], record["plan"]["lr"])
    assert "torch" in record["environment"]
    early = json.loads((registry.path(first.ref) / "training.json").read_text())
    assert record["epochs"][:1] == early["epochs"]
    assert "train_loss" not in early
    assert 0 < last.metrics["accuracy"] <= 1


def test_the_weights_are_those_that_training_by_hand_gives(registry, plugins):
    grown = registry.grow(PLAN, jobs=1)
    config = {**PLAN["architecture"], "width": 8}
    module = fresh(lambda: plugins.architectures["zoo_mlp"].build(config), 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(module, plugins.tasks["digits"], TrainingPlan.read(PLAN["train"]), seed=1)
    torch.set_num_threads(threads)

    state = zoo.load_state(grown.members[-1].versions[-1], registry=registry)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_grown_twice_nothing_is_made_again_and_a_larger_grid_adds_what_is_new(registry):
    registry.grow(PLAN, jobs=1)
    again = registry.grow(PLAN, jobs=1)
    larger = {**PLAN, "grid": {"width": [2, 8], "seed": [0, 1, 2]}}
    more = registry.grow(larger, jobs=1)

    assert [True] * 4 == [g.was_there for g in again.members]
    assert [True, True, False] * 2 == [g.was_there for g in more.members]
    assert [1] * 6 == [v.version for v in registry.select("name like 'tiny/%'")]


def test_another_training_under_the_same_name_is_a_new_version(registry):
    registry.grow(PLAN, jobs=1)
    other = registry.grow({**PLAN, "train": {**PLAN["train"], "lr": 0.2}}, jobs=1)

    assert [(f"{g.name}@2",) for g in other.members] == [g.versions for g in other.members]


def test_several_processes_make_the_same_models_as_one(registry, tmp_path):
    alone = registry.grow(PLAN, jobs=1)
    with zoo.open(tmp_path / "other.db") as other:
        together = other.grow(PLAN, jobs=2)
        expected = [registry.get(g.versions[-1]).digest for g in alone.members]

        assert () == together.problems
        assert expected == [other.get(g.versions[-1]).digest for g in together.members]


KILLED = """
    import os, signal, sys
    import torch, zoo, zoo.grow.training

    torch.set_num_threads(1)
    save, saved = zoo.grow.training._save, []

    def save_and_die(*arguments):
        save(*arguments)
        saved.append(1)
        if len(saved) == 3:  # two epochs of the first model, and one of the second
            os.kill(os.getpid(), signal.SIGKILL)

    zoo.grow.training._save = save_and_die
    zoo.open(sys.argv[1]).grow(sys.argv[2], jobs=1)
"""


def test_a_killed_run_leaves_whole_models_and_goes_on_where_it_was(registry, tmp_path, plugins):
    import yaml

    plan = {**PLAN, "grid": {"width": [2, 4]}}
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(plan))
    command = [sys.executable, "-c", textwrap.dedent(KILLED), tmp_path / "killed.db", path]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert -9 == killed.returncode, killed.stderr
    straight = registry.grow(plan, jobs=1)
    with zoo.open(tmp_path / "killed.db", plugins=plugins) as other:
        left = [v.ref for v in other.select("name like 'tiny/%'")]
        trained: list[int] = []
        epoch = training._epoch

        def counted(*arguments):
            trained.append(1)
            return epoch(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "_epoch", counted)
            resumed = other.grow(plan, jobs=1)

        assert ["tiny/width2-seed0@1"] == left
        assert [1] == trained
        assert [True, False] == [g.was_there for g in resumed.members]
        expected = [registry.get(g.versions[-1]).digest for g in straight.members]
        assert expected == [other.get(g.versions[-1]).digest for g in resumed.members]
        assert not list((Path(other.store.root) / "staging").iterdir())
        assert other.fsck().ok


def test_a_model_that_diverges_is_told_and_the_others_stand(registry):
    plan = {**PLAN, "grid": {"lr": [0.1, 1e30]}}
    grown = registry.grow(plan, jobs=1)

    assert [1, 0] == [len(g.versions) for g in grown.members]
    (problem,) = grown.problems
    assert problem.startswith("tiny/lr1e_30-seed0: Training on `digits` diverged")
    assert 1 == len(registry.select("name like 'tiny/%'"))


def test_metrics_are_of_each_model_and_of_the_pairs_within_each_cell(registry):
    asked = [{"metric": "weights_norm"}, {"metric": "like_phase_4b", "samples": 20}]
    plan = {**PLAN, "grid": {"width": [2, 8], "seed": [0, 1, 2]}, "measure": asked}
    grown = registry.grow(plan, jobs=1)
    ids = [registry.get(g.versions[-1]).id for g in grown.members]

    assert all(registry.get(g.versions[-1]).metrics["weights_norm"] > 0 for g in grown.members)
    assert ["width2", "width8"] == [cell.name for cell in grown.cells]
    assert registry.catalog.group_metrics([ids[0], ids[2]])
    assert not registry.catalog.group_metrics([ids[0], ids[3]])


def test_a_grown_zoo_has_phases_and_is_selected_and_merged_by_them(registry):
    plan = {
        **PLAN,
        "train": {"lr": 0.1, "epochs": 15, "batch": 16},
        "grid": {"width": [2, 32], "seed": [0, 1]},
        "evaluate": [{}, {"split": "train"}],
        "measure": [{"metric": "weights_norm"}, {"metric": "like_phase_4b"}],
        "phases": {"rule": "mine", "thresholds": {"loss": 0.3}},
    }
    grown = registry.grow(plan, jobs=1)
    chosen = "phase = 'IV-B' and weights_norm < 100 and accuracy > 0.9"
    merged = registry.merge(method="linear", where=chosen, name="merged")

    assert ["II", "II", "IV-B", "IV-B"] == list(grown.phases.values())
    names = ["tiny/width32-seed0", "tiny/width32-seed1"]
    assert names == sorted(v.name for v in registry.select(f"{chosen} and kind = 'expert'"))
    parents = registry.catalog.run_of(merged.id).inputs
    assert 2 == len(parents)


def test_the_phase_is_told_by_the_loss_on_what_was_trained_on(registry):
    noisy = {
        **PLAN,
        "train": {**PLAN["train"], "label_noise": 0.5},
        "grid": {"seed": [0, 1]},
        "evaluate": [{"split": "train"}],
        "measure": [{"metric": "like_phase_4b"}],
        "phases": {},
    }
    grown = registry.grow(noisy, jobs=1)
    members = [registry.get(g.versions[-1]) for g in grown.members]
    (confidence,) = (
        m for m in registry.catalog.measured(members[0].id) if m.name == "phase_confidence"
    )

    expected = sum(v.metrics["train_loss"] for v in members) / 2
    assert expected == pytest.approx(confidence.protocol["train_loss"])
    clean = sum(v.metrics["loss/digits:train"] for v in members) / 2
    assert clean != pytest.approx(expected, rel=1e-4)


def test_phases_that_cannot_be_told_are_a_problem_and_the_models_stand(registry):
    grown = registry.grow({**PLAN, "phases": {"rule": "nobodys"}}, jobs=1)

    (problem,) = grown.problems
    assert problem.startswith("phases: There is no rule of phases `nobodys`")
    assert 4 == len(registry.select("name like 'tiny/%'"))


def test_an_estimate_counts_models_steps_and_what_is_there(registry):
    registry.grow(PLAN, jobs=1)
    wider = {**PLAN, "grid": {"width": [2, 8, 9], "seed": [0, 1]}}
    found = estimate(registry, wider, jobs=1)

    # 144 examples in batches of 64 are 3 steps an epoch.
    assert (6, 3, 4, 2 * 2 * 3, 1) == (
        found.models,
        found.cells,
        found.there,
        found.steps,
        found.jobs,
    )
    assert found.training > 0
    assert 6 == len(registry.select("name like 'tiny/%'")) + 2


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"task": "digit"}, NotFound, "Did you mean `digits`"),
        ({"evaluate": {"tasks": ["digist"]}}, NotFound, "Did you mean `digits`"),
        ({"evaluate": {"split": "tset"}}, InvalidRecipe, "Did you mean `test`"),
        (
            {"measure": [{"metric": "weights_norm", "split": "tran"}]},
            InvalidRecipe,
            "Did you mean `train`",
        ),
        ({"train": {"split": "trian"}}, InvalidRecipe, "Did you mean `train`"),
        ({"architecture": {"model_type": "zoo_mpl"}}, PluginError, "Did you mean `zoo_mlp`"),
        ({"grid": {"widht": [2]}}, InvalidRecipe, "Did you mean `width`"),
        ({"grid": {"bacth": [2]}}, InvalidRecipe, "Did you mean `batch`"),
        ({"grid": {"inputs": [63]}}, IncompatibleModels, "does not run on task `digits`"),
        ({"grid": {"classes": [9]}}, IncompatibleModels, "10 labels"),
        ({"measure": [{"metric": "weight_norm"}]}, InvalidRecipe, "Did you mean `weights_norm`"),
        ({"measure": [{"metric": "needs_a_base"}]}, InvalidRecipe, "grown from nothing"),
        (
            {"grid": {"width": [2]}, "measure": [{"metric": "like_phase_4b"}]},
            InvalidRecipe,
            "a cell has 1",
        ),
        (
            {"measure": [{"metric": "weights_norm", "parameters": {"probes": 3}}]},
            InvalidRecipe,
            "Unknown parameter `probes`",
        ),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused_before_anything_is_trained(
    registry, changes, error, said
):
    with pytest.raises(error, match=said):
        registry.grow({**PLAN, **changes}, jobs=1)
    assert [] == registry.select()


def test_less_than_one_job_is_refused(registry):
    with pytest.raises(InvalidRecipe, match="0 jobs"):
        registry.grow(PLAN, jobs=0)


def test_the_shipped_plan_can_be_carried_out(registry):
    from zoo.grow.plan import read_plan
    from zoo.grow.population import check

    plan = read_plan(Path(__file__).parents[2] / "examples" / "grow" / "digits.yaml")
    check(registry, plan)

    assert 18 == len(plan.members)
