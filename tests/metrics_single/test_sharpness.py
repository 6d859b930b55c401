"""Sharpness: the specified numbers, closed forms, an oracle, and what must not vary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from small_subjects import (
    METRICS,
    Quadratic,
    Weights,
    golden,
    mlp,
    network_loss,
    numbers,
    points,
    run,
    sample,
    subject,
)
from torch import nn

from zoo.landscape import sharpness
from zoo.landscape.estimate import mean_of
from zoo.landscape.objective import Objective, objective

CASE = golden("sharpness")
WANTED = CASE["expected"]
RHO = CASE["params"]["rho"]
DOUBLE = {"dtype": "float64"}


def quadratic(w: list[float], hessian: Any = CASE["H"]) -> Objective:
    return objective(subject(Weights(a=w)), sample(Quadratic(hessian)), "float64")


# Golden numbers


@pytest.mark.parametrize(
    ("norm", "adaptive", "delta", "gain"),
    [
        ("2", False, "sam_perturbation", "sam_sharpness"),
        ("2", True, "asam_perturbation", "asam_sharpness"),
        ("inf", False, "linf_first_order_perturbation", "linf_gain"),
        ("inf", True, "adaptive_linf_perturbation", "adaptive_linf_gain"),
    ],
)
def test_one_step_gives_the_golden_numbers(
    norm: sharpness.Norm, adaptive: bool, delta: str, gain: str
) -> None:
    loss = quadratic(CASE["w"])
    slope = loss.slope()
    assert slope.gradient is not None

    found = sharpness.one_step(slope.gradient, sharpness.scale_of(loss, adaptive), RHO, norm)
    model, task = subject(Weights(a=CASE["w"])), Quadratic(CASE["H"])
    how = {"norm": norm, "adaptive": adaptive, "rho": RHO}
    value = run("sam_sharpness", model, sample(task), **how, **DOUBLE)["sam_sharpness"].value

    np.testing.assert_allclose(WANTED[delta], found, atol=1e-9)
    assert WANTED[gain] == pytest.approx(value, abs=1e-9)
    if norm == "2" and adaptive:
        size = (found / loss.start.abs()).norm()
        assert WANTED["adaptive_norm_of_asam"] == pytest.approx(float(size), abs=1e-12)


def test_worst_and_average_case_at_a_minimum_give_the_golden_numbers() -> None:
    model, task = subject(Weights(a=[0.0, 0.0])), Quadratic(CASE["H"])
    wanted = WANTED["at_minimum"]

    worst = run("worst_sharpness", model, sample(task), rho=RHO, iterations=60, **DOUBLE)
    average = run(
        "average_sharpness", model, sample(task), rho=RHO, adaptive=False, draws=4000, **DOUBLE
    )["average_sharpness"]

    assert wanted["worst_l2"] == pytest.approx(worst["worst_sharpness"].value, rel=1e-4)
    assert average.stderr is not None
    assert abs(wanted["average_gaussian"] - average.value) < 4 * average.stderr
    assert average.stderr < 0.03 * average.value


# Oracles


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("norm", ["2", "inf"])
def test_one_step_is_that_of_a_network_written_by_hand(norm: str, adaptive: bool) -> None:
    sizes = (4, 5, 3)
    module, task = mlp(3, *sizes), points(4, 20, 4)
    x, y = task.x.numpy(), task.y.numpy()
    w = np.concatenate([p.detach().numpy().ravel() for p in module.parameters()])
    before, g = network_loss(w, sizes, x, y)
    c = np.abs(w) if adaptive else np.ones_like(w)
    delta = c * c * g / np.linalg.norm(c * g) if norm == "2" else c * np.sign(g)

    for rho in (0.01, 0.3):
        wanted = network_loss(w + rho * delta, sizes, x, y)[0] - before
        found = run(
            "sam_sharpness",
            subject(module),
            sample(task, batch=6),
            rho=rho,
            norm=norm,
            adaptive=adaptive,
            **DOUBLE,
        )
        assert wanted == pytest.approx(found["sam_sharpness"].value, abs=1e-9)


@settings(max_examples=15)
@given(st.floats(0, 7), st.floats(0, 7), st.floats(1e-3, 0.5))
def test_the_worst_case_of_a_quadratic_is_that_of_a_grid(
    turn: float, place: float, rho: float
) -> None:
    axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    h, w = axes @ np.diag([3.0, 1.0]) @ axes.T, 2 * np.array([np.cos(place), np.sin(place)])
    angles = np.linspace(0, 2 * np.pi, 20_001)
    ring = w + rho * np.stack([np.cos(angles), np.sin(angles)], 1)
    wanted = (np.einsum("ni,ij,nj->n", ring, h, ring) / 2).max() - w @ h @ w / 2

    found = run(
        "worst_sharpness",
        subject(Weights(a=list(w))),
        sample(Quadratic(h)),
        rho=rho,
        iterations=60,
        **DOUBLE,
    )

    assert wanted == pytest.approx(found["worst_sharpness"].value, rel=1e-3)


def test_the_average_case_is_half_the_trace_of_the_scaled_hessian() -> None:
    w = [1.0, -2.0]
    h = np.array(CASE["H"])
    wanted = RHO**2 / 2 * np.trace(h * np.square(w))

    found = run(
        "average_sharpness", subject(Weights(a=w)), sample(Quadratic(h)), rho=RHO, draws=5000
    )["average_sharpness"]

    assert found.stderr is not None
    assert abs(wanted - found.value) < 4 * found.stderr


def test_the_step_shrinks_until_a_maximum_within_the_ball_is_found() -> None:
    model, task = subject(Weights(a=[0.3, 0.0])), Quadratic([[-1.0, 0.0], [0.0, -1.0]])

    found = run("worst_sharpness", model, sample(task), rho=1.0, iterations=60, **DOUBLE)

    assert 0.3**2 / 2 == pytest.approx(found["worst_sharpness"].value, rel=1e-3)


@settings(max_examples=30)
@given(st.lists(st.floats(-10, 10), min_size=2, max_size=9), st.integers(1, 20))
def test_equal_weights_give_the_standard_error_of_a_mean(values: list[float], weight: int) -> None:
    found = mean_of(values, [weight] * len(values))

    assert np.mean(values) == pytest.approx(found.value, abs=1e-9)
    wanted = np.std(values, ddof=1) / len(values) ** 0.5
    assert wanted == pytest.approx(found.stderr, abs=1e-9)


# What must hold


@settings(max_examples=15)
@given(
    st.integers(0, 10**6),
    st.floats(1e-3, 0.5),
    st.sampled_from(["2", "inf"]),
    st.booleans(),
)
def test_the_worst_case_is_above_one_step_and_above_zero(
    seed: int, rho: float, norm: sharpness.Norm, adaptive: bool
) -> None:
    model, task = subject(mlp(seed, 3, 4, 3)), points(seed + 1, 12, 3)
    how = {"rho": rho, "norm": norm, "adaptive": adaptive, **DOUBLE}

    one = run("sam_sharpness", model, sample(task), m=6, **how)
    worst = run("worst_sharpness", model, sample(task), m=6, iterations=4, **how)

    assert worst["worst_sharpness"].value >= max(0, one["sam_sharpness"].value - 1e-12)


def test_the_worst_case_rises_with_the_radius() -> None:
    model, task = subject(mlp(1, 4, 6, 3)), points(2, 40, 4)
    radii = [0.02, 0.05, 0.1, 0.2, 0.4]

    found = run("worst_sharpness", model, sample(task), rho=radii, m=20)
    values = [found[f"worst_sharpness/rho={r:g}"].value for r in radii]

    assert values == sorted(values)
    assert found["worst_sharpness"].value == values[0]


@pytest.mark.parametrize("norm", ["2", "inf"])
def test_perturbations_stay_in_the_ball(
    norm: sharpness.Norm, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = objective(subject(mlp(1, 4, 6, 3)), sample(points(2, 10, 4)), "float64")
    scale = sharpness.scale_of(loss, adaptive=True)
    seen: list[torch.Tensor] = []
    slope = Objective.slope

    def watched(self: Objective, shift: torch.Tensor | None = None) -> Any:
        if shift is not None:
            seen.append(shift / scale)
        return slope(self, shift)

    monkeypatch.setattr(Objective, "slope", watched)
    here = loss.slope()
    sharpness.worst(loss, here, scale, 0.3, norm, 30, torch.Generator().manual_seed(0))

    order = 2 if norm == "2" else float("inf")
    assert 31 == len(seen)
    assert all(float(torch.linalg.vector_norm(u, order)) <= 0.3 + 1e-12 for u in seen)


def rescaled(seed: int, factor: float) -> nn.Module:
    module = mlp(seed, 3, 6, 3, activation=nn.ReLU)
    with torch.no_grad():
        for p in module[0].parameters():
            p.mul_(factor)
        module[2].weight.div_(factor)
    return module


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.floats(1.5, 8), st.sampled_from(["2", "inf"]))
def test_adaptive_sharpness_survives_rescaling_of_relu_layers(
    seed: int, factor: float, norm: str
) -> None:
    task = points(seed + 1, 30, 3)
    plain, other = subject(rescaled(seed, 1)), subject(rescaled(seed, factor))
    how = {"norm": norm, "rho": 0.1, **DOUBLE}

    def both(name: str, **more: Any) -> tuple[float, float]:
        one, two = (numbers(run(name, m, sample(task), **how, **more)) for m in (plain, other))
        return one[name], two[name]

    a, b = both("sam_sharpness", adaptive=True)
    assert a == pytest.approx(b, rel=1e-6)
    a, b = both("worst_sharpness", adaptive=True, iterations=5)
    assert a == pytest.approx(b, rel=1e-4)


def test_plain_sharpness_does_not() -> None:
    task = points(1, 30, 3)

    one, two = (
        run("sam_sharpness", subject(rescaled(0, f)), sample(task))["sam_sharpness"].value
        for f in (1, 5)
    )

    assert abs(one - two) > 0.2 * abs(one)


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.permutations(range(5)))
def test_the_order_of_hidden_units_does_not_matter(seed: int, order: list[int]) -> None:
    module, permuted = mlp(seed, 3, 5, 3), mlp(seed, 3, 5, 3)
    state = permuted.state_dict()
    state["0.weight"], state["0.bias"] = state["0.weight"][order], state["0.bias"][order]
    state["2.weight"] = state["2.weight"][:, order]
    permuted.load_state_dict(state)
    examples = sample(points(seed + 1, 15, 3))

    before, after = (
        numbers(run("sam_sharpness", subject(m), examples, **DOUBLE)) for m in (module, permuted)
    )

    assert before == pytest.approx(after, rel=1e-9)


def test_centred_outputs_make_confidence_irrelevant() -> None:
    task = points(1, 30, 3)
    module, surer = mlp(0, 3, 6, 3), mlp(0, 3, 6, 3)
    with torch.no_grad():
        for p in surer[2].parameters():
            p.mul_(10)
    how = {"adaptive": True, "rho": 0.1, "center_logits": True, **DOUBLE}

    one, two = (
        run("sam_sharpness", subject(m), sample(task), **how)["sam_sharpness"].value
        for m in (module, surer)
    )

    assert one == pytest.approx(two, rel=1e-9)


def test_batches_are_weighted_by_their_examples() -> None:
    model, task = subject(mlp(1, 4, 6, 3)), points(2, 10, 4)
    how = {"rho": 0.1, **DOUBLE}

    whole = run("sam_sharpness", model, sample(task), m=8, **how)["sam_sharpness"]
    parts = [
        run("sam_sharpness", model, sample(points_of(task, part)), **how)["sam_sharpness"].value
        for part in (slice(0, 8), slice(8, 10))
    ]

    assert (8 * parts[0] + 2 * parts[1]) / 10 == pytest.approx(whole.value)
    assert whole.stderr is not None


def points_of(task: Any, part: slice) -> Any:
    from small_subjects import Given

    return Given(task.x[part], task.y[part], task.labels)


def test_the_checkpoints_of_the_step_size_are_those_of_auto_pgd() -> None:
    assert {22, 41, 57, 70, 80, 87, 93, 99} == sharpness.checkpoints(100)
    assert {5, 9, 12, 14, 16, 18, 19, 20} == sharpness.checkpoints(20)


def test_the_same_seed_gives_the_same_values_and_another_one_others() -> None:
    model, task = subject(mlp(1, 4, 6, 3)), points(2, 40, 4)

    def asked(name: str, seed: int) -> float:
        value: float = run(name, model, sample(task, seed=seed), m=20)[name].value
        return value

    assert asked("average_sharpness", 0) == asked("average_sharpness", 0)
    assert asked("average_sharpness", 0) != asked("average_sharpness", 1)
    assert asked("worst_sharpness", 0) == asked("worst_sharpness", 0)


# Edges and errors


def test_a_weight_of_zero_is_not_moved_by_adaptive_sharpness() -> None:
    loss = quadratic([0.0, 1.0], [[1000.0, 0.0], [0.0, 1.0]])
    here = loss.slope()
    generator = torch.Generator().manual_seed(0)
    scale = sharpness.scale_of(loss, adaptive=True)

    found = sharpness.worst(loss, here, scale, 0.1, "2", 20, generator)

    assert (1.1**2 - 1) / 2 == pytest.approx(found.loss)


def test_a_diverged_model_gives_no_values() -> None:
    module = mlp(1, 3, 4, 3)
    with torch.no_grad():
        module[0].weight.fill_(float("nan"))
    examples = sample(points(1, 9, 3))

    for name in ("sam_sharpness", "average_sharpness", "worst_sharpness"):
        found = run(name, subject(module), examples)
        assert [] == [n for n in found if "error" not in n]


@pytest.mark.parametrize("rho", [0, -1, [], [0.1, 0]])
def test_a_radius_is_above_zero(rho: Any) -> None:
    with pytest.raises(ValidationError):
        METRICS["sam_sharpness"].parameters(rho=rho)


def test_the_work_told_is_what_was_announced() -> None:
    class Counting:
        told = 0

        def start(self, total_bytes: int, label: str) -> None: ...

        def advance(self, nbytes: int) -> None:
            self.told += nbytes

        def done(self) -> None: ...

    for name in ("sam_sharpness", "average_sharpness", "worst_sharpness"):
        listening, metric = Counting(), METRICS[name]
        assert metric.passes is not None
        run(name, subject(mlp(1, 4, 6, 3)), sample(points(2, 40, 4), progress=listening))

        assert metric.passes(metric.parameters(), 1) * 40 == listening.told
