"""Numbers of pictures that are read from the registry."""

from __future__ import annotations

import pytest

from zoo.errors import InvalidRecipe, NotFound
from zoo.plots.recorded import comparison_of, matrix_of, sweeps_of
from zoo.records import MetricValue


def record(registry, a, b, metric, value, split=""):
    ids = [registry.get(ref).id for ref in (a, b)]
    registry.catalog.record_group_metrics(ids, [MetricValue(metric, value, split=split)])


def test_a_matrix_holds_what_is_recorded_of_pairs(family):
    record(family, "b", "a", "cka", 0.5)
    record(family, "a", "other", "cka", 0.25)
    record(family, "a", "other", "disagreement", 0.9)

    found = matrix_of(family, [family.get(r) for r in ("a", "b", "other")], "cka")

    expected = [[None, 0.5, 0.25], [0.5, None, None], [0.25, None, None]]
    assert {"metric": "cka", "labels": ["a@1", "b@1", "other@1"], "values": expected} == (
        found.as_dict()
    )


def test_of_several_splits_the_fullest_is_drawn_or_one_is_chosen(family):
    versions = [family.get(r) for r in ("a", "b", "other")]
    record(family, "a", "b", "cka", 0.5, "one")
    record(family, "a", "b", "cka", 0.6, "two")
    with pytest.raises(InvalidRecipe, match="--split one"):
        matrix_of(family, versions, "cka")
    assert 0.6 == matrix_of(family, versions, "cka", "two").value("a@1", "b@1")

    record(family, "a", "other", "cka", 0.7, "two")
    assert 0.6 == matrix_of(family, versions, "cka").value("a@1", "b@1")

    record(family, "a", "b", "cka", 0.1)
    record(family, "a", "other", "cka", 0.2)
    assert 0.1 == matrix_of(family, versions, "cka").value("a@1", "b@1")


def test_a_metric_that_nobody_measured_is_told_with_the_command(family):
    versions = [family.get(r) for r in ("a", "b")]
    record(family, "a", "b", "cka", 0.5)

    with pytest.raises(NotFound, match=r"zoo measure .* --metric cake") as caught:
        matrix_of(family, versions, "cake")
    assert "`cka`" in str(caught.value)


def test_merges_are_compared_by_their_mean_over_all_tasks(merges):
    found = comparison_of(merges, merges.select("kind = 'merge'"), "accuracy").as_dict()

    assert ["ties", "task_arithmetic"] == [row["method"] for row in found["methods"]]
    assert pytest.approx([0.61, 0.6]) == [row["value"] for row in found["methods"]]
    assert "ti@3" == found["methods"][0]["best"]
    assert pytest.approx(0.02 / 2**0.5) == found["methods"][0]["stderr"]
    assert pytest.approx({"experts": 0.85, "base": 0.3}) == found["references"]


def test_merges_are_compared_on_the_tasks_that_are_named(merges):
    found = comparison_of(merges, merges.select(), "accuracy", ["two"]).as_dict()

    assert pytest.approx([0.51, 0.5]) == [row["value"] for row in found["methods"]]
    assert pytest.approx({"experts": 0.8, "base": 0.3}) == found["references"]


def test_a_score_that_no_merge_has_is_told(merges):
    with pytest.raises(NotFound, match=r"`acuracy`.*Did you mean `accuracy`"):
        comparison_of(merges, merges.select(), "acuracy")
    with pytest.raises(NotFound, match="on `three`"):
        comparison_of(merges, merges.select(), "accuracy", ["three"])
    with pytest.raises(NotFound, match="None of the versions selected is a merge"):
        comparison_of(merges, merges.select("kind = 'expert'"), "accuracy")


def test_a_sweep_is_a_family_of_merges_that_differ_in_one_parameter(merges):
    found = sweeps_of(merges, merges.select(), "accuracy").as_dict()

    curves = {c["label"]: c for c in found["curves"]}
    assert {"task_arithmetic", "ties"} == set(curves)
    assert [0.2, 0.4, 0.6] == curves["ties"]["at"]
    assert pytest.approx([0.41, 0.51, 0.61]) == curves["ties"]["values"]
    assert pytest.approx({"at": 0.6, "value": 0.61}) == curves["ties"]["best"]


def test_one_family_has_a_curve_for_each_task_and_their_mean(merges):
    found = sweeps_of(merges, merges.select("name = 'ta'"), "accuracy").as_dict()

    values = {c["label"]: c["values"] for c in found["curves"]}
    assert pytest.approx([0.5, 0.6, 0.7]) == values["one"]
    assert pytest.approx([0.3, 0.4, 0.5]) == values["two"]
    assert pytest.approx([0.4, 0.5, 0.6]) == values["mean"]


def test_merges_that_differ_in_nothing_else_are_needed(merges):
    with pytest.raises(NotFound, match="differ in `density` alone"):
        sweeps_of(merges, merges.select(), "accuracy", "density")
