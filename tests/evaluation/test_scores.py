"""The scores of a classifier, against sums written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import IncompatibleModels, InvalidCheckpoint
from zoo.measuring.scores import BINS
from zoo.sample import Sample
from zoo.tasks.data import DataTask
from zoo.tasks.examples import Examples


class Fixed(torch.nn.Module):
    """Gives each example the logits that are its inputs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def scores(logits: torch.Tensor, targets: list[int], batch: int = 256, labels: str = "abc"):
    examples = Examples(logits, torch.tensor(targets))
    task = DataTask("t", lambda split: examples, labels=tuple(labels))
    task.tensors = lambda split: examples[:2]  # past the check that inputs are finite
    found = task.evaluate(Fixed(), Sample(task, batch=batch))
    return {(v.name, v.split): v for v in found}


def by_hand(logits: torch.Tensor, targets: list[int]) -> tuple[float, float, float]:
    """Accuracy, loss and calibration error, an example at a time."""
    right, loss = 0.0, 0.0
    bins: dict[int, list[tuple[bool, float]]] = {}
    for row, target in zip(logits.tolist(), targets, strict=True):
        total = sum(math.exp(v) for v in row)
        shares = [math.exp(v) / total for v in row]
        answer = max(range(len(row)), key=row.__getitem__)
        right += answer == target
        loss -= math.log(shares[target])
        place = min(BINS - 1, int(shares[answer] * BINS))
        bins.setdefault(place, []).append((answer == target, shares[answer]))
    n = len(targets)
    error = sum(abs(sum(hit - sure for hit, sure in b)) for b in bins.values()) / n
    return right / n, loss / n, error


@given(
    st.lists(
        st.tuples(st.integers(0, 2), *[st.floats(-8, 8, width=32) for _ in range(3)]),
        min_size=1,
        max_size=30,
    ),
    st.integers(1, 8),
)
def test_scores_are_those_worked_out_by_hand(rows, batch):
    logits = torch.tensor([r[1:] for r in rows])
    targets = [r[0] for r in rows]

    found = scores(logits, targets, batch)

    accuracy, loss, error = by_hand(logits.double(), targets)
    assert accuracy == pytest.approx(found["accuracy", ""].value, abs=1e-12)
    assert loss == pytest.approx(found["loss", ""].value, rel=1e-9)
    assert error == pytest.approx(found["calibration_error", ""].value, abs=1e-9)
    assert len(rows) == found["accuracy", ""].protocol["examples"]


def test_classes_without_examples_have_no_accuracy():
    found = scores(torch.eye(3)[[0, 0, 2]], [0, 1, 2])

    assert {"a": 1.0, "b": 0.0, "c": 1.0} == {
        s: v.value for (n, s), v in found.items() if n == "class_accuracy"
    }
    assert "b" not in {s for _, s in scores(torch.eye(3)[[0, 2]], [0, 2])}


def test_standard_errors_are_those_of_a_mean():
    logits, targets = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), [0, 1] * 25

    found = scores(logits, targets)

    p = found["accuracy", ""].value
    each = torch.nn.functional.cross_entropy(
        logits.double(), torch.tensor(targets), reduction="none"
    )
    assert (p * (1 - p) / 50) ** 0.5 == pytest.approx(found["accuracy", ""].stderr)
    assert float(each.std()) / 50**0.5 == pytest.approx(found["loss", ""].stderr)


def test_the_accuracy_of_a_class_is_as_exact_as_a_double():
    logits = torch.tensor([[1.0, 0], [1.0, 0], [0, 1.0], [0, 1.0]])

    assert 2 / 3 == scores(logits, [0, 0, 0, 1], labels="ab")["class_accuracy", "a"].value


def test_answers_that_are_not_numbers_are_wrong():
    logits = torch.tensor([[math.nan, 0, 0], [1.0, 0, 0], [math.inf, 0, 0]])

    found = scores(logits, [0, 0, 0])

    assert 1 / 3 == pytest.approx(found["accuracy", ""].value)
    assert ("loss", "") not in found and ("calibration_error", "") not in found


def test_a_head_of_other_classes_is_refused():
    with pytest.raises(IncompatibleModels, match=r"\(1, 3\), and task `t` has 2 labels"):
        scores(torch.eye(3)[:1], [0], labels="ab")


def test_a_sample_of_nothing_has_no_scores():
    with pytest.raises(InvalidCheckpoint, match="no examples"):
        scores(torch.empty(0, 3), [])
