"""Neural collapse: the specified numbers, an oracle, and what must not vary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_subjects import Given, OfHead, golden, mlp, numbers, points, run, sample, subject
from torch import nn

from zoo.errors import IncompatibleModels
from zoo.sample import Sample

CASE = golden("neural-collapse")
DOUBLE = {"dtype": "float64"}
NAMES = {
    "nc2_norm_cov_means": "nc2_equinorm_means",
    "nc2_norm_cov_classifier": "nc2_equinorm_head",
    "nc2_equiangular_classifier": "nc2_equiangular_head",
    "nc1_over_C": "nc1_over_c",
    "nc4_mismatch": "nc4",
}


def head_only(weight: Any, bias: Any = None) -> Any:
    """A model whose features are its inputs."""
    w = torch.as_tensor(weight, dtype=torch.float64)
    module = nn.Sequential(nn.Linear(w.shape[1], w.shape[0], bias=False, dtype=torch.float64))
    with torch.no_grad():
        module[0].weight.copy_(w)
    return subject(module, architecture=OfHead("0"))


def given_features(h: Any, y: Any, classes: int, **how: Any) -> Sample:
    x = torch.as_tensor(h, dtype=torch.float64)
    labels = [str(c) for c in range(classes)]
    return sample(Given(x, torch.as_tensor(y), labels), **how)


def measured(h: Any, y: Any, w: Any, **how: Any) -> dict[str, float]:
    return numbers(
        run("neural_collapse", head_only(w), given_features(h, y, len(w), **how), **DOUBLE)
    )


def oracle(h: np.ndarray, y: np.ndarray, w: np.ndarray) -> dict[str, float]:
    """The definitions with full scatter matrices and a pseudo-inverse."""
    classes = [c for c in range(len(w)) if (y == c).any()]
    c, w_all, w = len(classes), w, w[classes]
    means = np.stack([h[y == k].mean(0) for k in classes])
    m = (means - means.mean(0)).T
    within = sum(
        np.outer(a - means[classes.index(k)], a - means[classes.index(k)])
        for a, k in zip(h, y, strict=True)
    ) / len(h)
    between = m @ m.T / c
    nc1 = np.trace(within @ np.linalg.pinv(between, rcond=1e-10, hermitian=True))

    def angles(rows: np.ndarray) -> float:
        total = 0.0
        for i in range(c):
            for j in range(c):
                if i != j:
                    cosine = rows[i] @ rows[j] / np.linalg.norm(rows[i]) / np.linalg.norm(rows[j])
                    total += abs(cosine + 1 / (c - 1))
        return total / (c * (c - 1))

    def lengths(rows: np.ndarray) -> float:
        norms = np.linalg.norm(rows, axis=1)
        return float(norms.std(ddof=1) / norms.mean())

    nearest = [classes[np.argmin([np.sum((a - b) ** 2) for b in means])] for a in h]
    return {
        "nc1": nc1,
        "nc1_over_c": nc1 / c,
        "nc2_equinorm_means": lengths(m.T),
        "nc2_equinorm_head": lengths(w),
        "nc2_equiangular_means": angles(m.T),
        "nc2_equiangular_head": angles(w),
        "nc3": np.sum((w.T / np.linalg.norm(w) - m / np.linalg.norm(m)) ** 2),
        "nc4": np.mean(np.argmax(h @ w_all.T, 1) != nearest),
    }


def drawn(seed: int, n: int = 30, d: int = 4, classes: int = 3) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return rng.normal(size=(n, d)) + y[:, None], y, rng.normal(size=(classes, d))


# Golden numbers and an oracle


@pytest.mark.parametrize("batch", [4, 256])
def test_features_give_the_golden_numbers(batch: int) -> None:
    found = measured(CASE["features"], CASE["labels"], CASE["classifier"], batch=batch)

    wanted = {NAMES.get(name, name): value for name, value in CASE["expected"].items()}
    assert wanted == pytest.approx(found, abs=1e-9)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(2, 5), st.integers(1, 40))
def test_all_is_as_its_definition_says(seed: int, d: int, classes: int, batch: int) -> None:
    h, y, w = drawn(seed, 30, d, classes)

    found = measured(h, y, w, batch=batch)

    assert oracle(h, y, w) == pytest.approx(found, rel=1e-6, abs=1e-9)


# What must hold


def simplex(classes: int, d: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    frame = np.linalg.qr(rng.normal(size=(d, classes)))[0].T
    found: np.ndarray = frame - frame.mean(0)
    return found


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(2, 6), st.floats(0.1, 10))
def test_a_simplex_gives_zeros(seed: int, classes: int, scale: float) -> None:
    m = simplex(classes, classes + 2, seed)
    y = np.arange(5 * classes) % classes

    found = measured(scale * m[y] + 3, y, m)

    # A constant shift of all features moves the answers of a head without bias, so not nc4.
    found.pop("nc4")
    assert dict.fromkeys(found, 0) == pytest.approx(found, abs=1e-6)
    assert 7 == len(found)
    assert 0 == measured(scale * m[y], y, m)["nc4"]


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.floats(0.1, 10))
def test_rotations_and_scales_of_the_features_change_nothing(seed: int, scale: float) -> None:
    h, y, w = drawn(seed)
    turn = np.linalg.qr(np.random.default_rng(seed + 1).normal(size=(4, 4)))[0]

    plain, turned, scaled = (
        measured(*case) for case in ((h, y, w), (h @ turn, y, w @ turn), (scale * h, y, w))
    )

    assert plain == pytest.approx(turned, rel=1e-6, abs=1e-9)
    assert plain == pytest.approx(scaled, rel=1e-6, abs=1e-9)


def test_features_are_what_goes_into_the_head() -> None:
    module, task = mlp(1, 4, 6, 3), points(2, 30, 4)
    h = torch.tanh(module[0](task.x)).detach().numpy()
    wanted = oracle(h, task.y.numpy(), module[2].weight.detach().numpy())

    found = numbers(
        run(
            "neural_collapse",
            subject(module, architecture=OfHead("2")),
            sample(task, batch=7),
            **DOUBLE,
        )
    )

    for name in wanted:
        if name != "nc4":  # the bias of the head takes part in the answers
            assert wanted[name] == pytest.approx(found[name], rel=1e-6)
    answers = module(task.x).argmax(1).numpy()
    means = np.stack([h[task.y.numpy() == c].mean(0) for c in range(3)])
    nearest = ((h[:, None] - means) ** 2).sum(2).argmin(1)
    assert np.mean(answers != nearest) == pytest.approx(found["nc4"])


def test_training_on_brings_collapse() -> None:
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3
    x = torch.randn(60, 5, generator=rng, dtype=torch.float64) + 2 * torch.eye(5)[y].double()
    module, task = mlp(0, 5, 16, 3), Given(x, y)
    optimizer = torch.optim.Adam(module.parameters(), 0.02)
    seen = []
    for step in range(601):
        if step in (0, 600):
            model = subject(module, architecture=OfHead("2"))
            seen.append(numbers(run("neural_collapse", model, sample(task))))
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()

    before, after = seen
    for name in ("nc1", "nc3", "nc4", "nc2_equiangular_head"):
        assert after[name] < 0.5 * before[name]


# Edges and errors


def test_absent_classes_are_left_out() -> None:
    h, y, w = drawn(3, 30, 4, 5)
    keep = (y != 1) & (y != 4)

    found = measured(h[keep], y[keep], w)

    assert oracle(h[keep], y[keep], w) == pytest.approx(found, rel=1e-6)


def test_one_class_says_nothing() -> None:
    assert {} == measured(np.ones((4, 2)), [1, 1, 1, 1], np.ones((3, 2)))


def test_features_that_are_not_finite_say_nothing() -> None:
    h, y, w = drawn(1)
    h[3, 1] = np.nan

    assert {} == measured(h, y, w)


def test_equal_means_leave_out_what_they_do_not_define() -> None:
    h = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])

    found = measured(h, [0, 0, 1, 1], np.array([[1.0, 2], [3, 4]]))

    assert {"nc2_equinorm_head", "nc2_equiangular_head", "nc4"} == set(found)


@pytest.mark.parametrize("head", [None, "1", "9"])
def test_a_head_that_is_not_known_or_not_linear_is_refused(head: str | None) -> None:
    model = subject(mlp(1, 4, 6, 3), architecture=OfHead(head))

    with pytest.raises(IncompatibleModels, match="head"):
        run("neural_collapse", model, sample(points(1, 9, 4)))


def test_a_task_without_labels_is_refused() -> None:
    task = points(1, 9, 4)
    task.labels = ()

    with pytest.raises(IncompatibleModels, match="no labels"):
        run("neural_collapse", head_only(np.ones((3, 4))), sample(task))


def test_features_of_every_token_are_refused() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 3, dtype=torch.float64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(x.view(len(x), 2, 2)).mean(1)
            return out

    with pytest.raises(IncompatibleModels, match="one feature vector"):
        run(
            "neural_collapse",
            subject(Tokens(), architecture=OfHead("head")),
            sample(points(1, 9, 4)),
        )
