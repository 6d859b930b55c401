"""The door to timm, where it is installed."""

from __future__ import annotations

import pytest
import torch

from zoo.errors import InvalidCheckpoint
from zoo.testing import ArchitectureConformance

timm = pytest.importorskip("timm", reason="timm is not installed")
from zoo_plugins.timm_architectures import Timm  # noqa: E402

CONFIG = {"architecture": "resnet18", "num_classes": 3, "num_features": 512}


class TestTimm(ArchitectureConformance):
    architecture = Timm()
    config = {**CONFIG, "pretrained_cfg": {"num_classes": 1000}}
    tolerance = 1e-4

    def inputs(self) -> torch.Tensor:
        return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def test_an_empty_configuration_is_refused(self) -> None:
        pytest.skip("timm passes over what it does not know")


def test_a_model_has_as_many_outputs_as_its_configuration_says():
    assert "fc" == Timm().head(CONFIG)
    assert 3 == Timm().build(CONFIG).fc.out_features
    older = {"architecture": "resnet18", "pretrained_cfg": {"num_classes": 5}}
    assert 5 == Timm().build(older).fc.out_features


@pytest.mark.parametrize("config", [{}, {"architecture": 5}, {**CONFIG, "model_type": "mine"}])
def test_other_configurations_are_not_its(config):
    assert Timm().knows(CONFIG)
    assert not Timm().knows(config)


def test_a_model_that_timm_lacks_is_named():
    with pytest.raises(InvalidCheckpoint, match="timm has no model `no_such_model`"):
        Timm().build({"architecture": "no_such_model"})
