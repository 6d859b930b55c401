"""Which versions a query gives to what runs, measures and compares them."""

from __future__ import annotations

import pytest

from zoo.errors import NotFound
from zoo.measuring.evaluation import evaluate
from zoo.measuring.leaderboard import leaderboard

EVERYTHING = "name like '%'"


@pytest.fixture
def attached(registry, add, network):
    """An expert, and an artifact beside it, which is no model."""
    add("expert", task="three")
    return registry.attach("expert", "exp_avg_sq", network("moments"))


def test_artifacts_are_no_models_to_run_measure_or_compare(registry, attached):
    assert {"expert", attached.name} == {v.name for v in registry.select(EVERYTHING)}

    assert ["expert@1"] == [one.label for one in evaluate(registry, where=EVERYTHING)]
    assert [("expert@1",)] == [
        one.versions for one in registry.measure(where=EVERYTHING, metrics=["hessian"],
        split="test", parameters={"probes": 2})
    ]  # fmt: skip
    assert ["expert@1"] == [row.version for row in leaderboard(registry, where=EVERYTHING).rows]


def test_a_query_that_finds_artifacts_alone_finds_nothing(registry, attached):
    for asked in (evaluate, leaderboard):
        with pytest.raises(NotFound, match="No version fits"):
            asked(registry, where=f"name = '{attached.name}'")
