"""Hessian metrics: the specified numbers, the exact Hessian, an oracle, and what must not vary."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_subjects import (
    Given,
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

from zoo.errors import IncompatibleModels, InvalidCheckpoint, InvalidRecipe
from zoo.landscape import hessian as numerics
from zoo.landscape.lanczos import Lanczos, lanczos
from zoo.landscape.objective import Objective, objective
from zoo.subject import Subject
from zoo.task import Task

CASE = golden("metrics-hessian")
WANTED = CASE["expected"]


def softmax_regression() -> tuple[nn.Module, Given]:
    module = nn.Linear(2, 3, bias=False, dtype=torch.float64)
    with torch.no_grad():
        module.weight.copy_(torch.tensor(CASE["weight"], dtype=torch.float64))
    x = torch.tensor(CASE["x"], dtype=torch.float64)
    return module, Given(x, torch.tensor(CASE["labels"]))


def loss_of(module: nn.Module, task: Task, batch: int = 256) -> Objective:
    return objective(subject(module), sample(task, batch=batch), "float64")


def exact(loss: Objective) -> np.ndarray:
    """The Hessian, column by column."""
    return np.stack([loss.hvp(e).numpy() for e in torch.eye(loss.size, dtype=torch.float64)])


def by_torch(module: nn.Module, task: Given) -> np.ndarray:
    """The exact Hessian by torch's own function."""
    names = [n for n, _ in module.named_parameters()]
    theta = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
    sizes = [p.numel() for p in module.parameters()]
    shapes = [p.shape for p in module.parameters()]

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = [p.view(s) for p, s in zip(flat.split(sizes), shapes, strict=True)]
        outputs = torch.func.functional_call(
            module, dict(zip(names, parts, strict=True)), (task.x,)
        )
        return nn.functional.cross_entropy(outputs, task.y)

    found: np.ndarray = torch.autograd.functional.hessian(loss, theta).numpy()
    return found


# Golden numbers


@pytest.mark.parametrize("batch", [2, 6])
def test_products_with_the_hessian_give_the_golden_numbers(batch: int) -> None:
    loss = loss_of(*softmax_regression(), batch=batch)

    slope = loss.slope()
    product = loss.hvp(torch.tensor(CASE["v"], dtype=torch.float64))

    np.testing.assert_allclose(WANTED["hessian"], exact(loss), atol=1e-9)
    np.testing.assert_allclose(WANTED["hvp"], product, atol=1e-9)
    np.testing.assert_allclose(WANTED["loss"], slope.loss, atol=1e-9)
    assert slope.gradient is not None
    np.testing.assert_allclose(np.ravel(WANTED["grad"]), slope.gradient, atol=1e-9)


def test_power_iteration_gives_the_golden_number_in_as_many_steps() -> None:
    loss = loss_of(*softmax_regression())
    start = torch.tensor(CASE["params"]["power_start"], dtype=torch.float64)

    (found,) = numerics.power_iteration(loss.hvp, [start])
    (null,) = numerics.power_iteration(loss.hvp, [torch.ones_like(start)])

    assert WANTED["power_iteration"]["value"] == pytest.approx(found.value, abs=1e-9)
    assert WANTED["power_iteration"]["iterations"] == found.iterations
    assert WANTED["power_iteration"]["value_from_null_start_ones"] == pytest.approx(
        null.value, abs=1e-9
    )


def test_lanczos_gives_the_golden_numbers() -> None:
    loss = loss_of(*softmax_regression())
    case = WANTED["lanczos3"]
    run_ = Lanczos(loss.hvp, torch.tensor(case["start"], dtype=torch.float64))
    for _ in range(3):
        run_.step()
    ritz = run_.ritz()

    np.testing.assert_allclose(case["alpha"], run_.alpha, atol=1e-9)
    np.testing.assert_allclose(case["beta"], run_.beta[:2], atol=1e-9)
    np.testing.assert_allclose(case["ritz_values"], ritz.values, atol=1e-9)
    np.testing.assert_allclose(case["weights"], ritz.weights, atol=1e-9)


