"""`zoo grow`, typed as a user types it."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

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
    "train": {"lr": 0.1, "epochs": 1, "data": 0.1},
    "grid": {"width": [2, 8], "seed": [0]},
}


@pytest.fixture
def plan(tmp_path):
    def write(**changes):
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump({**PLAN, **changes}))
        return path

    return write


def test_a_dry_run_tells_the_size_of_the_grid_and_writes_nothing(zoo_json, plan, tmp_path):
    said = zoo_json("grow", plan(), "--dry-run", "--jobs", "1")

    assert (2, 2, 0, 6) == tuple(said[k] for k in ("models", "cells", "there", "steps"))
    assert not (tmp_path / "registry.db").exists()


def test_growing_lists_the_models_and_their_scores(zoo_run, zoo_json, plan):
    result = zoo_run("grow", plan(), "--jobs", "1")
    header, *rows = [line.split("\t") for line in result.stdout.splitlines()]
    (found,) = zoo_json("ls", "--where", "tag.'grow.width' > 4")

    assert ["model", "accuracy", "train_loss", "time"] == header
    assert ["tiny/width2-seed0@1", "tiny/width8-seed0@1"] == [row[0] for row in rows]
    assert float(rows[1][1]) == pytest.approx(found["metrics"]["accuracy"], abs=1e-4)
    again = zoo_json("grow", plan(), "--jobs", "1")
    assert [True, True] == [m["was_there"] for m in again["members"]]


def test_what_fails_is_told_and_the_command_fails(zoo_run, plan):
    result = zoo_run("grow", plan(grid={"lr": [0.1, 1e30]}), "--jobs", "1", "--json")

    assert 1 == result.exit_code
    assert "diverged" in result.stderr
    assert 1 == len(json.loads(result.stdout)["problems"])


def test_a_plan_that_is_wrong_makes_no_registry(zoo_run, plan, tmp_path):
    result = zoo_run("grow", plan(gird=3))

    assert 8 == result.exit_code
    assert "Did you mean `grid`" in result.stderr
    assert not (tmp_path / "registry.db").exists()


def test_a_published_zoo_is_taken_in(zoo_json, tmp_path):
    folder = tmp_path / "zoo" / "trial" / "checkpoint_000005"
    folder.mkdir(parents=True)
    (folder.parent / "params.json").write_text('{"seed": 3}')
    torch.save({"weight": torch.ones(2)}, folder / "checkpoints")
    (said,) = zoo_json("grow", "--import", tmp_path / "zoo", "--as", "svhn", "--epochs", "5")

    assert "svhn/all-seed3" == said["name"]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("plan.yaml", "--import", "."),
        ("--import", "."),
        ("--import", ".", "--as", "x", "--dry-run"),
        ("plan.yaml", "--as", "x"),
    ],
)
def test_arguments_that_do_not_go_together_are_wrong_usage(zoo_run, arguments):
    assert 2 == zoo_run("grow", *arguments).exit_code
