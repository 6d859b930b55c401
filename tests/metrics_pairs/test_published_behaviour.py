"""What the literature says of siblings and strangers, on the digits that come with zoo."""

from __future__ import annotations

import copy

import pytest
from pair_subjects import numbers, subject
from torch import nn

from zoo.grow.training import TrainingPlan, fresh, train
from zoo.plugins import load_plugins
from zoo.sample import Sample
from zoo.subject import Subject

PLUGINS = load_plugins()
DIGITS = PLUGINS.tasks["digits"]
CONFIG = {
    "model_type": "zoo_mlp",
    "inputs": 64,
    "width": 32,
    "depth": 2,
    "classes": 10,
    "activation": "relu",
}


def grown(seed: int, start: nn.Module | None = None) -> nn.Module:
    """Trained from a start of its own, or on from another's weights; 92 % right or more."""
    build = PLUGINS.architectures["zoo_mlp"].build
    module = copy.deepcopy(start) if start else fresh(lambda: build(CONFIG), seed)
    train(module, DIGITS, TrainingPlan(lr=0.1, epochs=8), seed=seed)
    return module


@pytest.fixture(scope="module")
def families() -> tuple[list[Subject], list[Subject]]:
    """Two siblings, trained on from one base; and two strangers."""
    base = grown(0)
    origin = subject(base, "base")
    siblings = [subject(grown(seed, base), f"sibling {seed}", origin) for seed in (1, 2)]
    return siblings, [subject(grown(seed), f"stranger {seed}") for seed in (3, 4)]


def test_strangers_have_a_barrier_and_siblings_none(
    families: tuple[list[Subject], list[Subject]],
) -> None:
    siblings, strangers = (numbers("barrier", pair, Sample(DIGITS)) for pair in families)

    assert siblings["error_barrier"] < 0.02 < 0.1 < strangers["error_barrier"]
    assert siblings["barrier"] < 0.05 < 0.3 < strangers["barrier"]


def test_a_curve_goes_round_the_barrier(families: tuple[list[Subject], list[Subject]]) -> None:
    strangers = families[1]
    train_split = Sample(DIGITS, "train")

    straight = numbers("barrier", strangers, train_split)
    curved = numbers("mode_connectivity", strangers, train_split, epochs=10, train_batch=64)

    assert curved["curve_barrier"] < 0.2 * straight["barrier"]
    assert abs(curved["mode_connectivity"]) < 2  # percent: connected
    assert 100 * straight["error_barrier"] > 10


def test_siblings_compute_more_alike_than_strangers(
    families: tuple[list[Subject], list[Subject]],
) -> None:
    alike = [numbers("cka", pair, Sample(DIGITS)) for pair in families]
    differ = [numbers("disagreement", pair, Sample(DIGITS)) for pair in families]

    assert alike[0]["cka"] > alike[1]["cka"]
    assert differ[0]["jensen_shannon"] < differ[1]["jensen_shannon"]
