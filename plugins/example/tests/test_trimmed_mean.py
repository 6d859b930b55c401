"""What the trimmed mean promises, and what every method must keep."""

import pytest
import torch
from zoo_trimmed_mean import trimmed_mean

import zoo
from zoo.testing import MethodConformance


class TestTrimmedMean(MethodConformance):
    method = trimmed_mean


class TestUntrimmedMean(MethodConformance):
    method = trimmed_mean
    parameters = {"trim": 0}


def merge(*values, **parameters):
    """The merge of models that have one tensor of one element each."""
    states = [{"w": torch.tensor([v])} for v in values]
    return zoo.merge(trimmed_mean, experts=states, parameters=parameters)["w"].item()


def test_one_expert_that_went_astray_does_not_move_the_merge():
    assert 2.0 == merge(1.0, 2.0, 2.0, 2.0, 1e9)


def test_without_trimming_it_is_the_mean():
    assert 2.5 == merge(1.0, 2.0, 3.0, 4.0, trim=0)


def test_trimming_everything_away_is_refused():
    with pytest.raises(zoo.ZooError, match="trim=2 drops 4 values"):
        merge(1.0, 2.0, 3.0, trim=2)
