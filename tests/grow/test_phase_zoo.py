"""Published model zoos, in a tiny directory of their layout."""

from __future__ import annotations

import json

import pytest
import torch

import zoo
from zoo.errors import InvalidCheckpoint, InvalidName, InvalidRecipe, NotFound
from zoo.grow.published import import_zoo, parse_epochs


def write_trial(root, name, epochs=(0, 25, 50), seed=0, **changed):
    params = {
        "model::type": "zoo_mlp",
        "model::inputs": 4,
        "model::width": 2,
        "model::depth": 1,
        "model::classes": 3,
        "model::activation": "relu",
        "optim::optimizer": "sgd",
        "optim::lr": 0.1,
        "training::batchsize": 8,
        "dataset::dump": "dataset.pt",
        "seed": seed,
        "experiment": name,
    } | changed
    trial = root / name
    trial.mkdir(parents=True)
    (trial / "params.json").write_text(json.dumps(params))
    rows = [
        {
            "training_iteration": epoch,
            "train_loss": 2.0 - epoch / 50,
            "train_acc": 0.5,
            "test_acc": epoch / 100,
            "test_loss": float("nan"),
            "hessian_trace_train_mean": 12.5,
            "hessian_top_eigenvalues_val_mean": 3.5,
            "hessina_trace_train_list": [12.0, 13.0],
            "done": epoch == 50,
        }
        for epoch in range(0, 51, 25)
    ]
    (trial / "result.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    width = params["model::width"]
    for epoch in epochs:
        folder = trial / f"checkpoint_{epoch:06d}"
        folder.mkdir()
        generator = torch.Generator().manual_seed(100 * seed + epoch)
        state = {
            "fc1.weight": torch.randn(width, 4, generator=generator),
            "fc1.bias": torch.zeros(width),
            "head.weight": torch.randn(3, width, generator=generator),
            "head.bias": torch.zeros(3),
        }
        torch.save(state, folder / "checkpoints")
    return trial


@pytest.fixture
def published(tmp_path):
    root = tmp_path / "tune_zoo"
    for width in (2, 4):
        for seed in (1, 2):
            trial = f"trial_{width}_{seed}::odd name"
            write_trial(root, trial, seed=seed, **{"model::width": width})
    return root


@pytest.fixture
def registry(tmp_path):
    with zoo.open(tmp_path / "registry.db") as found:
        yield found


def test_the_last_checkpoint_of_each_trial_is_a_model_that_runs(registry, published):
    versions = import_zoo(registry, published, name="svhn", task="svhn", license="CC-BY-4.0")

    expected = [f"svhn/width{w}-seed{s}@1" for w in (2, 4) for s in (1, 2)]
    assert expected == [v.ref for v in versions]
    one = versions[-1]
    assert ("svhn", "CC-BY-4.0", "zoo_mlp") == (one.task, one.license, one.architecture)
    tags = {k: v for k, v in one.tags.items() if k.startswith("grow.")}
    assert {
        "grow.name": "svhn",
        "grow.cell": "width4",
        "grow.width": "4",
        "grow.seed": "2",
        "grow.epoch": "50",
        "grow.last": "yes",
    } == tags
    state = torch.load(published / "trial_4_2::odd name/checkpoint_000050/checkpoints")
    module = zoo.load(one.ref, registry=registry)
    x = torch.ones(1, 4)
    hidden = (x @ state["fc1.weight"].T).relu()
    assert torch.allclose(hidden @ state["head.weight"].T, module(x))


def test_what_was_logged_at_the_epoch_is_recorded_under_our_names(registry, published):
    version = import_zoo(registry, published, name="svhn")[0]
    record = json.loads((registry.path(version.ref) / "training.json").read_text())

    assert {
        "accuracy": 0.5,
        "train_loss": 1.0,
        "train_accuracy": 0.5,
        "hessian_trace/train": 12.5,
        "hessian_top/val": 3.5,
    } == dict(version.metrics)
    assert [0, 25, 50] == [row["training_iteration"] for row in record["results"]]
    assert None is record["results"][0]["test_loss"]
    assert 0.1 == record["params"]["optim::lr"]


def test_chosen_epochs_become_versions_of_one_entry_and_nothing_is_taken_twice(registry, published):
    import_zoo(registry, published, name="svhn", epochs=[0, 50])
    again = import_zoo(registry, published, name="svhn", epochs=[0, 50])

    assert ["svhn/width2-seed1@1", "svhn/width2-seed1@2"] == [v.ref for v in again[:2]]
    assert [("0", "no"), ("50", "yes")] == [
        (v.tags["grow.epoch"], v.tags["grow.last"]) for v in again[:2]
    ]
    assert 8 == len(registry.select())


def test_trials_that_differ_in_nothing_but_their_name_are_numbered(registry, tmp_path):
    for name in ("a", "b"):
        write_trial(tmp_path / "zoo", name)

    versions = import_zoo(registry, tmp_path / "zoo", name="twins")
    assert ["twins/all-seed0", "twins/all-seed0-2"] == [v.name for v in versions]


def test_a_pickle_that_runs_code_is_refused(registry, tmp_path):
    import pickle

    class Hostile:
        def __reduce__(self):
            return (print, ("code ran",))

    trial = write_trial(tmp_path / "zoo", "a")
    (trial / "checkpoint_000050/checkpoints").write_bytes(pickle.dumps(Hostile()))

    with pytest.raises(InvalidCheckpoint):
        import_zoo(registry, tmp_path / "zoo", name="bad")
    assert [] == registry.select()


@pytest.mark.parametrize("content", ["{", "[1]", '"x"'])
def test_params_that_are_no_object_are_refused(registry, tmp_path, content):
    trial = write_trial(tmp_path / "zoo", "a")
    (trial / "params.json").write_text(content)

    with pytest.raises(InvalidCheckpoint, match=r"params\.json"):
        import_zoo(registry, tmp_path / "zoo", name="bad")


def test_a_directory_without_trials_and_epochs_without_checkpoints_are_told(
    registry, published, tmp_path
):
    with pytest.raises(NotFound, match=r"There is no `params\.json`"):
        import_zoo(registry, tmp_path / "nothing", name="x")
    with pytest.raises(NotFound, match=r"checkpoint of 7.*\[0, 25, 50\]"):
        import_zoo(registry, published, name="x", epochs=[7])
    with pytest.raises(InvalidName):
        import_zoo(registry, published, name="a/b")


def test_epochs_are_read_from_a_word():
    assert [10, 20] == parse_epochs("10, 20")
    with pytest.raises(InvalidRecipe, match="lists no epochs"):
        parse_epochs("last")
