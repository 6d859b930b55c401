"""CKA and disagreement: the specified numbers, those of an oracle, and what must hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pair_subjects import (
    Array,
    Points,
    Surface,
    Weights,
    golden,
    measured,
    mlp,
    numbers,
    subject,
    trained,
)
from torch import nn
from zoo_plugins.similarity_metrics import compare

from zoo.architecture import Architecture
from zoo.errors import IncompatibleModels, InvalidRecipe
from zoo.measuring.cka import Cka, CkaSums
from zoo.sample import Sample


def sums(x: Any, y: Any, batch: int, examples: int | None) -> CkaSums:
    """CKA of features in batches; `examples` decides for one of the two forms."""
    found = CkaSums(examples)
    pairs = zip(torch.as_tensor(x).split(batch), torch.as_tensor(y).split(batch), strict=True)
    for a, b in pairs:
        found.add(a, b)
    return found


FEW = settings(max_examples=25)
FORMS = pytest.mark.parametrize("examples", [None, 1], ids=["features", "examples"])


# Golden numbers


@FORMS
@pytest.mark.parametrize("batch", [1, 4, 6])
def test_cka_is_the_golden_one(examples: int | None, batch: int) -> None:
    case = golden("cka")
    x, y = (torch.tensor(case[k], dtype=torch.float64) for k in ("x", "y"))
    turned = 3 * x @ torch.tensor(case["rotation"], dtype=torch.float64) + 5

    def both(a: torch.Tensor, b: torch.Tensor) -> Cka:
        return sums(a, b, batch, examples).cka()

    close = {"abs": 1e-6} if examples else {"abs": 1e-10}
    expected = case["expected"]
    assert (expected["cka"], expected["debiased_cka"]) == pytest.approx(both(x, y), **close)
    assert (expected["cka_self"], 1) == pytest.approx(both(x, x), **close)
    assert (expected["cka_rotated_scaled"], 1) == pytest.approx(both(x, turned), **close)


def test_unbiased_hsic_is_the_golden_one() -> None:
    case = golden("cka")

    found = sums(np.array(case["x"]), np.array(case["y"]), 6, None)

    assert case["expected"]["hsic1_xy"] == pytest.approx(found.unbiased_hsic())


def test_disagreement_is_the_golden_one() -> None:
    case = golden("disagreement")
    expected, labels = case["expected"], torch.tensor(case["labels"])
    logits = [torch.tensor(case[k], dtype=torch.float64).log() for k in ("prob_a", "prob_b")]
    answers = [
        torch.nn.functional.one_hot(torch.tensor(case[k]), 3).double() for k in ("pred_a", "pred_b")
    ]

    divergence = compare(*logits, labels).divergence
    found = compare(*answers, labels)

    assert expected["jsd"] == pytest.approx(float(divergence.mean()))
    assert expected["disagreement"] == pytest.approx(float(found.differ.mean()))
    assert expected["err_a"] == pytest.approx(1 - float(found.right_a.mean()))
    assert expected["err_b"] == pytest.approx(1 - float(found.right_b.mean()))
    lost = (found.right_a * (1 - found.right_b)).mean()
    assert expected["churn_correct_to_wrong"] == pytest.approx(float(lost))


def test_the_metric_gives_the_golden_disagreement() -> None:
    case = golden("disagreement")

    class Labels(Points):
        def __init__(self) -> None:
            super().__init__()
            x = torch.eye(5, dtype=torch.float64)
            self.data = {"test": (x, torch.tensor(case["labels"]))}

    def answering(predictions: list[int]) -> nn.Module:
        module = nn.Linear(5, 3, bias=False).double()
        chosen = torch.nn.functional.one_hot(torch.tensor(predictions), 3).double()
        module.load_state_dict({"weight": chosen.T})
        return module

    pair = [subject(answering(case[k])) for k in ("pred_a", "pred_b")]
    found = measured("disagreement", pair, Sample(Labels(), batch=2))

    expected = case["expected"]
    assert expected["disagreement"] == pytest.approx(found["disagreement"].value)
    assert expected["normalised"] == pytest.approx(found["normalized_disagreement"].value)
    # One direction of churn is as likely as the other here.
    assert expected["churn_correct_to_wrong"] == pytest.approx(found["churn"].value)
    assert np.std([0, 1, 0, 0, 1], ddof=1) / 5**0.5 == pytest.approx(found["disagreement"].stderr)


# An oracle


def gram_cka(x: Array, y: Array) -> tuple[float, float]:
    """CKA and debiased CKA, by Gram matrices as Kornblith et al. and Song et al. write them."""
    n = len(x)
    k, m = x @ x.T, y @ y.T
    h = np.eye(n) - 1 / n

    def biased(a: Array, b: Array) -> float:
        return float(np.trace(h @ a @ h @ b))

    def unbiased(a: Array, b: Array) -> float:
        a, b = a - np.diag(np.diag(a)), b - np.diag(np.diag(b))
        one = np.ones(n)
        total = np.trace(a @ b) + (one @ a @ one) * (one @ b @ one) / ((n - 1) * (n - 2))
        return float((total - 2 / (n - 2) * one @ a @ b @ one) / (n * (n - 3)))

    first, second = (f(k, m) / np.sqrt(f(k, k) * f(m, m)) for f in (biased, unbiased))
    return first, second


@FORMS
@FEW
@given(
    seed=st.integers(0, 99),
    n=st.integers(5, 20),
    p=st.integers(1, 8),
    q=st.integers(1, 8),
    batch=st.integers(1, 9),
    shift=st.sampled_from([0.0, 100.0]),
)
def test_both_forms_are_the_oracle(
    examples: int | None, seed: int, n: int, p: int, q: int, batch: int, shift: float
) -> None:
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, p)) + shift
    y = x @ random.normal(size=(p, q)) + random.normal(size=(n, q))
    expected = gram_cka(x, y)

    found = sums(x, y, batch, examples).cka()

    close = {"abs": 1e-4} if examples else {"abs": 1e-8}
    assert expected[0] == pytest.approx(found.biased, **close)
    if n > 6:  # below that HSIC(X, X) may be about zero, or less
        assert expected[1] == pytest.approx(found.debiased, rel=1e-3, **close)


def test_the_metric_is_cka_of_the_outputs() -> None:
    task, a, b = Points(), trained(1), trained(2)
    x = task.data["test"][0]
    with torch.no_grad():
        expected = gram_cka(a(x).numpy(), b(x).numpy())

    found = measured("cka", [subject(a), subject(b)], Sample(task, batch=9))

    assert expected == pytest.approx((found["cka"].value, found["cka_debiased"].value))
    assert {"examples": 40} == found["cka"].protocol


@pytest.mark.parametrize("layer", ["2", "features"])
def test_another_layer_can_be_compared(layer: str) -> None:
    class Known(Architecture):
        name = "known"

        def build(self, config: Any) -> nn.Module:
            raise NotImplementedError

        def head(self, config: Any) -> str | None:
            return "3"

    task, a, b = Points(), trained(1), trained(2)
    x = task.data["test"][0]
    with torch.no_grad():
        expected = gram_cka(a[:3](x).numpy(), b[:3](x).numpy())

    pair = [subject(m, architecture=Known()) for m in (a, b)]
    found = numbers("cka", pair, Sample(task, batch=9), layer=layer)

    assert expected == pytest.approx((found["cka"], found["cka_debiased"]), abs=1e-6)


def test_few_examples_of_wide_layers_are_compared_by_example() -> None:
    task, a, b = Points(count=5), trained(1), trained(2)
    x = task.data["test"][0]
    with torch.no_grad():
        expected = gram_cka(a[:3](x).numpy(), b[:3](x).numpy())

    found = numbers("cka", [subject(a), subject(b)], Sample(task, batch=2), layer="2")

    assert expected[0] == pytest.approx(found["cka"], abs=1e-5)


def test_disagreement_is_that_of_the_oracle() -> None:
    task, a, b = Points(), trained(1), mlp(2)
    x, y = task.data["test"]
    with torch.no_grad():
        p, q = (m(x).softmax(1).numpy() for m in (a, b))
    wrong = [(r.argmax(1) != y.numpy()) for r in (p, q)]
    differ = p.argmax(1) != q.argmax(1)
    mean = (p + q) / 2
    js = sum((r * np.log(r / mean)).sum(1) / 2 for r in (p, q))
    gap = (mean.argmax(1) == y.numpy()).mean() - 1 + (wrong[0].mean() + wrong[1].mean()) / 2

    found = measured("disagreement", [subject(a), subject(b)], Sample(task, batch=9))

    assert differ.mean() == pytest.approx(found["disagreement"].value)
    normal = differ.mean() / ((wrong[0].mean() + wrong[1].mean()) / 2)
    assert normal == pytest.approx(found["normalized_disagreement"].value)
    assert (wrong[0] != wrong[1]).mean() / 2 == pytest.approx(found["churn"].value)
    assert js.mean() == pytest.approx(found["jensen_shannon"].value)
    assert js.std(ddof=1) / 40**0.5 == pytest.approx(found["jensen_shannon"].stderr)
    assert gap == pytest.approx(found["ensemble_gap"].value)


# What must hold


@FEW
@given(st.integers(0, 99), st.integers(0, 99))
def test_disagreement_lies_between_its_bounds(first: int, second: int) -> None:
    task = Points(count=20)
    x, y = task.data["test"]
    with torch.no_grad():
        found = compare(mlp(first)(x), mlp(second)(x), y)
    wrong = [1 - float(r.mean()) for r in (found.right_a, found.right_b)]
    differ = float(found.differ.mean())

    assert abs(wrong[0] - wrong[1]) - 1e-9 <= differ <= wrong[0] + wrong[1] + 1e-9
    assert bool((found.divergence > -1e-12).all() and (found.divergence <= np.log(2)).all())


@FEW
@given(st.integers(0, 99), st.floats(0.1, 10), st.floats(-5, 5))
def test_cka_knows_no_rotation_scale_or_shift(seed: int, scale: float, shift: float) -> None:
    random = np.random.default_rng(seed)
    x, y = random.normal(size=(12, 4)), random.normal(size=(12, 3))
    turn, _ = np.linalg.qr(random.normal(size=(4, 4)))
    order = random.permutation(12)
    plain = sums(x, y, 5, None).cka()

    turned = sums(scale * x @ turn + shift, y, 5, None).cka()
    mirrored = sums(y, x, 5, None).cka()
    shuffled = sums(x[order], y[order], 5, None).cka()

    assert 0 <= (plain.biased or 0) <= 1
    for other in (turned, mirrored, shuffled):
        assert plain.biased == pytest.approx(other.biased)
        assert plain.debiased == pytest.approx(other.debiased, abs=1e-9)


def test_a_model_is_like_itself() -> None:
    pair = [subject(trained(1)), subject(trained(1))]

    assert {"cka": 1, "cka_debiased": 1} == pytest.approx(numbers("cka", pair, Sample(Points())))
    found = numbers("disagreement", pair, Sample(Points()))
    assert {0} == {v for k, v in found.items() if k != "jensen_shannon"}
    assert 0 == pytest.approx(found["jensen_shannon"], abs=1e-12)


@FORMS
def test_a_constant_output_is_like_nothing(examples: int | None) -> None:
    x = np.random.default_rng(0).normal(size=(8, 3))

    found = sums(x, np.full((8, 2), 0.1), 3, examples)

    assert (None, None) == found.cka()
    assert {} == numbers("cka", [subject(Weights([1.0]))] * 2, Sample(Surface(lambda w: w.sum())))


def test_three_examples_are_too_few_for_the_unbiased_form() -> None:
    task = Points(count=3)

    found = numbers("cka", [subject(trained(1)), subject(trained(2))], Sample(task))

    assert ["cka"] == list(found)


def test_mixed_inputs_are_fixed_by_the_seed() -> None:
    pair = [subject(trained(1)), subject(trained(2))]

    found = [
        numbers("cka", pair, Sample(Points(), seed=seed), mixup=16)["cka"] for seed in (0, 0, 1)
    ]

    assert found[0] == found[1]
    assert found[0] != found[2]
    assert found[0] != numbers("cka", pair, Sample(Points()))["cka"]


# Errors


def test_a_layer_that_is_not_there_is_told() -> None:
    with pytest.raises(InvalidRecipe, match=r"has no module `feature`. Did you mean `features`"):
        numbers("cka", [subject(mlp(1)), subject(mlp(2))], Sample(Points()), layer="feature")


def test_features_need_an_architecture_that_knows_its_head() -> None:
    with pytest.raises(InvalidRecipe, match="which module is the head"):
        numbers("cka", [subject(mlp(1)), subject(mlp(2))], Sample(Points()), layer="features")


def test_targets_that_are_no_labels_cannot_be_disagreed_about() -> None:
    task = Surface(lambda w: w.sum())
    with pytest.raises(InvalidRecipe, match="are no labels"):
        numbers("disagreement", [subject(Weights([1.0])), subject(Weights([2.0]))], Sample(task))


def test_a_head_of_other_classes_is_refused() -> None:
    with pytest.raises(IncompatibleModels, match="3 labels"):
        numbers("disagreement", [subject(mlp(1)), subject(mlp(2, classes=2))], Sample(Points()))