def test_the_mean_over_all_sign_vectors_is_the_trace() -> None:
    loss = loss_of(*softmax_regression())
    signs = [torch.tensor(s, dtype=torch.float64) for s in itertools.product((-1, 1), repeat=6)]

    found = loss.curvatures(signs)

    assert WANTED["trace"] == pytest.approx(np.mean(found), abs=1e-9)
    low, high = WANTED["rademacher_quadratic_range"]
    assert (low, high) == pytest.approx((min(found), max(found)), abs=1e-9)


def test_lanczos_finds_the_golden_leading_eigenvalues() -> None:
    loss = loss_of(*softmax_regression())
    start = torch.tensor(CASE["params"]["power_start"], dtype=torch.float64)

    found = numerics.leading(loss.hvp, start, 3)

    np.testing.assert_allclose(WANTED["eigenvalues"][:3], [e.value for e in found], atol=1e-9)


# The exact Hessian, and an oracle in numpy


@pytest.mark.parametrize("solver", ["lanczos", "power"])
def test_the_metric_agrees_with_the_exact_hessian_to_one_percent(solver: str) -> None:
    module, task = mlp(1, 8, 14, 10, 3), points(2, 60, 8)
    h = by_torch(module, task)
    values = np.linalg.eigvalsh(h)
    order = np.argsort(-abs(values))

    found = run(
        "hessian",
        subject(module),
        sample(task, batch=60),
        solver=solver,
        top=2,
        iterations=300,
        tolerance=1e-5,
        probes=400,
        dtype="float64",
    )

    assert 300 < len(h) < 400
    assert values[order[0]] == pytest.approx(found["hessian_top"].value, rel=1e-2)
    assert values[order[1]] == pytest.approx(found["hessian_top/2"].value, rel=1e-2)
    assert np.trace(h) == pytest.approx(found["hessian_trace"].value, rel=1e-2)
    assert np.trace(h) / len(h) == pytest.approx(found["hessian_mean"].value, rel=1e-2)


def test_the_hessian_is_that_of_differences_of_a_gradient_written_by_hand() -> None:
    sizes = (4, 5, 3)
    module, task = mlp(3, *sizes), points(4, 20, 4)
    loss = loss_of(module, task, batch=7)
    theta = loss.start.numpy()
    x, y = task.x.numpy(), task.y.numpy()

    def slope(at: np.ndarray) -> np.ndarray:
        return network_loss(at, sizes, x, y)[1]

    step = 1e-5
    unit = np.eye(loss.size) * step
    wanted = np.stack([(slope(theta + e) - slope(theta - e)) / (2 * step) for e in unit])

    np.testing.assert_allclose(wanted, exact(loss), atol=1e-8)
    assert network_loss(theta, sizes, x, y)[0] == pytest.approx(loss.at().loss, abs=1e-12)


def test_the_standard_error_says_how_far_the_trace_may_be() -> None:
    module, task = mlp(5, 8, 14, 10, 3), points(6, 30, 8)
    h = by_torch(module, task)
    spread = math.sqrt(2 * (np.sum(h**2) - np.sum(np.diag(h) ** 2)) / 300)

    found = run("hessian", subject(module), sample(task), probes=300, dtype="float64")
    trace = found["hessian_trace"]

    assert spread == pytest.approx(trace.stderr, rel=0.2)
    assert abs(np.trace(h) - trace.value) < 4 * spread


def test_as_many_probes_as_parameters_make_the_trace_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    module, task = mlp(5, 3, 4, 3), points(6, 30, 3)
    monkeypatch.setattr(numerics, "_PROBE_BYTES", 8 * 31 * 7)  # seven at once

    found = numerics.trace(loss_of(module, task, 8), 31, torch.Generator())

    assert np.trace(by_torch(module, task)) == pytest.approx(found.value, rel=1e-9)
    assert 0 == found.stderr


def test_a_tolerance_stops_the_trace_early() -> None:
    module, task = mlp(5, 8, 14, 10, 3), points(6, 30, 8)
    loss = loss_of(module, task)
    generator = torch.Generator().manual_seed(0)

    found = numerics.trace(loss, 300, generator, 0.1)

    assert 10 <= found.repeats < 300
    assert found.stderr is not None
    assert found.stderr <= 0.1 * found.value


