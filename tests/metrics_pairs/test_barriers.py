"""Barriers: the specified numbers, those of an oracle, and what must hold for any two models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pair_subjects import (
    Array,
    Points,
    Surface,
    Weights,
    between,
    cross_entropy,
    forward,
    golden,
    measured,
    mlp,
    numbers,
    subject,
    trained,
    weights_of,
)
from torch import nn

from zoo.errors import IncompatibleModels, InvalidRecipe
from zoo.paths.profile import barrier, even_positions, line, norm_sample, rises
from zoo.paths.states import mixed
from zoo.sample import Sample

POSITIONS = np.linspace(0, 1, 11)
curves = st.lists(st.floats(-10, 10), min_size=3, max_size=9)


# Golden numbers


def test_heights_are_the_golden_ones() -> None:
    case = golden("barrier")
    at, expected = case["params"]["lambdas"], case["expected"]

    found = barrier(at, case["losses"])

    np.testing.assert_allclose(
        rises(at, case["losses"]), expected["loss_barrier_per_point"], atol=1e-12
    )
    assert expected["loss_barrier"] == pytest.approx(found.height)
    assert expected["argmax_lambda"] == at[found.index]
    assert expected["midpoint_barrier"] == pytest.approx(rises(at, case["losses"])[2])
    errors = [1 - accuracy for accuracy in case["accuracies"]]
    assert expected["error_barrier"] == pytest.approx(barrier(at, errors).height)
    assert expected["monotone_case"] == barrier(at, [0.5, 0.4, 0.3, 0.2, 0.1]).height


def test_the_metric_gives_the_golden_barriers_of_a_loss_on_a_line() -> None:
    case = golden("barrier")
    losses = torch.tensor(case["losses"], dtype=torch.float64)
    task = Surface(lambda w: losses[int((w[0] * 4).round())])

    found = numbers(
        "barrier", [subject(Weights([0.0])), subject(Weights([1.0]))], Sample(task), points=5
    )

    expected = case["expected"]
    assert expected["loss_barrier"] == pytest.approx(found["barrier"])
    assert expected["midpoint_barrier"] == pytest.approx(found["midpoint_barrier"])
    assert expected["barrier_vs_max_endpoint"] == pytest.approx(found["barrier_over_worse"])
    assert expected["argmax_lambda"] == found["barrier_position"]
    assert "error_barrier" not in found  # the task has no labels


def test_three_models_give_the_golden_statistics_of_strong_connectivity() -> None:
    case = golden("simultaneous-lmc")
    ends = torch.tensor(case["endpoint_losses"], dtype=torch.float64)
    heights = dict(zip(combinations(range(3), 2), case["pairwise_barriers"], strict=True))

    def loss(w: torch.Tensor) -> torch.Tensor:
        """The golden losses at the corners, on the edges and in the middle of a triangle."""
        edges = sum(4 * h * w[i] * w[j] for (i, j), h in heights.items())
        rest = case["barycenter_loss"] - ends.mean() - 4 / 9 * sum(heights.values())
        return w @ ends + edges + 27 * rest * w.prod()

    corners = [subject(Weights(row), f"model {i}") for i, row in enumerate(np.eye(3))]
    found = numbers("set_barrier", corners, Sample(Surface(loss)))

    assert case["expected"]["simplex_barrier"] == pytest.approx(found["simplex_barrier"])
    assert case["expected"]["max_barrier_three"] == pytest.approx(found["largest_barrier"])


# An oracle


def curve(a: nn.Module, b: nn.Module, task: Points, norm: bool) -> tuple[Array, Array]:
    """Loss and error of each example at each position, shapes (11, n); BatchNorm's statistics are
    those of the whole training split, in one batch."""
    x, y = (t.numpy() for t in task.data["test"])
    inner = task.data["train"][0].numpy()
    losses, errors = [], []
    for t in POSITIONS:
        w = between(weights_of(a), weights_of(b), t)
        h = inner @ w["0.weight"].T + w["0.bias"]
        stats = (h.mean(0), h.var(0, ddof=1)) if norm else None
        logits = forward(w, x, stats)
        losses.append(cross_entropy(logits, y))
        errors.append(logits.argmax(1) != y)
    return np.array(losses), np.array(errors, float)


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batchnorm"])
@pytest.mark.parametrize("batch", [7, 256])
def test_values_are_those_of_the_oracle(norm: bool, batch: int) -> None:
    task, a, b = Points(), trained(1, norm), trained(2, norm)
    # With BatchNorm the training split must be one batch, as it is for the oracle.
    sample = Sample(task, batch=64 if norm else batch)

    found = measured("barrier", [subject(a), subject(b)], sample)

    for kind, each in zip(("", "error_"), curve(a, b, task, norm), strict=True):
        mean = each.mean(1)
        above = mean - ((1 - POSITIONS) * mean[0] + POSITIONS * mean[-1])
        top = int(above.argmax())
        assert above[top] > 0.01
        assert above[top] == pytest.approx(found[f"{kind}barrier"].value, abs=1e-12)
        assert above[5] == pytest.approx(found[f"midpoint_{kind}barrier"].value, abs=1e-12)
        t = POSITIONS[top]
        paired = each[top] - (1 - t) * each[0] - t * each[-1]
        error = paired.std(ddof=1) / np.sqrt(len(paired))
        assert error == pytest.approx(found[f"{kind}barrier"].stderr)
        if not kind:
            assert mean.max() - (mean[0] + mean[-1]) / 2 == pytest.approx(
                found["barrier_over_mean"].value
            )
            assert min(t, 1 - t) == pytest.approx(found["barrier_position"].value)


def test_the_barriers_of_a_set_are_those_of_its_pairs_and_of_its_mean() -> None:
    task = Points()
    modules = [trained(seed) for seed in range(3)]
    x, y = (t.numpy() for t in task.data["test"])
    every = [weights_of(m) for m in modules]
    center = {n: sum(w[n] for w in every) / 3 for n in every[0]}
    each = np.array([cross_entropy(forward(w, x), y) for w in (*every, center)])
    paired = each[3] - each[:3].mean(0)

    found = measured(
        "set_barrier", [subject(m, str(i)) for i, m in enumerate(modules)], Sample(task)
    )

    assert paired.mean() == pytest.approx(found["simplex_barrier"].value)
    assert paired.std(ddof=1) / np.sqrt(len(y)) == pytest.approx(found["simplex_barrier"].stderr)
    pairs = [
        numbers("barrier", [subject(a), subject(b)], Sample(task))
        for a, b in combinations(modules, 2)
    ]
    for name in ("barrier", "error_barrier"):
        assert max(p[name] for p in pairs) == found[f"largest_{name}"].value


def test_a_loss_of_the_tasks_own_has_a_standard_error_over_batches() -> None:
    class Doubled(Points):
        def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return 2 * super().loss(outputs, targets)

    a, b = trained(1), trained(2)
    losses, _ = curve(a, b, Points(), norm=False)

    found = measured("barrier", [subject(a), subject(b)], Sample(Doubled(), batch=10))

    batches = 2 * losses.reshape(11, 4, 10).mean(2)
    mean = batches.mean(1)
    above = mean - ((1 - POSITIONS) * mean[0] + POSITIONS * mean[-1])
    top = int(above.argmax())
    t = POSITIONS[top]
    paired = batches[top] - (1 - t) * batches[0] - t * batches[-1]
    assert above[top] == pytest.approx(found["barrier"].value)
    assert paired.std(ddof=1) / 2 == pytest.approx(found["barrier"].stderr)


def test_tokens_that_are_ignored_are_no_wrong_answers() -> None:
    class Tokens(Points):
        """Each example is one answer, and one that nobody asked for."""

        def batches(self, split: str, size: int = 256):  # type: ignore[no-untyped-def]
            for x, y in super().batches(split, size):
                yield x, torch.stack([y, torch.full_like(y, -100)], 1)

        def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return super().loss(outputs.flatten(0, 1), targets.flatten())

    class Twice(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)[:, None].expand(-1, 2, -1)

    pair = [subject(mlp(1)), subject(mlp(2))]
    twice = [subject(Twice(mlp(1))), subject(Twice(mlp(2)))]

    assert numbers("barrier", pair, Sample(Points())) == pytest.approx(
        numbers("barrier", twice, Sample(Tokens()))
    )


# What must hold


@given(curves)
def test_a_barrier_is_never_below_zero_and_mirrors(values: list[float]) -> None:
    at = even_positions(len(values))

    found, mirrored = barrier(at, values), barrier(at, values[::-1])

    assert found.height >= 0
    assert found.height == pytest.approx(mirrored.height, abs=1e-9)
    assert found.height >= values[found.index] - max(values[0], values[-1]) - 1e-9


@given(curves, st.floats(-5, 5), st.floats(-5, 5))
def test_a_straight_line_added_to_a_curve_leaves_its_barrier(
    values: list[float], slope: float, height: float
) -> None:
    at = even_positions(len(values))
    tilted = [v + slope * t + height for v, t in zip(values, at, strict=True)]

    assert barrier(at, values).height == pytest.approx(barrier(at, tilted).height, abs=1e-9)


@given(st.lists(st.floats(0, 3), min_size=3, max_size=8))
def test_a_convex_curve_has_none(steps: list[float]) -> None:
    values = np.cumsum(np.cumsum(steps))

    assert barrier(even_positions(len(values)), values.tolist()).height == pytest.approx(
        0, abs=1e-9
    )


def test_a_model_has_no_barrier_to_itself() -> None:
    found = numbers("barrier", [subject(mlp(1)), subject(mlp(1))], Sample(Points()))

    assert found.pop("barrier_over_worse") == pytest.approx(0, abs=1e-12)
    assert all(abs(value) < 1e-12 for name, value in found.items() if name != "barrier_position")


def test_linear_models_have_none_since_their_loss_is_convex() -> None:
    def linear(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Linear(4, 3).double()

    found = numbers("barrier", [subject(linear(1)), subject(linear(2))], Sample(Points()))

    assert 0 == found["barrier"]
    assert "barrier_position" not in found
    assert found["midpoint_barrier"] < 0


def test_the_order_of_the_two_and_a_common_permutation_change_nothing() -> None:
    a, b, order = trained(1), trained(2), torch.tensor([3, 0, 5, 1, 4, 2])
    sample = Sample(Points())

    def permuted(module: nn.Module) -> nn.Module:
        state = module.state_dict()
        state |= {n: state[n][order] for n in ("0.weight", "0.bias")}
        state["3.weight"] = state["3.weight"][:, order]
        module.load_state_dict(state)
        return module

    expected = numbers("barrier", [subject(a), subject(b)], sample)

    assert expected == pytest.approx(numbers("barrier", [subject(b), subject(a)], sample))
    together = [subject(permuted(trained(1))), subject(permuted(trained(2)))]
    assert expected == pytest.approx(numbers("barrier", together, sample))
    apart = numbers("barrier", [subject(trained(1)), subject(permuted(trained(2)))], sample)
    assert expected["barrier"] != pytest.approx(apart["barrier"])


def test_a_last_small_batch_counts_for_its_share_of_the_statistics() -> None:
    task, module = Points(), trained(1, norm=True)
    state = {n: t.clone() for n, t in module.state_dict().items()}
    sample = Sample(task, batch=38)  # 38 and 2

    line(module, (state, state), [0.0, 1.0], sample, norm_sample(sample))

    x = task.data["train"][0]
    mean = (x @ state["0.weight"].T + state["0.bias"]).mean(0)
    torch.testing.assert_close(module.state_dict()["1.running_mean"], mean)


def test_the_statistics_of_batchnorm_that_a_model_came_with_do_not_count() -> None:
    a, b = mlp(1, norm=True), mlp(2, norm=True)
    expected = numbers("barrier", [subject(a), subject(b)], Sample(Points()))
    a[1].running_mean.add_(5)

    assert expected == numbers("barrier", [subject(a), subject(b)], Sample(Points()))


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=4))
def test_weights_are_mixed_as_written(weights: Sequence[float]) -> None:
    generator = torch.Generator().manual_seed(3)
    states = [
        {"w": torch.randn(5, generator=generator).bfloat16(), "count": torch.tensor(i)}
        for i in range(len(weights))
    ]

    found = mixed(states, weights)

    exact = sum(w * s["w"].double() for w, s in zip(weights, states, strict=True))
    assert torch.bfloat16 == found["w"].dtype
    torch.testing.assert_close(exact.bfloat16(), found["w"], rtol=2**-7, atol=2**-8)
    assert 0 == found["count"]


def test_the_ends_of_a_line_are_the_models_to_the_bit() -> None:
    states = [{"w": torch.tensor([0.1, 1 / 3, -7.3])}, {"w": torch.tensor([5.0, 1e-9, 2 / 3])}]

    assert torch.equal(states[0]["w"], mixed(states, (1, 0))["w"])
    assert torch.equal(states[1]["w"], mixed(states, (0, 1))["w"])


# Errors


def test_models_of_different_shapes_lie_on_no_path() -> None:
    with pytest.raises(IncompatibleModels, match=r"`0.bias` is \(6,\) and \(7,\)") as caught:
        numbers("barrier", [subject(mlp(1)), subject(mlp(2, width=7))], Sample(Points()))

    assert 3 == len(caught.value.problems)


def test_a_task_of_other_labels_is_refused() -> None:
    with pytest.raises(IncompatibleModels, match="2 labels"):
        numbers("barrier", [subject(mlp(1)), subject(mlp(2))], Sample(Points(labels=("a", "b"))))


def test_two_points_are_too_few() -> None:
    with pytest.raises(InvalidRecipe, match="`points` of metric `barrier` cannot be 2"):
        numbers("barrier", [subject(mlp(1)), subject(mlp(2))], Sample(Points()), points=2)
