"""The leaderboard: intervals, normalization, ranks, from recorded values alone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import InvalidRecipe, NotFound
from zoo.measuring.leaderboard import leaderboard, wilson
from zoo.records import MetricValue

Z = 1.959963984540054


@pytest.fixture
def board(registry, add):
    """Two experts with tasks of their own and two merges, with values on both tasks."""

    def put(name, values, *, task=None, kind="expert", n=100, **protocol):
        version = add(name, task=task, kind=kind, seed=sum(map(ord, name)))
        rows = [
            MetricValue(
                "accuracy", p, split, dataset=split,
                protocol={"examples": n, **protocol}, stderr=math.sqrt(p * (1 - p) / n),
            )
            for split, p in values.items()
        ]  # fmt: skip
        registry.catalog.annotate(version.id, metrics=rows)

    put("one", {"a": 0.8, "b": 0.1}, task="a")
    put("two", {"a": 0.2, "b": 0.5}, task="b")
    put("mean", {"a": 0.6, "b": 0.4}, kind="merge")
    put("sum", {"a": 0.7, "b": 0.3}, kind="merge")
    return put


def test_values_are_normalized_by_the_expert_of_each_task_and_ranked(registry, board):
    found = leaderboard(registry, where="kind = 'merge'")

    assert ("a", "b") == found.tasks
    assert {"a": "one@1", "b": "two@1"} == found.experts
    mean, sum_ = found.rows
    assert ["mean@1", "sum@1"] == [mean.version, sum_.version]
    assert [0.5, 0.5] == pytest.approx([mean.mean, sum_.mean])
    assert [1, 1] == [mean.rank, sum_.rank] or mean.mean > sum_.mean
    assert (0.6 / 0.8 + 0.4 / 0.5) / 2 == pytest.approx(mean.normalized)
    assert (0.7 / 0.8 + 0.3 / 0.5) / 2 == pytest.approx(sum_.normalized)
    assert 0.7 / 0.8 == pytest.approx(sum_.cells["a"].normalized)
    spread = Z * math.sqrt(0.6 * 0.4 / 100 + 0.4 * 0.6 / 100) / 2
    assert (0.5 - spread, 0.5 + spread) == pytest.approx((mean.low, mean.high))
    assert () == found.remarks


def test_ranks_follow_what_is_asked(registry, board):
    by_ratio = leaderboard(registry, ["sum", "mean", "one"], by="normalized")
    by_task = leaderboard(registry, ["sum", "mean", "one"], tasks=["a"])

    assert ["mean@1", "sum@1", "one@1"] == [r.version for r in by_ratio.rows]
    assert ["one@1", "sum@1", "mean@1"] == [r.version for r in by_task.rows]
    assert [1, 2, 3] == [r.rank for r in by_task.rows]
    only = by_task.rows[0]
    assert (only.cells["a"].low, only.cells["a"].high) == (only.low, only.high)


def test_equals_share_a_rank(registry, board):
    board("same", {"a": 0.7, "b": 0.3}, kind="merge")

    rows = leaderboard(registry, ["one", "same", "sum"], tasks=["b"]).rows

    assert [("same@1", 1), ("sum@1", 1), ("one@1", 3)] == [(r.version, r.rank) for r in rows]


def test_the_best_version_made_for_a_task_is_its_expert_unless_one_is_named(registry, board):
    board("better", {"a": 0.9}, task="a")
    board("odd", {"it's": 0.9}, task="it's")

    best = leaderboard(registry, ["mean"], tasks=["a"])
    named = leaderboard(registry, ["mean"], tasks=["a"], experts=["one"])

    assert ({"a": "better@1"}, {"a": "one@1"}) == (best.experts, named.experts)
    assert {"it's": "odd@1"} == leaderboard(registry, ["odd"]).experts
    assert 0.6 / 0.9 == pytest.approx(best.rows[0].normalized)
    assert 0.6 / 0.8 == pytest.approx(named.rows[0].normalized)


def test_a_missing_task_leaves_a_version_without_mean_and_rank(registry, board):
    board("half", {"a": 0.99}, kind="merge")

    found = leaderboard(registry, where="kind = 'merge'")

    assert "half@1" == found.rows[-1].version
    assert (None, None, None) == (
        found.rows[-1].rank, found.rows[-1].mean, found.rows[-1].normalized,
    )  # fmt: skip
    assert {"a"} == set(found.rows[-1].cells)


def test_different_protocols_are_remarked_upon(registry, board):
    board("small", {"a": 0.7, "b": 0.3}, kind="merge", samples=10, data="sha256:1")

    remarks = leaderboard(registry, ["small", "mean"], tasks=["a", "b"]).remarks

    assert [
        f"Values on `{task}` are from different {what}: compare with care."
        for task in "ab"
        for what in ("data", "numbers of examples")
    ] == list(remarks)


def test_less_loss_is_better_and_has_no_ratio(registry, add):
    for name, loss in (("low", 0.1), ("high", 0.9)):
        version = add(name, task="a", seed=int(10 * loss))
        value = MetricValue("loss", loss, "a", dataset="a", stderr=0.05)
        registry.catalog.annotate(version.id, metrics=[value])

    found = leaderboard(registry, ["high", "low"], metric="loss")

    assert ["low@1", "high@1"] == [r.version for r in found.rows]
    assert found.rows[0].normalized is None
    cell = found.rows[0].cells["a"]
    assert (0.1 - Z * 0.05, 0.1 + Z * 0.05) == pytest.approx((cell.low, cell.high))
    with pytest.raises(NotFound, match="less of `loss` is better"):
        leaderboard(registry, ["high"], metric="loss", by="normalized")


def test_what_was_evaluated_is_what_is_shown(registry, add):
    add("expert", task="three")
    add("other", seed=1)
    registry.evaluate(["expert", "other"], tasks=["three", "again"])

    found = leaderboard(registry, ["other"])

    assert ("again", "three") == found.tasks
    assert 60 == found.rows[0].cells["three"].examples
    metrics = registry.get("other").metrics
    assert metrics["accuracy/three"] == found.rows[0].cells["three"].value
    assert {"three": "expert@1"} == found.experts
    assert any("`again`" in remark for remark in found.remarks)


def test_an_asserted_value_counts_for_the_own_task(registry, network):
    registry.register(network("n"), name="said", task="three", metrics={"accuracy": 0.5})

    (row,) = leaderboard(registry, ["said"]).rows

    assert (0.5, None) == (row.cells["three"].value, row.cells["three"].low)
    assert (0.5, None) == (row.mean, row.low)


# Wilson's interval


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_ends_are_where_the_score_test_is_just_passed(case):
    """The definition: |p - q| = z sqrt(q (1 - q) / n) at both ends q."""
    right, n = case
    p = right / n

    for end in wilson(p, n, Z):
        assert 0 <= end <= 1
        assert (p - end) ** 2 == pytest.approx(Z * Z * end * (1 - end) / n, rel=1e-6, abs=1e-12)


def test_known_intervals():
    """Newcombe 1998, doi:10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E, table I:
    method 3, the score interval without continuity correction."""
    for right, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert (low, high) == pytest.approx(wilson(right / n, n, Z), abs=5e-5)


# What cannot be shown


def test_errors_say_what_is_missing(registry, board, add):
    add("empty")
    add("no-task")

    for asked, error, said in (
        ({"refs": ["mean"], "metric": "acuracy"}, NotFound, "Did you mean `accuracy`"),
        ({"refs": ["empty"]}, NotFound, "Evaluate them first"),
        ({"refs": ["mean"], "tasks": ["c"]}, NotFound, "on `c`"),
        ({"refs": ["mean"], "tasks": ["aa"]}, NotFound, "Did you mean `a`"),
        ({}, InvalidRecipe, "one of the two"),
        ({"where": "name = 'x'"}, NotFound, "No version fits"),
        ({"refs": ["mean"], "experts": ["no-task"]}, InvalidRecipe, "no task of its own"),
        ({"refs": ["mean"], "confidence": 1.0}, InvalidRecipe, "not between 0 and 1"),
        ({"refs": ["mean"], "by": "luck"}, InvalidRecipe, "`normalized`"),
        ({"refs": ["nobody"]}, NotFound, "nobody"),
    ):
        with pytest.raises(error, match=said):
            leaderboard(registry, asked.pop("refs", None), **asked)
