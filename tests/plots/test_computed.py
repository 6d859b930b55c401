"""Lines, planes and sweeps are what the models on them give, worked out here by hand."""

from __future__ import annotations

import pytest
import torch

import zoo
from zoo.errors import IncompatibleModels, InvalidRecipe, NotFound
from zoo.plots.computed import Examples, lines_between, surface_of, sweep_of


def mixed(registry, weights):
    """The state base + sum_i w_i (expert_i - base)."""
    base = zoo.load_state("base", registry=registry)
    deltas = {r: zoo.load_state(r, registry=registry) for r in weights}
    return {k: v + sum(w * (deltas[r][k] - v) for r, w in weights.items()) for k, v in base.items()}


def scored(registry, state):
    """Loss and share of wrong answers of a network on the test digits."""
    x, y = registry.plugins.tasks["digits"].tensors("test")
    hidden = torch.relu(x.flatten(1) @ state["fc1.weight"].T + state["fc1.bias"])
    logits = hidden @ state["head.weight"].T + state["head.bias"]
    loss = -logits.log_softmax(1)[torch.arange(len(y)), y].mean()
    return float(loss), float((logits.argmax(1) != y).double().mean())


def test_a_line_is_what_the_models_between_give(family):
    (line,) = lines_between(["a", "b"], Examples(family), points=5)

    expected = [scored(family, mixed(family, {"a": 1 - t, "b": t})) for t in line.at]
    assert ("a@1", "b@1") == (line.start, line.end)
    assert [0, 0.25, 0.5, 0.75, 1] == line.at
    assert pytest.approx([e[0] for e in expected], rel=1e-5) == list(line.loss)
    assert pytest.approx([e[1] for e in expected], abs=1e-9) == list(line.error)


def test_three_models_have_three_lines(family):
    lines = lines_between(["a", "b", "other"], Examples(family, samples=32), points=3)

    assert [("a@1", "b@1"), ("a@1", "other@1"), ("b@1", "other@1")] == [
        (line.start, line.end) for line in lines
    ]


def test_a_surface_is_what_base_and_deltas_give(family):
    found = surface_of("a", "b", Examples(family), low=0, high=1.5, points=4)

    for y, row in zip(found.y, found.values, strict=True):
        for x, value in zip(found.x, row, strict=True):
            expected, _ = scored(family, mixed(family, {"a": x, "b": y}))
            assert pytest.approx(expected, rel=1e-4) == value
    assert [("base", 0, 0), ("a@1", 1, 0), ("b@1", 0, 1), ("mean", 0.5, 0.5)] == [
        (p.label, p.x, p.y) for p in found.points
    ]


def test_a_merge_is_marked_where_it_lies(family):
    family.merge(
        method="task_arithmetic", experts=["a", "b"], base="base", name="m",
        parameters={"weight": [0.3, 0.8], "lambda": 1.0},
    )  # fmt: skip

    found = surface_of("a", "b", Examples(family, samples=16), merges=["m"], points=2)

    assert "m@1" == found.points[-1].label
    assert pytest.approx((0.3, 0.8), abs=1e-4) == (found.points[-1].x, found.points[-1].y)


def test_a_sweep_goes_from_the_base_to_the_sum(family):
    found = sweep_of(["a", "b"], Examples(family), points=3)

    (curve,) = found.sweeps
    expected = [1 - scored(family, mixed(family, {"a": c, "b": c}))[1] for c in (0, 0.5, 1)]
    assert "digits" == curve.label
    assert pytest.approx(expected, abs=1e-9) == list(curve.values)


def test_own_heads_take_the_head_of_the_tasks_expert(family):
    found = sweep_of(
        ["a", "b"], Examples(family), tasks=["digits"], points=2, own_heads=True, quantity="loss"
    )

    state = mixed(family, {"a": 0, "b": 0})
    a = zoo.load_state("a", registry=family)
    expected, _ = scored(family, {k: (a if k.startswith("head") else state)[k] for k in state})
    assert pytest.approx(expected, rel=1e-5) == found.sweeps[0].values[0]


def test_models_without_a_common_base_span_no_plane(family):
    with pytest.raises(InvalidRecipe, match=r"no common base.*`other@1`: none"):
        surface_of("a", "other", Examples(family))


def test_models_of_other_sizes_lie_on_no_line(family, add):
    add("wide", seed=5, width=7)

    with pytest.raises(IncompatibleModels, match="fc1"):
        lines_between(["a", "wide"], Examples(family))


def test_the_task_must_be_known(family, add):
    add("vague", seed=6, task=None)
    add("lost", seed=7, task="atlantis")

    with pytest.raises(InvalidRecipe, match="--task NAME"):
        lines_between(["a", "vague"], Examples(family))
    with pytest.raises(NotFound, match="atlantis"):
        lines_between(["lost", "lost"], Examples(family))
    with pytest.raises(InvalidRecipe, match=r"no split `dev`.*`train`, `test`"):
        lines_between(["a", "b"], Examples(family, split="dev"))


@pytest.mark.parametrize(("refs", "points"), [(["a"], 11), (["a", "b"], 2)])
def test_a_line_needs_two_models_and_three_points(family, refs, points):
    with pytest.raises(InvalidRecipe, match="no line"):
        lines_between(refs, Examples(family), points=points)
