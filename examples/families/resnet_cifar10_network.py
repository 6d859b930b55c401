"""The architecture `resnet-cifar10`: residual networks as in the paper, with shortcuts of zeros."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from zoo import Architecture, hookimpl
from zoo.errors import InvalidCheckpoint

if TYPE_CHECKING:
    import torch

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the channels: inputs are RGB in [0, 1], minus the one, divided by the other."""


@cache
def _module_class() -> type[torch.nn.Module]:
    """The network. A function, so that loading the plugin does not import torch."""
    from torch import nn
    from torch.nn import functional as F

    class Block(nn.Module):
        def __init__(self, before: int, after: int) -> None:
            super().__init__()
            self.added, self.stride = after - before, 1 if before == after else 2
            self.conv1 = nn.Conv2d(before, after, 3, self.stride, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(after)
            self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(after)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            side = self.added // 2  # new channels are zeros, half before and half after the others
            s = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, side, side))
            return F.relu(h + s)

    class ResNet(nn.Module):
        def __init__(self, blocks: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(16)
            for stage, (before, after) in enumerate(((16, 16), (16, 32), (32, 64)), 1):
                first = Block(before, after)
                rest = (Block(after, after) for _ in range(blocks - 1))
                self.add_module(f"layer{stage}", nn.Sequential(first, *rest))
            self.linear = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = F.relu(self.bn1(self.conv1(x)))
            h = self.layer3(self.layer2(self.layer1(h)))
            return self.linear(h.mean((2, 3)))

    return ResNet


class ResNetCifar10(Architecture):
    """ResNet-20, -32, ...: the `depth` in `config.json` is 6 n + 2, for n blocks in a stage.

        normalized RGB, (n, 3, 32, 32) -> (n, 10)

    Source: He et al. 2016, arXiv:1512.03385, section 4.2; weights of
        akamaster/pytorch_resnet_cifar10.
    """

    name = "resnet-cifar10"

    def build(self, config: Mapping[str, Any]) -> torch.nn.Module:
        return _module_class()(self._blocks(config))

    def layers(self, config: Mapping[str, Any]) -> Sequence[Sequence[str]]:
        found = [["conv1.*", "bn1.*"]]
        for name in self._names(config):
            found += [[f"{name}.conv{i}.*", f"{name}.bn{i}.*"] for i in (1, 2)]
        return [*found, ["linear.*"]]

    def head(self, config: Mapping[str, Any]) -> str | None:
        return "linear"

    def axes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[str | None]]:
        """One group inside each block. The channels between blocks have none: those that a shortcut
        fills with zeros are not like the others."""
        found: dict[str, Sequence[str | None]] = {"conv1.weight": (None,) * 4, **_norm("bn1", None)}
        for name in self._names(config):
            found[f"{name}.conv1.weight"] = (name, None, None, None)
            found[f"{name}.conv2.weight"] = (None, name, None, None)
            found |= _norm(f"{name}.bn1", name) | _norm(f"{name}.bn2", None)
        return found | {"linear.weight": (None, None), "linear.bias": (None,)}

    def _names(self, config: Mapping[str, Any]) -> list[str]:
        return [f"layer{s}.{b}" for s in (1, 2, 3) for b in range(self._blocks(config))]

    def _blocks(self, config: Mapping[str, Any]) -> int:
        depth = config.get("depth")
        if not isinstance(depth, int) or depth < 8 or depth % 6 != 2:
            raise InvalidCheckpoint(
                f"`{self.name}` has no depth {depth!r}.",
                "The depth is 6 n + 2: a convolution, 3 stages of n blocks of 2, and the head.",
                'Write `"depth": 20`, 32, 44, 56 or 110, in `config.json`.',
                model_type=self.name,
            )
        return (depth - 2) // 6


def _norm(name: str, group: str | None) -> dict[str, Sequence[str | None]]:
    vectors = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (group,) for part in vectors} | {f"{name}.num_batches_tracked": ()}


@hookimpl
def zoo_register_architectures(register: Callable[[Architecture], None]) -> None:
    register(ResNetCifar10())