def test_the_density_has_the_moments_and_the_extremes_of_the_spectrum() -> None:
    module, task = mlp(7, 4, 5, 3), points(8, 25, 4)
    h = by_torch(module, task)
    values = np.linalg.eigvalsh(h)
    loss = loss_of(module, task)

    # Over all unit vectors in place of random ones, the quadrature is exact.
    units = torch.eye(loss.size, dtype=torch.float64)
    every = [lanczos(loss.hvp, e, loss.size) for e in units]
    both = numerics.joined([numerics.Spectrum(r.values, r.weights, loss.size) for r in every])
    weights, nodes = both.weights.numpy(), both.values.numpy()
    x, rho = numerics.density(both)

    assert weights.sum() == pytest.approx(1)
    assert np.trace(h) / len(h) == pytest.approx(weights @ nodes)
    assert (h**2).sum() / len(h) == pytest.approx(weights @ nodes**2)
    assert (values[0], values[-1]) == pytest.approx((nodes[0], nodes[-1]), abs=1e-8)
    assert float(torch.trapezoid(rho, x)) == pytest.approx(1)
    wanted = sum(v / (v + 0.5) for v in values if v > 0)
    assert wanted == pytest.approx(numerics.effective_dimension(both, 0.5), rel=1e-6)
    share = np.mean(values < -1e-3 * abs(values).max())
    assert share == pytest.approx(numerics.negative_mass(both), abs=1e-6)


def test_the_density_metric_gives_what_the_library_does() -> None:
    module, task = mlp(7, 4, 5, 3), points(8, 25, 4)

    found = run(
        "hessian_density", subject(module), sample(task), starts=3, steps=60, dtype="float64"
    )

    values = np.linalg.eigvalsh(by_torch(module, task))
    assert values[-1] == pytest.approx(found["hessian_largest"].value, rel=1e-6)
    assert values[0] == pytest.approx(found["hessian_smallest"].value, rel=1e-6)
    assert found["hessian_effective_dimension"].stderr is not None
    assert 0 < found["hessian_negative_mass"].value < 1


# What must not vary, and what must


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 30))
def test_products_are_symmetric_and_alike_for_any_batch_size(seed: int, batch: int) -> None:
    module, task = mlp(seed, 3, 4, 3), points(seed + 1, 30, 3)
    whole, streamed = loss_of(module, task), loss_of(module, task, batch)
    generator = torch.Generator().manual_seed(seed)
    u, v = (numerics.gaussian(whole, generator) for _ in range(2))

    assert float(u @ whole.hvp(v)) == pytest.approx(float(v @ whole.hvp(u)), rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(whole.hvp(v), streamed.hvp(v), atol=1e-12)


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_no_rayleigh_quotient_exceeds_the_top_eigenvalue(seed: int) -> None:
    loss = loss_of(mlp(seed, 3, 4, 3), points(seed + 1, 15, 3))
    generator = torch.Generator().manual_seed(seed)
    u, v = (numerics.gaussian(loss, generator) for _ in range(2))

    (top,) = numerics.leading(loss.hvp, u)
    quotient = float(v @ loss.hvp(v)) / float(v @ v)

    assert abs(quotient) <= abs(top.value) * (1 + 1e-3)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.permutations(range(5)))
