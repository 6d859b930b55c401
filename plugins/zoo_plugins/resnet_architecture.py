"""The architecture `zoo_resnet`: a residual network of basic blocks for small images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
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
    width: Annotated[int, Ge(1), "channels of the first stage; doubled by each other"]
    blocks: Annotated[
        tuple[Annotated[int, Ge(1)], ...], MinLen(1), "a number for each stage, `[3, 3, 3]`"
    ]
    classes: Annotated[int, Ge(1), "outputs"]
    norm: Norm


@cache
def _module_class() -> type[torch.nn.Module]:
    """The network. A function, so that loading the plugin does not import torch."""
    from torch import Tensor, nn

    def conv(before: int, after: int, side: int, stride: int, c: Config) -> nn.Conv2d:
        """A convolution that keeps the image's size, divided by the stride."""
        bias = c.norm == "none"
        return nn.Conv2d(before, after, side, stride, padding=side // 2, bias=bias)

    class Block(nn.Module):
        """(n, before, h, w) -> (n, after, h / stride, w / stride)."""

        def __init__(self, before: int, after: int, stride: int, c: Config) -> None:
            super().__init__()
            self.conv1 = conv(before, after, 3, stride, c)
            self.norm1 = norm(c.norm, after)
            self.relu1 = nn.ReLU()
            self.conv2 = conv(after, after, 3, 1, c)
            self.norm2 = norm(c.norm, after)
            self.relu2 = nn.ReLU()
            self.shortcut = nn.Sequential()
            if before != after:
                self.shortcut.append(conv(before, after, 1, stride, c))
                self.shortcut.append(norm(c.norm, after))

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
            out: Tensor = self.relu2(y + self.shortcut(x))
            return out

    class ResNet(nn.Module):
        def __init__(self, c: Config) -> None:
            super().__init__()
            self.conv1 = conv(c.channels, c.width, 3, 1, c)
            self.norm1 = norm(c.norm, c.width)
            self.relu1 = nn.ReLU()
            self.stages = nn.Sequential()
            before = c.width
            for stage, count in enumerate(c.blocks):
                blocks = nn.Sequential()
                for b in range(count):
                    after = c.width * 2**stage
                    blocks.append(Block(before, after, 2 if stage and not b else 1, c))
                    before = after
                self.stages.append(blocks)
            self.head = nn.Linear(before, c.classes)

        def forward(self, x: Tensor) -> Tensor:
            h = self.stages(self.relu1(self.norm1(self.conv1(x))))
            y: Tensor = self.head(h.mean((2, 3)))
            return y

    return ResNet


class ResNet(Architecture):
    """A 3x3 convolution; stages of blocks, each of two 3x3 convolutions and a shortcut; the mean
    over pixels; a linear head. Each stage after the first halves the sides and doubles the
    channels.

        (n, channels, h, w) -> (n, classes), float

    `config.json`: `{"model_type": "zoo_resnet", "channels": 3, "width": 16, "blocks": [3, 3, 3],
    "classes": 10, "norm": "batch"}` is ResNet-20. Weights begin as torch draws them.

    Source: He et al. 2016, arXiv:1512.03385, section 4.2.
    Departs: where the channels double, the shortcut is a 1x1 convolution and a norm, since zeros
        for the new channels would leave them no permutation.
    """

    name = "zoo_resnet"

    def build(self, config: Mapping[str, Any]) -> torch.nn.Module:
        return _module_class()(checked(Config, config, self.name))

    def layers(self, config: Mapping[str, Any]) -> Sequence[Sequence[str]]:
        """The convolutions in order, each with its norm; a shortcut with the block's second."""
        c = checked(Config, config, self.name)
        found = [["conv1.*", "norm1.*"]]
        for block in _blocks(c):
            found.append([f"{block}.conv1.*", f"{block}.norm1.*"])
            found.append([f"{block}.conv2.*", f"{block}.norm2.*", f"{block}.shortcut.*"])
        return [*found, ["head.*"]]

    def head(self, config: Mapping[str, Any]) -> str | None:
        return "head"

    def axes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[str | None]]:
        """One group for each stage, `stage0`, ..., which its shortcuts tie together; and one inside
        each block."""
        c = checked(Config, config, self.name)
        found: dict[str, Sequence[str | None]] = {}

        def add(convolution: str, normed: str, group: str, before: str | None) -> None:
            found[f"{convolution}.weight"] = (group, before, None, None)
            if c.norm == "none":
                found[f"{convolution}.bias"] = (group,)
            found.update(norm_axes(c.norm, normed, group))

        add("conv1", "norm1", "stage0", None)
        before = "stage0"
        for block in _blocks(c):
            group = f"stage{block.split('.')[1]}"
            add(f"{block}.conv1", f"{block}.norm1", f"{block}.inner", before)
            add(f"{block}.conv2", f"{block}.norm2", group, f"{block}.inner")
            if group != before:
                add(f"{block}.shortcut.0", f"{block}.shortcut.1", group, before)
            before = group
        return found | {"head.weight": (None, before), "head.bias": (None,)}


def _blocks(c: Config) -> list[str]:
    """The names of the blocks, in order."""
    return [f"stages.{s}.{b}" for s, count in enumerate(c.blocks) for b in range(count)]


@hookimpl
def zoo_register_architectures(register: Callable[[Architecture], None]) -> None:
    register(ResNet())
