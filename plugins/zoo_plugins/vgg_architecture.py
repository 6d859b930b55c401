"""The architecture `zoo_vgg`: stages of 3x3 convolutions, as VGG has them for small images."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, MinLen

from zoo.architecture import Architecture
from zoo.hookspecs import hookimpl
from zoo.networks.network_config import checked
from zoo.networks.norms import Norm, norm, norm_axes

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Config:
    channels: Annotated[int, Ge(1), "of the image"]
    width: Annotated[int, Ge(1), "channels of the first stage; doubled by each other, up to 8 x"]
    convolutions: Annotated[
        tuple[Annotated[int, Ge(1)], ...], MinLen(1), "a number for each stage, `[1, 1, 2, 2, 2]`"
    ]
    classes: Annotated[int, Ge(1), "outputs"]
    norm: Norm


class Vgg(Architecture):
    """Stages of 3x3 convolutions, each with a norm and ReLU, and 2x2 max pooling after each stage;
    then the mean over pixels, and a linear head.

        (n, channels, h, w) -> (n, classes), float; h and w at least 2^stages

    `config.json`: `{"model_type": "zoo_vgg", "channels": 3, "width": 64,
    "convolutions": [1, 1, 2, 2, 2], "classes": 10, "norm": "batch"}` is VGG-11; `[2, 2, 3, 3, 3]`
    makes VGG-16. Weights begin as torch draws them.

    Source: Simonyan and Zisserman 2015, arXiv:1409.1556, table 1.
    Departs: one linear layer in place of three, as is usual for images of 32 pixels.
    """

    name = "zoo_vgg"

    def build(self, config: Mapping[str, Any]) -> torch.nn.Module:
        from torch import nn

        c = checked(Config, config, self.name)
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        before = c.channels
        for i, width, last in _convolutions(c):
            parts[f"conv{i}"] = nn.Conv2d(before, width, 3, padding=1, bias=c.norm == "none")
            parts[f"norm{i}"] = norm(c.norm, width)
            parts[f"relu{i}"] = nn.ReLU()
            if last:
                parts[f"pool{i}"] = nn.MaxPool2d(2)
            before = width
        parts["mean"] = nn.AdaptiveAvgPool2d(1)
        parts["flatten"] = nn.Flatten()
        parts["head"] = nn.Linear(before, c.classes)
        return nn.Sequential(parts)

    def layers(self, config: Mapping[str, Any]) -> Sequence[Sequence[str]]:
        c = checked(Config, config, self.name)
        return [*([f"conv{i}.*", f"norm{i}.*"] for i, _, _ in _convolutions(c)), ["head.*"]]

    def head(self, config: Mapping[str, Any]) -> str | None:
        return "head"

    def axes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[str | None]]:
        """One group for each convolution: `conv1`, `conv2`, ..."""
        c = checked(Config, config, self.name)
        found: dict[str, Sequence[str | None]] = {}
        before: str | None = None
        for i, _, _ in _convolutions(c):
            found[f"conv{i}.weight"] = (f"conv{i}", before, None, None)
            if c.norm == "none":
                found[f"conv{i}.bias"] = (f"conv{i}",)
            found |= norm_axes(c.norm, f"norm{i}", f"conv{i}")
            before = f"conv{i}"
        return found | {"head.weight": (None, before), "head.bias": (None,)}


def _convolutions(c: Config) -> Iterator[tuple[int, int, bool]]:
    """Number from 1, channels, and whether it ends its stage, of each convolution."""
    i = 0
    for stage, count in enumerate(c.convolutions):
        for k in range(count):
            i += 1
            yield i, c.width * 2 ** min(stage, 3), k == count - 1


@hookimpl
def zoo_register_architectures(register: Callable[[Architecture], None]) -> None:
    register(Vgg())
