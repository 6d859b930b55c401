"""The kit finds what is wrong with an architecture; the bundled ones show what is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from zoo_plugins.mlp_architecture import Mlp

from zoo.architecture import Architecture
from zoo.architecture_checks import (
    ArchitectureError,
    Case,
    NotDeclared,
    check_axes,
    check_build,
    check_config,
    check_eval_mode,
    check_head,
    check_layers,
    check_round_trip,
    check_wrong_weights,
)

CONFIG = {"inputs": 4, "width": 5, "depth": 1, "classes": 3, "activation": "relu"}


class Sound(Architecture):
    """An MLP, whose parts the tests spoil."""

    name = "sound"

    def build(self, config: Mapping[str, Any]) -> torch.nn.Module:
        return Mlp().build(config)

    def layers(self, config):
        return [["fc1.*"], ["head.*"]]

    def head(self, config):
        return "head"

    def axes(self, config):
        return Mlp().axes(config)


class Bare(Sound):
    layers, head, axes = Architecture.layers, Architecture.head, Architecture.axes


class Random(Sound):
    draws = 0

    def build(self, config):
        self.draws += 1
        module = super().build(config)
        torch.nn.init.constant_(module.fc1.bias, self.draws)
        return module


class Infinite(Sound):
    def build(self, config):
        module = super().build(config)
        module.fc1.register_forward_hook(lambda _, __, y: y / 0)
        return module


class Batchwise(Sound):
    def build(self, config):
        module = super().build(config)
        module.head.register_forward_hook(lambda _, __, y: y - y.mean(0))
        return module


class Dropping(Sound):
    def build(self, config):
        module = super().build(config)
        module.fc1.register_forward_hook(
            lambda _, __, y: torch.nn.functional.dropout(y, training=True)
        )
        return module


class Training(Sound):
    def load(self, directory: Path) -> torch.nn.Module:
        return super().load(directory).train()


class Forgetful(Sound):
    def load(self, directory: Path) -> torch.nn.Module:
        module = super().load(directory)
        torch.nn.init.zeros_(module.head.bias)
        return module


class Careless(Sound):
    def build(self, config):
        return super().build({**CONFIG, **config})


class Unhandy(Sound):
    def head(self, config):
        return "relu1"


class Headless(Sound):
    def head(self, config):
        return "fc1"


class Twofold(Sound):
    def layers(self, config):
        return [["fc1.*"], ["fc1.bias", "head.*"]]


class Short(Sound):
    def layers(self, config):
        return [["fc1.*"]]


class Misaligned(Sound):
    def axes(self, config):
        return {**super().axes(config), "head.weight": (None, None)}


class Silent(Sound):
    def axes(self, config):
        return {n: a for n, a in super().axes(config).items() if n != "head.bias"}


def case(architecture: Architecture) -> Case:
    inputs = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    return Case(architecture, CONFIG, inputs)


CHECKS = (check_build, check_eval_mode, check_round_trip, check_wrong_weights, check_config)
CHECKS += (check_head, check_layers, check_axes)


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_a_sound_architecture_passes(check: Callable[[Case], None]):
    check(case(Sound()))


@pytest.mark.parametrize("check", [check_head, check_layers, check_axes])
def test_what_is_not_declared_is_not_checked(check: Callable[[Case], None]):
    with pytest.raises(NotDeclared):
        check(case(Bare()))


@pytest.mark.parametrize(
    ("check", "spoilt", "said"),
    [
        (check_build, Random, r"these differ: \['fc1.bias'\]"),
        (check_build, Infinite, "not finite"),
        (check_eval_mode, Batchwise, "not those of its examples alone"),
        (check_eval_mode, Dropping, "the outputs differ"),
        (check_round_trip, Training, "in training mode"),
        (check_round_trip, Forgetful, "`model.safetensors` differs"),
        (check_config, Careless, "was accepted"),
        (check_head, Unhandy, "`relu1` is ReLU, not Linear"),
        (check_head, Headless, "not what the head `fc1` gives"),
        (check_layers, Twofold, "`fc1.bias` is in 2 layers"),
        (check_layers, Short, "`head.weight` is in 0 layers"),
        (check_axes, Misaligned, r"\['fc1'\] changes the function"),
        (check_axes, Silent, r"says nothing of \['head.bias'\]"),
    ],
)
def test_a_spoilt_architecture_is_found_out(check, spoilt, said):
    with pytest.raises(ArchitectureError, match=said):
        check(case(spoilt()))