def test_the_order_of_hidden_units_does_not_matter(seed: int, order: list[int]) -> None:
    module, task = mlp(seed, 3, 5, 3), points(seed + 1, 15, 3)
    permuted = mlp(seed, 3, 5, 3)
    state = permuted.state_dict()
    state["0.weight"], state["0.bias"] = state["0.weight"][order], state["0.bias"][order]
    state["2.weight"] = state["2.weight"][:, order]
    permuted.load_state_dict(state)

    before, after = (np.linalg.eigvalsh(exact(loss_of(m, task))) for m in (module, permuted))

    np.testing.assert_allclose(before, after, atol=1e-10)


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.floats(0.1, 10))
def test_values_scale_with_the_loss(seed: int, scale: float) -> None:
    module, task = mlp(seed, 3, 4, 3), points(seed + 1, 15, 3)
    scaled = Given(task.x, task.y, task.labels, scale)
    how = {"probes": 5, "dtype": "float64"}

    plain = numbers(run("hessian", subject(module), sample(task), **how))
    larger = numbers(run("hessian", subject(module), sample(scaled), **how))

    for name in ("hessian_top", "hessian_trace", "hessian_mean"):
        assert scale * plain[name] == pytest.approx(larger[name], rel=1e-6)


def test_rescaling_the_layers_of_a_relu_network_changes_the_trace() -> None:
    module, task = mlp(9, 3, 6, 3, activation=nn.ReLU), points(10, 30, 3)
    rescaled = mlp(9, 3, 6, 3, activation=nn.ReLU)
    with torch.no_grad():
        for p in rescaled[0].parameters():
            p.mul_(4)
        rescaled[2].weight.div_(4)
    one, other = loss_of(module, task), loss_of(rescaled, task)

    assert one.at().loss == pytest.approx(other.at().loss)
    assert np.trace(exact(other)) > 1.5 * np.trace(exact(one))


def test_a_linear_softmax_model_has_no_negative_curvature() -> None:
    module, task = softmax_regression()

    found = numbers(run("hessian_density", subject(module), sample(task), dtype="float64"))

    assert found["hessian_negative_mass"] == 0
    assert found["hessian_smallest"] == pytest.approx(0, abs=1e-9)
    assert found["hessian_largest"] == pytest.approx(WANTED["eigenvalues"][0])


def test_the_same_seed_gives_the_same_values_and_another_one_others() -> None:
    model, task = subject(mlp(1, 4, 6, 3).float()), points(2, 40, 4)

    def asked(seed: int) -> dict[str, float]:
        return numbers(run("hessian", model, sample(task, batch=16, seed=seed), probes=7))

    assert asked(0) == asked(0)
    assert asked(0)["hessian_trace"] != asked(1)["hessian_trace"]


# Modules of all kinds


class Tied(nn.Module):
    """A weight that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.second(torch.tanh(self.first(x)))
        return out


class Attention(nn.Module):
    """One head over a few tokens, then their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(2, 12)
        self.out = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x.view(len(x), 4, 2)).view(len(x), 4, 3, 1, 4).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        out: torch.Tensor = self.out(mixed.mean(2).squeeze(1))
        return out


def test_a_tied_weight_counts_once() -> None:
    torch.manual_seed(0)
    module, task = Tied().double(), points(1, 20, 3)

    loss = loss_of(module, task)

    assert loss.size == 9
    np.testing.assert_allclose(by_torch(module, task), exact(loss), atol=1e-10)


def test_attention_has_second_derivatives() -> None:
    torch.manual_seed(0)
    module, task = Attention().double(), points(1, 12, 8)

    loss = loss_of(module, task, batch=5)
    h = exact(loss)

    step, e = 1e-5, torch.zeros(loss.size, dtype=torch.float64)
    e[3] = step
    ahead, behind = loss.slope(e).gradient, loss.slope(-e).gradient
    assert ahead is not None and behind is not None
    np.testing.assert_allclose((ahead - behind) / (2 * step), h[3], atol=1e-8)


def test_running_statistics_and_dropout_stay_out_of_it() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(4)
    norm.running_mean = torch.randn(4)
    module = nn.Sequential(nn.Linear(3, 4), norm, nn.Dropout(0.5), nn.Tanh(), nn.Linear(4, 3))
    task = points(1, 20, 3)
    seen = []

    def make() -> nn.Module:
        seen.append(module)
        return module

    model = Subject("m", "", subject(module).checkpoint, make=make)
    before = {n: b.clone() for n, b in module.double().named_buffers()}
    one = numbers(run("hessian", model, sample(task, batch=6), probes=4, dtype="float64"))
    two = numbers(run("hessian", model, sample(task, batch=20), probes=4, dtype="float64"))

    assert one == pytest.approx(two, rel=1e-6, abs=1e-6)
    assert all(torch.equal(before[n], b) for n, b in module.named_buffers())


