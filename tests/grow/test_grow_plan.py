"""Plans of populations: what they say, and what they may not say."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import InvalidName, InvalidRecipe
from zoo.grow.plan import read_plan

MLP = {
    "model_type": "zoo_mlp",
    "inputs": 64,
    "width": 4,
    "depth": 1,
    "classes": 10,
    "activation": "relu",
}


def plan(**changes):
    document = {
        "name": "tiny",
        "architecture": MLP,
        "task": "digits",
        "train": {"lr": 0.1, "epochs": 3},
        "grid": {"width": [2, 4], "batch": [16, 64], "seed": [0, 1]},
    }
    return {k: v for k, v in {**document, **changes}.items() if v is not None}


def test_each_point_of_the_grid_is_a_model_and_seeds_are_innermost():
    members = read_plan(plan()).members

    assert [
        "tiny/width2-batch16-seed0",
        "tiny/width2-batch16-seed1",
        "tiny/width2-batch64-seed0",
        "tiny/width2-batch64-seed1",
    ] == [m.name for m in members[:4]]
    assert (4, 64, 1) == (members[-1].config["width"], members[-1].train.batch, members[-1].seed)
    assert (0.1, 3) == (members[-1].train.lr, members[-1].train.epochs)
    assert "width4-batch64" == members[-1].cell
    assert {"width": 4, "batch": 64, "seed": 1} == members[-1].point


def test_a_grid_without_seeds_has_seed_0():
    (member,) = read_plan(plan(grid={"lr": [0.05]})).members

    assert ("tiny/lr0.05-seed0", 0) == (member.name, member.seed)


@given(
    widths=st.lists(st.integers(1, 999), min_size=1, max_size=4, unique=True),
    rates=st.lists(st.floats(1e-6, 10), min_size=1, max_size=4, unique=True),
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True),
)
def test_no_two_models_share_a_name_or_a_training(widths, rates, seeds):
    grown = read_plan(plan(grid={"width": widths, "lr": rates, "seed": seeds}))
    members = grown.members

    assert list(product(widths, rates, seeds)) == [tuple(m.point.values()) for m in members]
    assert len(members) == len({m.name for m in members})
    assert len(members) == len({m.digest("digits", "sha256:1") for m in members})
    assert len(widths) * len(rates) == len({m.cell for m in members})


def test_more_values_make_the_same_plan_and_other_settings_another():
    one = read_plan(plan())
    more = read_plan(plan(grid={"width": [2, 4, 8], "batch": [16, 64], "seed": [0, 1, 2]}))
    unused = read_plan(plan(architecture={**MLP, "width": 99}))
    other = read_plan(plan(train={"lr": 0.2, "epochs": 3}))

    assert one.digest == more.digest == unused.digest
    assert one.digest != other.digest
    assert {m.digest("t", "d") for m in one.members} < {m.digest("t", "d") for m in more.members}


def test_what_decides_the_weights_is_in_the_digest_of_a_training():
    one = read_plan(plan()).members[0]

    assert one.digest("t", "d") != one.digest("t", "other data")
    assert one.digest("t", "d") != one.digest("other task", "d")


def test_kept_epochs_are_those_before_the_last():
    grown = read_plan(plan(keep={"epochs": [4, 1, 3]}, grid={"epochs": [3, 5]}))

    assert [(1,), (1, 3, 4)] == [m.keep for m in grown.members]


def test_a_plan_is_read_from_yaml(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(
        "name: tiny\narchitecture: {model_type: zoo_mlp}\ntask: digits\n"
        "grid: {width: [1]}\nevaluate: []\nmeasure: [{metric: cka, samples: 9}]\n"
        "phases: {thresholds: {loss: median}}\n"
    )
    grown = read_plan(path)

    assert () == grown.evaluate
    assert ("cka", 9) == (grown.measure[0].metric, grown.measure[0].samples)
    assert ("default", {"loss": "median"}) == (grown.phases.rule, grown.phases.thresholds)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gird": {}}, r"Unknown key `gird` in the plan. Did you mean `grid`"),
        ({"grid": None}, "has no `grid`"),
        ({"train": {"bacth": 3}}, "Did you mean `batch`"),
        ({"train": {"lr": -1}}, "`lr` cannot be -1"),
        ({"grid": {"lr": [0.1, -0.1]}}, "`lr` cannot be -0.1"),
        ({"grid": {"width": []}}, r"`grid.width` is \[\]"),
        ({"grid": {"width": 4}}, "must be a list"),
        ({"grid": {"width": [4, 4]}}, "each once"),
        ({"grid": {"width": [[4]]}}, "List numbers or words"),
        ({"grid": {"seed": [-1]}}, "is no seed"),
        ({"grid": {"model_type": ["a", "b"]}}, "one architecture"),
        ({"grid": {"act": ["a b", "a_b"]}}, "would be called `tiny/acta_b-seed0`"),
        ({"architecture": {"width": 4}}, "names no `model_type`"),
        ({"architecture": {**MLP, "batch": 4}}, "both `train` and `architecture`"),
        ({"grid": {"width": list(range(1, 400)), "seed": list(range(400))}}, "159,600 models"),
        ({"keep": {"epochs": [4]}}, "training ends after 3"),
        ({"keep": {"epochs": [0]}}, "count from 1"),
        ({"keep": {"epoch": [1]}}, "Did you mean `epochs`"),
        ({"evaluate": {"splits": "test"}}, "Did you mean `split`"),
        ({"evaluate": {"batch": 0}}, "`batch` of `evaluate` is 0"),
        ({"measure": [{"samples": 3}]}, "names no metric"),
        ({"measure": [{"metric": "cka", "smaples": 3}]}, "Did you mean `samples`"),
        ({"measure": {"metric": "cka"}}, "must be a list"),
        ({"phases": {"rul": "x"}}, "Did you mean `rule`"),
        ({"task": 3}, "`task` must be text"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(changes, said):
    with pytest.raises(InvalidRecipe, match=said):
        read_plan(plan(**changes))


def test_a_name_that_no_entry_can_have_is_refused():
    with pytest.raises(InvalidName, match="cannot name an entry"):
        read_plan(plan(name="a/b"))


def test_a_file_of_several_documents_is_refused(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("name: a\n---\nname: b\n")

    with pytest.raises(InvalidRecipe, match="2 documents"):
        read_plan(path)
