"""Layer-wise sharpness and stragglers: the specified numbers, an oracle, and what must hold."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_subjects import (
    METRICS,
    Given,
    OfHead,
    Quadratic,
    Weights,
    golden,
    mlp,
    numbers,
    points,
    run,
    sample,
    subject,
)
from torch import nn

from zoo.errors import IncompatibleModels
from zoo.landscape import stragglers as numerics
from zoo.landscape.layers import layers_of
from zoo.landscape.objective import objective

CASE = golden("straggler")
WANTED = CASE["expected"]
DOUBLE = {"dtype": "float64"}


def split(w: list[float]) -> Weights:
    return Weights(**{name: [w[i] for i in places] for name, places in CASE["layers"].items()})


def tuned_and_base(seed: int = 0, amount: float = 1.5, **how: Any) -> tuple[Any, Any]:
    """A model whose layers were moved at random, and its base."""
    base = mlp(seed, 4, 6, 5, 3)
    tuned = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for p in tuned.parameters():
            p.add_(amount * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return subject(tuned, base=subject(base), **how), base


# Golden numbers


@pytest.mark.parametrize(
    ("key", "norm", "adaptive"), [("first_order", "2", False), ("adaptive_linf", "inf", True)]
)
def test_the_sharpness_of_layers_is_the_golden_one(key: str, norm: str, adaptive: bool) -> None:
    model = subject(split(CASE["w"]), base=subject(split(CASE["w"])))
    how = {"rho": CASE["params"]["rho"], "norm": norm, "adaptive": adaptive, **DOUBLE}

    found = numbers(run("layer_sharpness", model, sample(Quadratic(CASE["H"])), **how))

    values = {layer: found[f"layer_sharpness/{layer}"] for layer in CASE["layers"]}
    for layer, value in values.items():
        assert WANTED["layerwise"][layer][key] == pytest.approx(value, abs=1e-9)
    if key == "adaptive_linf":
        assert WANTED["ranking"] == sorted(values, key=values.__getitem__, reverse=True)


def test_the_stragglers_are_the_golden_ones() -> None:
    errors = {n: [1 - a for a in curve] for n, curve in CASE["layerwise_interpolation"].items()}

    barriers = {layer: numerics.barrier(curve) for layer, curve in errors.items()}

    assert WANTED["layerwise_accuracy_barrier"] == pytest.approx(barriers, abs=1e-9)
    assert WANTED["straggler"] == numerics.stragglers(barriers, 0.02)


# An oracle


def test_barriers_are_those_of_models_put_together_by_hand() -> None:
    model, base = tuned_and_base(8)
    tuned, task, n = model.make(), points(5, 60, 4), 5

    found = numbers(run("layer_sharpness", model, sample(task, batch=17), points=n, **DOUBLE))

    def scores(moved: str, a: float, start: nn.Module) -> tuple[float, float]:
        own = copy.deepcopy(start)
        zero, one, state = base.state_dict(), tuned.state_dict(), own.state_dict()
        for name in state:
            if name.startswith(moved + "."):
                state[name] = (1 - a) * zero[name] + a * one[name]
        own.load_state_dict(state)
        outputs = own(task.x)
        loss = float(nn.functional.cross_entropy(outputs, task.y).detach())
        return float((outputs.argmax(1) == task.y).double().mean()), loss

    grid = np.linspace(0, 1, n)
    heights = {}
    for layer in ("0", "2", "4"):
        accuracy, loss = np.array([scores(layer, a, base) for a in grid]).T
        back = np.array([scores(layer, a, tuned)[0] for a in grid])
        heights[layer] = max(accuracy[0] + (accuracy[-1] - accuracy[0]) * grid - accuracy)
        assert heights[layer] == pytest.approx(found[f"layer_barrier/{layer}"], abs=1e-9)
        dip = max(back[0] + (back[-1] - back[0]) * grid - back)
        assert dip == pytest.approx(found[f"layer_barrier_back/{layer}"], abs=1e-9)
        rise = max(loss - (loss[0] + (loss[-1] - loss[0]) * grid))
        assert rise == pytest.approx(found[f"layer_loss_barrier/{layer}"], abs=1e-9)
    values = np.array(list(heights.values()))
    cut = min(0.02, values.mean() + 2 * values.std())
    flags = {layer: float(height > cut) for layer, height in heights.items()}
    assert flags == {layer: found[f"straggler/{layer}"] for layer in heights}
    assert sum(flags.values()) == found["stragglers"] > 0
    assert -1 <= found["straggler_correlation"] <= 1
    assert -1 <= found["sharpness_correlation"] <= 1


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12))
def test_rank_correlation_is_that_of_mean_ranks(pairs: list[tuple[int, int]]) -> None:
    a, b = (np.array(v, float) for v in zip(*pairs, strict=True))

    def ranks(v: np.ndarray) -> np.ndarray:
        order = np.sort(v)
        left, right = np.searchsorted(order, v, "left"), np.searchsorted(order, v, "right")
        mean: np.ndarray = (left + 1 + right) / 2
        return mean

    found = numerics.rank_correlation(list(a), list(b))

    if len(set(a)) == 1 or len(set(b)) == 1:
        assert found is None
    else:
        assert np.corrcoef(ranks(a), ranks(b))[0, 1] == pytest.approx(found)


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from([0.0, 0.001, 0.004, 0.01, 0.015, 0.03]), min_size=1, max_size=14),
    st.sampled_from([None, 0.012, 0.02]),
)
def test_stragglers_are_above_the_threshold_or_two_deviations_above_the_mean(
    heights: list[float], threshold: float | None
) -> None:
    v = np.array(heights)
    wanted = v > v.mean() + 2 * v.std() + 1e-12
    if threshold is not None:
        wanted |= v > threshold

    found = numerics.stragglers({str(i): h for i, h in enumerate(heights)}, threshold)

    if not (np.abs(v - v.mean() - 2 * v.std()) < 1e-9).any():  # rounding may go either way
        assert [str(i) for i in np.flatnonzero(wanted)] == found


def test_two_deviations_are_those_of_the_layers_themselves() -> None:
    heights = dict.fromkeys("abcdef", 0.0) | {"g": 0.01, "h": 0.007}
    values = np.array(list(heights.values()))

    assert values.mean() + 2 * values.std() < 0.01 < values.mean() + 2 * values.std(ddof=1)
    assert ["g"] == numerics.stragglers(heights, None)


def test_rounding_makes_no_straggler() -> None:
    height = numerics.barrier([18 / 36, 22 / 36, 26 / 36, 30 / 36, 34 / 36])

    assert 0 < height < 1e-15
    assert [] == numerics.stragglers(dict.fromkeys("abcdefg", 0.0) | {"h": height}, 0.02)


# What must hold


def test_a_layer_that_did_not_change_has_no_barrier() -> None:
    base = mlp(0, 4, 6, 3)
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        tuned[2].weight.neg_()
    model = subject(tuned, base=subject(base))

    found = numbers(run("layer_sharpness", model, sample(points(5, 30, 4))))

    assert 0 == found["layer_barrier/0"] == found["layer_barrier_back/0"]
    assert 0 == found["layer_loss_barrier/0"] == found["straggler/0"]


def test_a_base_of_equal_weights_has_no_stragglers() -> None:
    module = mlp(0, 4, 6, 3)

    found = numbers(
        run("layer_sharpness", subject(module, base=subject(module)), sample(points(5, 30, 4)))
    )

    assert 0 == found["stragglers"]
    assert "straggler_correlation" not in found
    assert "sharpness_correlation" not in found  # accuracy is the same everywhere


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.floats(1e-3, 0.3))
def test_slopes_of_layers_add_up_to_that_of_the_whole(seed: int, rho: float) -> None:
    loss = objective(subject(mlp(seed, 3, 4, 3)), sample(points(seed, 12, 3)), "float64")
    here = loss.slope()
    assert here.gradient is not None
    layers = [[n for n in loss.shapes if n.startswith(i)] for i in "02"]

    def first_order(layer: list[str] | None) -> float:
        tiny = 1e-7
        return numerics.layer_rise(loss, here, layer, tiny, "2", False).loss / tiny

    parts = [first_order(layer) for layer in layers]
    assert float(here.gradient.norm()) == pytest.approx(np.hypot(*parts), rel=1e-4)
    assert first_order(None) == pytest.approx(np.hypot(*parts), rel=1e-4)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_repair_keeps_the_largest_changes(seed: int, keep: float) -> None:
    rng = np.random.default_rng(seed)
    base = {n: torch.tensor(rng.integers(-2, 3, size=s)) / 4 for n, s in (("a", 6), ("b", (2, 3)))}
    tuned = {n: torch.tensor(rng.integers(-2, 3, size=t.shape)) / 4 for n, t in base.items()}
    sizes = np.abs(np.concatenate([(tuned[n] - base[n]).ravel() for n in "ab"]))
    kept = np.argsort(-sizes, kind="stable")[: int(keep * 12)]
    flat_base, flat_tuned = (np.concatenate([s[n].ravel() for n in "ab"]) for s in (base, tuned))
    wanted = flat_base.copy()
    wanted[kept] = flat_tuned[kept]

    found = numerics.repaired(base, tuned, [["a", "b"]], keep)

    np.testing.assert_array_equal(wanted, np.concatenate([found[n].ravel() for n in "ab"]))
    whole = numerics.repaired(base, tuned, [["a"]], 1)
    assert all(torch.equal(tuned[n], whole[n]) for n in tuned)


def test_running_statistics_move_with_their_layer() -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    tuned = copy.deepcopy(base)
    tuned[1].running_mean.add_(3)
    tuned[1].num_batches_tracked.add_(7)
    model = subject(tuned, base=subject(base))
    between = numerics.Between(model, sample(points(5, 30, 4)), "float64")

    layers = layers_of(model, between.names)
    half = between.mixed(0.5, layers["1"], 0.0)

    assert "1.running_mean" in layers["1"]
    torch.testing.assert_close(base[1].running_mean + 1.5, half["1.running_mean"])
    assert 7 == half["1.num_batches_tracked"]
    assert "1.num_batches_tracked" not in between.names


# Layers


def test_layers_are_those_of_the_architecture_then_those_of_the_names() -> None:
    names = [
        "stem.conv.weight",
        "stem.norm.weight",
        "blocks.0.a.weight",
        "blocks.0.b.weight",
        "blocks.1.a.weight",
        "scale",
        "head.weight",
        "head.bias",
    ]
    by_name = {
        "stem.conv": names[:1],
        "stem.norm": names[1:2],
        "blocks.0": names[2:4],
        "blocks.1": names[4:5],
        "scale": ["scale"],
        "head": names[6:],
    }
    said = OfHead(layers=[["head.*"], ["stem.*"], ["blocks.*.a.weight"], ["none.*"]])
    module = mlp(0, 2, 2)

    assert by_name == layers_of(subject(module), names)
    found = layers_of(subject(module, architecture=said), names)
    assert ["head", "stem", "blocks", "blocks.0", "scale"] == list(found)
    assert ["blocks.0.a.weight", "blocks.1.a.weight"] == found["blocks"]
    assert {n: [n] for n in names} == layers_of(subject(module), names, "tensor")


def test_tensors_may_be_moved_one_by_one() -> None:
    model, _ = tuned_and_base()

    found = numbers(
        run("layer_sharpness", model, sample(points(5, 20, 4)), granularity="tensor", points=3)
    )

    assert {f"layer_barrier/{i}.{p}" for i in (0, 2, 4) for p in ("weight", "bias")} <= set(found)


# Edges and errors


def test_a_task_without_labels_is_measured_by_its_loss() -> None:
    w, moved = CASE["w"], [2.0, 1.0, -3.0, 1.0]
    model = subject(split(moved), base=subject(split(w)))

    found = numbers(run("layer_sharpness", model, sample(Quadratic(np.diag([1, 1, -20, 0.1])))))

    assert found["layer_loss_barrier/b"] > 10
    assert not {"layer_barrier/b", "sharpness_correlation"} & set(found)
    assert {"straggler/a", "straggler/b", "straggler/c", "stragglers"} <= set(found)


def test_a_model_without_base_is_refused() -> None:
    with pytest.raises(IncompatibleModels, match="has no base"):
        run("layer_sharpness", subject(mlp(0, 4, 3)), sample(points(5, 9, 4)))


def test_a_base_of_other_tensors_is_refused_and_all_are_named() -> None:
    model = subject(mlp(0, 4, 6, 3), base=subject(mlp(0, 4, 5, 3)))

    with pytest.raises(IncompatibleModels) as raised:
        run("layer_sharpness", model, sample(points(5, 9, 4)))

    assert 3 == len(raised.value.problems)
    assert "`0.weight` is (6, 4) and (5, 4)" in str(raised.value)


def test_a_diverged_model_says_only_what_is_a_number() -> None:
    module = mlp(0, 4, 6, 3)
    with torch.no_grad():
        module[0].weight.fill_(float("nan"))
    task = points(5, 9, 4)

    found = run("layer_sharpness", subject(module, base=subject(mlp(0, 4, 6, 3))), sample(task))

    assert all(np.isfinite(v.value) for v in found.values())
    assert "layer_sharpness/0" not in found


def test_the_same_model_gives_the_same_values() -> None:
    model, _ = tuned_and_base()
    examples = sample(points(5, 30, 4))

    first = numbers(run("layer_sharpness", model, examples))

    assert first == numbers(run("layer_sharpness", model, examples))


def test_the_metric_asks_for_the_base_and_tells_its_cost() -> None:
    metric = METRICS["layer_sharpness"]

    assert metric.base
    assert metric.passes is not None
    assert metric.passes(metric.parameters(), 1) > 2 * 24 * 4


def test_labels_are_checked() -> None:
    model, _ = tuned_and_base()
    task = Given(torch.randn(6, 4, dtype=torch.float64), torch.zeros(6).long(), ["a", "b"])

    with pytest.raises(IncompatibleModels, match="2 labels"):
        run("layer_sharpness", model, sample(task))