def test_half_precision_weights_are_measured_in_float32() -> None:
    half, task = mlp(1, 4, 6, 3).bfloat16(), points(2, 40, 4)

    found = numbers(run("hessian", subject(half), sample(task), probes=4))
    wanted = numbers(run("hessian", subject(half.float()), sample(task), probes=4))

    assert wanted == found


def test_a_frozen_parameter_is_no_direction() -> None:
    module, task = mlp(1, 3, 4, 3), points(2, 20, 3)
    module[0].requires_grad_(False)

    assert loss_of(module, task).size == 15


# Errors, and what is not a number


def test_a_diverged_model_gives_no_values() -> None:
    module = mlp(1, 3, 4, 3)
    with torch.no_grad():
        module[0].weight.fill_(math.nan)

    assert run("hessian", subject(module), sample(points(1, 9, 3)), probes=2) == {}
    assert run("hessian_density", subject(module), sample(points(1, 9, 3))) == {}


def test_one_probe_has_no_standard_error() -> None:
    found = run("hessian", subject(mlp(1, 3, 4, 3)), sample(points(1, 9, 3)), probes=1)

    assert found["hessian_trace"].stderr is None


def test_a_head_of_other_classes_is_refused() -> None:
    with pytest.raises(IncompatibleModels, match="3 labels"):
        run("hessian", subject(mlp(1, 3, 4, 5)), sample(points(1, 9, 3)))


def test_a_sample_without_examples_is_refused() -> None:
    with pytest.raises(InvalidCheckpoint, match="no examples"):
        run("hessian", subject(mlp(1, 3, 4, 3)), sample(points(1, 0, 3)))


def test_a_module_without_parameters_is_refused() -> None:
    with pytest.raises(IncompatibleModels, match="no trainable parameters"):
        run("hessian", subject(nn.Sequential(nn.Tanh())), sample(points(1, 9, 3)))


def test_the_work_told_is_at_most_what_was_announced() -> None:
    from small_subjects import METRICS

    class Counting:
        told = 0

        def start(self, total_bytes: int, label: str) -> None:
            raise AssertionError("the caller begins")

        def advance(self, nbytes: int) -> None:
            self.told += nbytes

        def done(self) -> None:
            raise AssertionError("the caller ends")

    task = points(2, 40, 4)
    for name in ("hessian", "hessian_density"):
        listening = Counting()
        metric = METRICS[name]
        settings_ = metric.parameters()
        assert metric.passes is not None
        run(name, subject(mlp(1, 4, 6, 3)), sample(task, progress=listening))

        assert 0 < listening.told <= metric.passes(settings_, 1) * 40


def test_a_large_sample_is_read_anew_and_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = subject(mlp(1, 4, 6, 3)), points(2, 40, 4)
    kept = numbers(run("hessian", model, sample(task, batch=16), probes=3))

    monkeypatch.setattr("zoo.landscape.examples.KEPT_BYTES", 100)

    assert kept == numbers(run("hessian", model, sample(task, batch=16), probes=3))


def test_an_exhausted_space_ends_lanczos() -> None:
    h = torch.diag(torch.tensor([3.0, 2.0, 0.0, 0.0], dtype=torch.float64))

    ritz = lanczos(lambda v: h @ v, torch.tensor([1.0, 1, 0, 0], dtype=torch.float64), 4)

    np.testing.assert_allclose([2, 3], ritz.values, atol=1e-12)
    np.testing.assert_allclose([0, 0], ritz.residuals, atol=1e-12)


def test_a_model_too_large_for_lanczos_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = subject(mlp(1, 4, 6, 3)), points(2, 40, 4)
    monkeypatch.setattr("zoo.landscape.lanczos.memory", lambda: 1000)

    with pytest.raises(InvalidRecipe, match="solver=power"):
        run("hessian", model, sample(task))
    assert "hessian_top" in run("hessian", model, sample(task), solver="power")
