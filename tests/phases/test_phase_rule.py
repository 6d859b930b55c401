"""The rule of phases: its golden numbers, its promises, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import InvalidRecipe
from zoo.phases.rule import PHASES, UNASSIGNED, Measures, Thresholds, label

GOLDEN = json.loads((Path(__file__).parent / "golden" / "phases.json").read_text())
HIGH, LOW = ("I", "II"), ("III", "IV-A", "IV-B")

numbers = st.floats(-50, 50, allow_nan=False)
measured = st.builds(
    Measures,
    members=st.integers(2, 5),
    train_loss=st.floats(0, 5),
    connectivity=numbers,
    cka=st.floats(0, 1),
    log_trace=numbers,
)
ruled = st.builds(
    Thresholds,
    loss=st.floats(0.01, 5),
    connectivity=st.floats(0.01, 20),
    cka=st.floats(0.01, 1),
    margin=st.floats(0, 0.5),
)


def test_the_golden_cells_have_their_phases() -> None:
    given_ = GOLDEN["params"]["thresholds"]
    thresholds = Thresholds(
        *(given_["train_loss"], given_["mc"], given_["cka"], given_["log_trace"])
    )

    labels = [
        label(Measures(3, c["train_loss"], c["mc"], c["cka"], c["log_trace"]), thresholds)
        for c in GOLDEN["cases"]
    ]

    assert GOLDEN["expected"]["phase"] == [one.phase for one in labels]
    assert [True] * 5 == [one.is_confirmed for one in labels]
    assert [1.0, 1.0, 0.5, pytest.approx((0.6 - 0.35) / 0.6), pytest.approx(0.25 / 0.6)] == [
        one.confidence for one in labels
    ]


def by_hand(m: Measures, t: Thresholds) -> str:
    """The table of the paper, without margins."""
    assert m.train_loss is not None and m.connectivity is not None and m.cka is not None
    if m.train_loss > t.loss:
        return "I" if m.connectivity < 0 else "II"
    if m.connectivity < -t.connectivity:
        return "III"
    return "IV-B" if m.cka >= t.cka else "IV-A"


@given(measured, ruled)
def test_without_a_margin_every_cell_has_the_phase_of_the_table(
    measures: Measures, thresholds: Thresholds
) -> None:
    assert by_hand(measures, thresholds) == label(measures, replace(thresholds, margin=0)).phase


@given(measured, ruled)
def test_a_label_is_the_tables_or_none_and_none_only_near_a_threshold(
    measures: Measures, thresholds: Thresholds
) -> None:
    found = label(measures, thresholds)

    assert found.phase in (UNASSIGNED, by_hand(measures, thresholds))
    assert (found.phase == UNASSIGNED) == (found.confidence < thresholds.margin)
    assert 0 <= found.confidence <= 1


@given(measured, ruled, st.floats(0, 5))
def test_raising_the_loss_threshold_moves_cells_only_out_of_one_and_two(
    measures: Measures, thresholds: Thresholds, more: float
) -> None:
    before = label(measures, thresholds).phase
    after = label(measures, replace(thresholds, loss=thresholds.loss + more)).phase

    assert not (before in LOW and after in HIGH)
    if before in HIGH and after in HIGH:
        assert before == after


@given(measured, ruled, st.floats(0, 1))
def test_raising_the_cka_threshold_moves_cells_only_from_b_to_a(
    measures: Measures, thresholds: Thresholds, more: float
) -> None:
    before = label(measures, thresholds).phase
    after = label(measures, replace(thresholds, cka=thresholds.cka + more)).phase

    assert (before, after) != ("IV-A", "IV-B")
    if before in ("I", "II", "III"):
        assert before == after


@given(measured, ruled, numbers)
def test_the_hessian_confirms_and_decides_nothing(
    measures: Measures, thresholds: Thresholds, log_trace: float
) -> None:
    one = label(measures, thresholds)
    other = label(replace(measures, log_trace=log_trace), thresholds)

    assert (one.phase, one.confidence) == (other.phase, other.confidence)


def test_a_hessian_that_does_not_fit_is_told() -> None:
    found = label(Measures(3, 0.01, -8.0, None, 9.0), Thresholds())

    assert ("III", False) == (found.phase, found.is_confirmed)
    assert "does not confirm" in found.why[-1]


@pytest.mark.parametrize(
    ("measures", "missing"),
    [
        (Measures(1, 0.01, 0.0, 0.9), "1 of 2 seeds"),
        (Measures(2, None, 0.0, 0.9), "loss"),
        (Measures(2, 0.01, None, 0.9), "connectivity"),
        (Measures(2, 0.01, 0.0, None), "CKA"),
    ],
)
def test_what_is_missing_leaves_a_cell_unassigned_and_is_told(
    measures: Measures, missing: str
) -> None:
    found = label(measures, Thresholds())

    assert (UNASSIGNED, 0.0) == (found.phase, found.confidence)
    assert missing in found.why[-1]


def test_cka_is_asked_only_where_the_loss_is_low_and_seeds_are_connected() -> None:
    phases = [label(Measures(2, loss, mc), Thresholds()).phase for loss, mc in CORNERS]

    assert ["I", "II", "III", UNASSIGNED] == phases


CORNERS = [(1.0, -5.0), (1.0, 5.0), (0.01, -5.0), (0.01, 0.0)]


@pytest.mark.parametrize(
    ("measures", "near"),
    [
        (Measures(2, 0.105, -9.0, 0.9), "train loss"),
        (Measures(2, 0.095, 0.0, 0.9), "train loss"),
        (Measures(2, 1.0, 0.05, 0.9), "connectivity"),
        (Measures(2, 0.01, -1.05, 0.9), "connectivity"),
        (Measures(2, 0.01, 0.0, 0.62), "CKA"),
    ],
)
def test_the_threshold_that_is_too_near_is_named(measures: Measures, near: str) -> None:
    found = label(measures, Thresholds())

    assert UNASSIGNED == found.phase
    (clause,) = [said for said in found.why if "within 10%" in said]
    assert clause.startswith(near)


def test_thresholds_read_back_as_they_are_stored() -> None:
    thresholds = Thresholds(loss=0.25, seeds=3)

    assert thresholds == Thresholds.of(json.loads(json.dumps(thresholds.as_dict())))
    assert Thresholds() == Thresholds.of({})


@pytest.mark.parametrize(
    "values",
    [
        {"loss": 0},
        {"loss": float("nan")},
        {"cka": -0.5},
        {"connectivity": 0},
        {"margin": 1},
        {"margin": -0.1},
        {"seeds": 1},
        {"seeds": 2.5},
        {"loss": [0.1]},
        {"loss": True},
        {"loss": None},
        {"loss": "0.1"},
    ],
)
def test_a_threshold_that_leaves_no_room_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidRecipe, match=next(iter(values))):
        Thresholds.of(values)


def test_an_unknown_threshold_is_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidRecipe, match="connectivity"):
        Thresholds.of({"conectivity": 1.0})


def test_the_phases_are_those_of_the_paper() -> None:
    assert set(PHASES) == set(GOLDEN["expected"]["phase"])
