"""Networks that give no numbers: nothing is made up for them."""

from __future__ import annotations

import math

import pytest
import torch
from small_subjects import METRICS, mlp, points, run, sample, subject
from torch import nn


def broken(value: float) -> nn.Module:
    module = mlp(1, 4, 6, 3, activation=nn.ReLU)
    with torch.no_grad():
        next(module.parameters())[0, 0] = value
    return module


CURVES = [name for name in METRICS if name.startswith("hessian") or name.endswith("_sharpness")]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", sorted({*CURVES} - {"layer_sharpness"}))
def test_there_is_no_curvature_and_no_sharpness(name: str, value: float) -> None:
    assert {} == run(name, subject(broken(value)), sample(points(1, 12, 4)))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_there_are_no_barriers_of_layers_and_no_stragglers(value: float) -> None:
    model = subject(broken(value), base=subject(mlp(2, 4, 6, 3, activation=nn.ReLU)))

    assert {} == run("layer_sharpness", model, sample(points(1, 12, 4)), points=3)
