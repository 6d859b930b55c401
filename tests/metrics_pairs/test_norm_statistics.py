"""BatchNorm's statistics: the specified numbers, and nothing else is touched."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from pair_subjects import golden, mlp, weights_of
from torch import nn

from zoo.errors import InvalidRecipe
from zoo.paths.norm_statistics import has_statistics, reestimate


def inputs(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("rule", ["cumulative", "sample_weighted"])
def test_statistics_are_the_golden_ones(rule: Literal["cumulative", "sample_weighted"]) -> None:
    case = golden("bn-reset")
    layer = nn.BatchNorm1d(2).double()

    reestimate(layer, [torch.tensor(b, dtype=torch.float64) for b in case["batches"]], rule)

    expected = case["expected"][rule]
    np.testing.assert_allclose(layer.running_mean, expected["mean"], rtol=1e-12)
    np.testing.assert_allclose(layer.running_var, expected["var"], rtol=1e-12)


def test_both_rules_agree_where_batches_are_of_one_size() -> None:
    x = inputs(12)
    modules = [mlp(0, norm=True), mlp(0, norm=True)]

    reestimate(modules[0], x.split(4), "cumulative")
    reestimate(modules[1], x.split(4), "sample_weighted")

    for name, tensor in modules[0].state_dict().items():
        torch.testing.assert_close(tensor, modules[1].state_dict()[name])


def test_parameters_modes_and_momentum_stay() -> None:
    module = mlp(0, norm=True).train()
    module[2].eval()
    before = weights_of(module)

    reestimate(module, [inputs(8)])

    after = weights_of(module)
    assert [n for n in before if not np.array_equal(before[n], after[n])] == [
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    ]
    assert 0.1 == module[1].momentum
    assert [True, True, False, True] == [part.training for part in module]


def test_doing_it_twice_changes_nothing_more() -> None:
    module = mlp(0, norm=True)
    reestimate(module, inputs(12).split(5))
    once = weights_of(module)

    reestimate(module, inputs(12).split(5))

    for name, tensor in weights_of(module).items():
        np.testing.assert_array_equal(once[name], tensor)


def test_outputs_are_normalized_over_what_was_shown() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, eps=1e-12)).double().eval()
    x = inputs(16)
    reestimate(module, [x])

    made = module(x)

    torch.testing.assert_close(made.mean(0), torch.zeros(3).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(made.std(0), torch.ones(3).double())


def test_dropout_stays_off() -> None:
    layers = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4)).double().train()
    x = inputs(10)

    reestimate(layers, [x])

    torch.testing.assert_close(layers[1].running_mean, x.mean(0))


def test_a_batch_of_one_example_is_left_out() -> None:
    with_one, without = mlp(0, norm=True), mlp(0, norm=True)

    reestimate(with_one, inputs(9).split(4))
    reestimate(without, inputs(9)[:8].split(4))

    torch.testing.assert_close(with_one[1].running_var, without[1].running_var, rtol=0, atol=0)


def test_batches_of_one_example_alone_are_refused() -> None:
    with pytest.raises(InvalidRecipe, match="no batch has two examples"):
        reestimate(mlp(0, norm=True), inputs(3).split(1))


def test_a_module_without_statistics_reads_nothing() -> None:
    def unread() -> torch.Tensor:
        raise AssertionError

    assert not has_statistics(mlp(0))
    reestimate(mlp(0), (unread() for _ in range(1)))
