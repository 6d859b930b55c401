"""The architecture `zoo_cnn`: a small convolutional network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from zoo.architecture import Architecture
from zoo.errors import InvalidCheckpoint
from zoo.hookspecs import hookimpl
from zoo.networks.network_config import checked
from zoo.networks.norms import Norm, norm, norm_axes

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Config:
    channels: Annotated[int, Ge(1), "of the image"]
    size: Annotated[int, Ge(1), "pixels of each side of the image"]
    width: Annotated[int, Ge(1), "channels after the first convolution; doubled by each other"]
    depth: Annotated[int, Ge(1), "convolutions, each followed by a halving of the sides"]
    hidden: Annotated[int, Ge(1), "units of the linear layer before the head"]
    classes: Annotated[int, Ge(1), "outputs"]
    norm: Norm


class Cnn(Architecture):
    """3x3 convolutions, each with a norm, ReLU and 2x2 max pooling; a hidden layer; a head.

        (n, channels, size, size) -> (n, classes), float

    `config.json`: `{"model_type": "zoo_cnn", "channels": 1, "size": 28, "width": 16, "depth": 2,
    "hidden": 64, "classes": 10, "norm": "none"}`. Weights begin as torch draws them.
    """

    name = "zoo_cnn"

    def build(self, config: Mapping[str, Any]) -> torch.nn.Module:
        from torch import nn

        c = self._config(config)
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        before = c.channels
        for i in range(1, c.depth + 1):
            width = c.width * 2 ** (i - 1)
            parts[f"conv{i}"] = nn.Conv2d(before, width, 3, padding=1, bias=c.norm == "none")
            parts[f"norm{i}"] = norm(c.norm, width)
            parts[f"relu{i}"] = nn.ReLU()
            parts[f"pool{i}"] = nn.MaxPool2d(2)
            before = width
        parts["flatten"] = nn.Flatten()
        parts["fc"] = nn.Linear(before * (c.size // 2**c.depth) ** 2, c.hidden)
        parts["relu"] = nn.ReLU()
        parts["head"] = nn.Linear(c.hidden, c.classes)
        return nn.Sequential(parts)

    def layers(self, config: Mapping[str, Any]) -> Sequence[Sequence[str]]:
        c = self._config(config)
        convolutions = ([f"conv{i}.*", f"norm{i}.*"] for i in range(1, c.depth + 1))
        return [*convolutions, ["fc.*"], ["head.*"]]

    def head(self, config: Mapping[str, Any]) -> str | None:
        return "head"

    def axes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[str | None]]:
        """One group for each convolution, `conv1`, ..., and `fc`, whose inputs are a block of
        pixels for each channel of the last convolution."""
        c = self._config(config)
        found: dict[str, Sequence[str | None]] = {}
        before: str | None = None
        for i in range(1, c.depth + 1):
            group = f"conv{i}"
            found[f"conv{i}.weight"] = (group, before, None, None)
            if c.norm == "none":
                found[f"conv{i}.bias"] = (group,)
            found |= norm_axes(c.norm, f"norm{i}", group)
            before = group
        found |= {"fc.weight": ("fc", before), "fc.bias": ("fc",)}
        return found | {"head.weight": (None, "fc"), "head.bias": (None,)}

    def _config(self, config: Mapping[str, Any]) -> Config:
        c = checked(Config, config, self.name)
        if c.size < 2**c.depth:
            raise InvalidCheckpoint(
                f"An image of {c.size} pixels a side cannot be halved {c.depth} times.",
                f"After each convolution of `{self.name}` comes a halving.",
                f"Make `depth` at most {c.size.bit_length() - 1}.",
                model_type=self.name,
            )
        return c


@hookimpl
def zoo_register_architectures(register: Callable[[Architecture], None]) -> None:
    register(Cnn())
