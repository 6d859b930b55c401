"""Curves between models: the specified numbers, an oracle's training, and what must hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pair_subjects import (
    Points,
    Surface,
    Weights,
    cross_entropy,
    forward,
    golden,
    measured,
    mlp,
    numbers,
    subject,
    trained,
)
from torch import nn

from zoo.errors import GateFailed, IncompatibleModels
from zoo.paths.curve import (
    Curve,
    CurveTraining,
    bernstein,
    length_mean,
    rate,
    signed_connectivity,
    train_curve,
)
from zoo.paths.profile import along, even_positions
from zoo.sample import Sample

State = dict[str, torch.Tensor]


def state(*values: float) -> State:
    return {"weights": torch.tensor(values, dtype=torch.float64)}


def ends(a: nn.Module, b: nn.Module) -> tuple[State, State]:
    return dict(a.state_dict()), dict(b.state_dict())


# Golden numbers


def test_points_of_the_curve_are_the_golden_ones() -> None:
    case = golden("mode-connectivity")
    curve = Curve((state(*case["w0"]), state(*case["w2"])), [state(*case["theta"])])

    found = [curve(t)["weights"].tolist() for t in even_positions(5)]

    np.testing.assert_allclose(found, case["expected"]["points"], rtol=1e-12)


def test_an_untrained_curve_is_the_straight_line() -> None:
    case = golden("mode-connectivity")
    a, b = state(*case["w0"]), state(*case["w2"])

    curve = train_curve(Weights([0.0] * 3), (a, b), Sample(Points()), CurveTraining(epochs=0))

    np.testing.assert_allclose(
        curve(0.5)["weights"], case["expected"]["linear_init_middle"], rtol=1e-12
    )


@pytest.mark.parametrize("name", ["barrier", "deeper_middle", "flat"])
def test_signed_connectivity_is_the_golden_one(name: str) -> None:
    case = golden("mode-connectivity")

    value, index = signed_connectivity(case["curves"][name])

    assert case["expected"]["mc"][name]["value"] == pytest.approx(value)
    assert case["expected"]["mc"][name]["index"] == index


# An oracle


def test_a_curve_is_trained_as_the_oracle_trains_it() -> None:
    target, decay = torch.tensor([0.3, -0.4, 1.0], dtype=torch.float64), 0.1
    a, b = state(1, 2, 3), state(-1, 0.5, 2)
    plan = CurveTraining(epochs=6, lr=0.2, weight_decay=decay, momentum=0.8, batch=2)
    sample = Sample(Surface(lambda w: (w - target).square().sum() / 2), seed=5)

    curve = train_curve(Weights([0.0] * 3), (a, b), sample, plan)

    inner, speed = (a["weights"] + b["weights"]).numpy() / 2, np.zeros(3)
    draws = sample.generator()
    for epoch in range(plan.epochs):
        for _ in range(2):  # batches: the data of `Surface` has one order, so only t is drawn
            t = float(torch.rand((), generator=draws))
            w = (1 - t) ** 2, 2 * t * (1 - t), t**2
            at = w[0] * a["weights"].numpy() + w[1] * inner + w[2] * b["weights"].numpy()
            speed = plan.momentum * speed + w[1] * (at - target.numpy() + decay * at)
            inner = inner - plan.lr * rate(epoch / plan.epochs) * speed
    np.testing.assert_allclose(curve.inner[0]["weights"], inner, rtol=1e-10)


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batchnorm"])
def test_values_are_those_of_the_curve(norm: bool) -> None:
    task, a, b = Points(), trained(1, norm), trained(2, norm)
    sample = Sample(task, "train", seed=3)
    plan = CurveTraining(epochs=3, lr=0.1, weight_decay=1e-3)
    curve = train_curve(mlp(0, norm=norm), ends(a, b), sample, plan)
    x, y = (t.numpy() for t in task.data["train"])
    losses, errors, steps = [], [], []
    for t in np.linspace(0, 1, 5):
        w = {n: v.numpy() for n, v in curve(t).items()}
        h = x @ w["0.weight"].T + w["0.bias"]
        logits = forward(w, x, (h.mean(0), h.var(0, ddof=1)) if norm else None)
        losses.append(cross_entropy(logits, y).mean())
        errors.append((logits.argmax(1) != y).mean())
        steps.append(np.concatenate([v.ravel() for v in w.values() if v.dtype == np.float64]))

    found = measured(
        "mode_connectivity",
        [subject(a), subject(b)],
        sample,
        epochs=3,
        lr=0.1,
        weight_decay=1e-3,
    )

    lengths = np.linalg.norm(np.diff(steps, axis=0), axis=1)
    for name, mean, unit, values in (
        ("loss_connectivity", "curve_loss", 1, np.array(losses)),
        ("mode_connectivity", "curve_error", 100, np.array(errors)),
    ):
        middle = (values[0] + values[-1]) / 2
        farthest = max(values[1:-1], key=lambda v: abs(middle - v))
        assert unit * (middle - farthest) == pytest.approx(found[name].value)
        between = (values[1:] + values[:-1]) / 2
        assert np.average(between, weights=lengths) == pytest.approx(found[mean].value)


# What must hold


@given(st.integers(2, 6), st.floats(0, 1))
def test_the_weights_of_the_points_sum_to_one(points: int, t: float) -> None:
    found = bernstein(points, t)

    assert points == len(found)
    assert all(w >= 0 for w in found)
    assert 1 == pytest.approx(sum(found))
    assert found == pytest.approx(bernstein(points, 1 - t)[::-1])


curves = st.lists(st.integers(-1000, 1000).map(lambda n: n / 10), min_size=3, max_size=7)


@given(curves)
def test_connectivity_mirrors_where_one_point_is_farthest(values: list[float]) -> None:
    value, index = signed_connectivity(values)

    middle = (values[0] + values[-1]) / 2
    assert all(abs(middle - v) <= abs(value) + 1e-9 for v in values[1:-1])
    far = [v for v in values[1:-1] if abs(abs(middle - v) - abs(value)) < 1e-9]
    if len(set(far)) == 1:
        assert value == pytest.approx(signed_connectivity(values[::-1])[0])
        negated, at = signed_connectivity([-v for v in values])
        assert (-value, index) == (pytest.approx(negated), at)


def test_the_curve_ends_in_the_models() -> None:
    a, b = trained(1, True), trained(2, True)
    a[1].num_batches_tracked.fill_(7)

    curve = train_curve(mlp(0, norm=True), ends(a, b), Sample(Points(), "train"), CurveTraining())

    for end, module in ((0, a), (1, b)):
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                assert torch.equal(tensor, curve(end)[name])
    assert 7 == curve(0)["1.num_batches_tracked"]


def test_training_lowers_the_loss_along_the_curve() -> None:
    a, b = trained(1), trained(2)
    sample = Sample(Points(), "train")
    at = even_positions(11)

    def mean(epochs: int) -> float:
        plan = CurveTraining(epochs=epochs, lr=0.05, weight_decay=0, batch=20)
        curve = train_curve(mlp(0), ends(a, b), sample, plan)
        return float(np.mean(along(mlp(0), curve, at, sample).loss))

    assert mean(20) < 0.8 * mean(0)


def test_the_same_seed_gives_the_same_curve_and_another_one_another() -> None:
    a, b = trained(1), trained(2)
    module, plan = mlp(0).train(), CurveTraining(epochs=2, batch=16)
    before = {n: t.clone() for n, t in module.state_dict().items()}
    sample = Sample(Points(), "train", count=30, seed=4)

    found = [train_curve(module, ends(a, b), sample, plan).inner[0] for _ in range(2)]
    other = train_curve(module, ends(a, b), replace(sample, seed=5), plan).inner[0]

    assert all(torch.equal(found[0][n], found[1][n]) for n in found[0])
    assert not torch.equal(found[0]["0.weight"], other["0.weight"])
    assert all(torch.equal(before[n], t) for n, t in module.state_dict().items())
    assert all(part.training for part in module.modules())


def test_a_curve_of_more_points_bends_at_each() -> None:
    a, b = trained(1), trained(2)

    curve = train_curve(
        mlp(0), ends(a, b), Sample(Points(), "train"), CurveTraining(bends=5, epochs=2)
    )

    assert 3 == len(curve.inner)
    starts = [torch.lerp(a[0].weight, b[0].weight, i / 4).detach() for i in (1, 2, 3)]
    moved = [float((p["0.weight"] - s).norm()) for p, s in zip(curve.inner, starts, strict=True)]
    assert all(m > 1e-4 for m in moved)


def test_tied_weights_stay_tied_along_the_curve() -> None:
    class Tied(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.one = nn.Linear(4, 4, bias=False).double()
            self.two = nn.Linear(4, 4, bias=False).double()
            self.two.weight = self.one.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(torch.tanh(self.one(x)))[:, :3]

    a, b = Tied(1), Tied(2)

    curve = train_curve(Tied(0), ends(a, b), Sample(Points(), "train"), CurveTraining(epochs=2))

    middle = curve(0.5)
    assert torch.equal(middle["one.weight"], middle["two.weight"])
    assert not torch.allclose(middle["one.weight"], torch.lerp(a.one.weight, b.one.weight, 0.5))


def test_the_learning_rate_falls_after_half_of_the_epochs() -> None:
    assert [1, 1, pytest.approx(0.505), pytest.approx(0.01), 0.01] == [
        rate(done) for done in (0, 0.5, 0.7, 0.9, 1)
    ]


def test_a_mean_along_no_length_is_the_plain_one() -> None:
    assert 2 == length_mean([state(1), state(1), state(1)], [1, 2, 3])
    assert 2.625 == length_mean([state(0), state(1), state(4)], [1, 2, 4])


# Errors


def test_a_loss_that_explodes_is_told() -> None:
    with pytest.raises(GateFailed, match="smaller learning rate"):
        numbers(
            "mode_connectivity",
            [subject(trained(1)), subject(trained(2))],
            Sample(Points(), "train"),
            lr=1e200,
        )


def test_models_of_different_shapes_have_no_curve() -> None:
    with pytest.raises(IncompatibleModels, match="no common path"):
        numbers(
            "mode_connectivity",
            [subject(mlp(1)), subject(mlp(2, width=7))],
            Sample(Points(), "train"),
        )
