"""The architecture `upconv7`: a 2x upscaler of seven convolutions, from waifu2x."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo import Architecture, hookimpl

if TYPE_CHECKING:
    import torch

WIDTHS = (3, 16, 32, 64, 128, 128, 256)


class UpConv7(Architecture):
    """Six 3x3 convolutions with leaky ReLU, and a transposed one that doubles the sides.

        RGB in [0, 1], (n, 3, h, w) -> (n, 3, 2h, 2w), not clipped

    Published weights are float16 and biases float32; such a mixture becomes float32.

    Source: nagadomi/waifu2x, lib/srcnn.lua, upconv_7.
    """

    name = "upconv7"

    def build(self, config: Mapping[str, Any]) -> torch.nn.Module:
        from torch import nn

        parts: OrderedDict[str, nn.Module] = OrderedDict(pad=nn.ReplicationPad2d(7))
        for i in range(1, 7):
            parts[f"conv{i}"] = nn.Conv2d(WIDTHS[i - 1], WIDTHS[i], 3)
            parts[f"leaky{i}"] = nn.LeakyReLU(0.1)
        parts["conv7"] = nn.ConvTranspose2d(WIDTHS[6], 3, 4, stride=2, padding=3)
        return nn.Sequential(parts)

    def layers(self, config: Mapping[str, Any]) -> Sequence[Sequence[str]]:
        return [[f"conv{i}.*"] for i in range(1, 8)]

    def axes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[str | None]]:
        found: dict[str, Sequence[str | None]] = {}
        before: str | None = None
        for i in range(1, 7):
            found[f"conv{i}.weight"] = (f"conv{i}", before, None, None)
            found[f"conv{i}.bias"] = (f"conv{i}",)
            before = f"conv{i}"
        # A transposed convolution has its inputs first.
        return found | {"conv7.weight": (before, None, None, None), "conv7.bias": (None,)}


@hookimpl
def zoo_register_architectures(register: Callable[[Architecture], None]) -> None:
    register(UpConv7())
