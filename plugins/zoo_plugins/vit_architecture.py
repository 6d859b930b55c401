"""The architecture `zoo_vit`: a small vision transformer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from zoo.architecture import Architecture
from zoo.errors import InvalidCheckpoint
from zoo.hookspecs import hookimpl
from zoo.networks.network_config import checked
from zoo.networks.transformer_block import EMBEDDING_STD, block_axes, block_class, check_heads

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Config:
    channels: Annotated[int, Ge(1), "of the image"]
    size: Annotated[int, Ge(1), "pixels of each side of the image"]
    patch: Annotated[int, Ge(1), "pixels of each side of a patch"]
    width: Annotated[int, Ge(1), "channels of the residual stream"]
    depth: Annotated[int, Ge(1), "blocks"]
    heads: Annotated[int, Ge(1), "of each attention"]
    inner: Annotated[int, Ge(1), "units inside each MLP, often 4 x `width`"]
    classes: Annotated[int, Ge(1), "outputs"]


@cache
def _module_class() -> type[torch.nn.Module]:
    """The network. A function, so that loading the plugin does not import torch."""
    import torch
    from torch import nn

    class Vit(nn.Module):
        def __init__(self, c: Config) -> None:
            super().__init__()
            patches = (c.size // c.patch) ** 2
            self.patches = nn.Conv2d(c.channels, c.width, c.patch, stride=c.patch)
            self.class_token = nn.Parameter(EMBEDDING_STD * torch.randn(c.width))
            self.positions = nn.Parameter(EMBEDDING_STD * torch.randn(1 + patches, c.width))
            block = block_class()
            self.blocks = nn.Sequential(
                *(block(c.width, c.heads, c.inner, causal=False) for _ in range(c.depth))
            )
            self.norm = nn.LayerNorm(c.width)
            self.head = nn.Linear(c.width, c.classes)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.patches(x).flatten(2).transpose(1, 2)  # (n, patches, width)
            token = self.class_token.expand(len(h), 1, -1)
            h = self.blocks(torch.cat((token, h), 1) + self.positions)
            y: torch.Tensor = self.head(self.norm(h[:, 0]))
            return y

    return Vit


class Vit(Architecture):
    """Patches and a class token, with learned positions; pre-norm blocks; a linear head on the
    class token.

        (n, channels, size, size) -> (n, classes), float

    `config.json`: `{"model_type": "zoo_vit", "channels": 1, "size": 28, "patch": 7, "width": 64,
    "depth": 4, "heads": 4, "inner": 256, "classes": 10}`. Weights begin as torch draws them;
    positions and class token, for which it has no rule, from N(0, 0.02^2).

    Source: Dosovitskiy et al. 2021, arXiv:2010.11929, section 3.1.
    """

    name = "zoo_vit"

    def build(self, config: Mapping[str, Any]) -> torch.nn.Module:
        return _module_class()(self._config(config))

    def layers(self, config: Mapping[str, Any]) -> Sequence[Sequence[str]]:
        """The embedding of patches, the blocks, the head with the last norm."""
        c = self._config(config)
        blocks = ([f"blocks.{i}.*"] for i in range(c.depth))
        return [["patches.*", "class_token", "positions"], *blocks, ["norm.*", "head.*"]]

    def head(self, config: Mapping[str, Any]) -> str | None:
        return "head"

    def axes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[str | None]]:
        """`residual`, and for each block `blocks.I.heads` and `blocks.I.mlp`; channels within a
        head are left out, see `zoo.networks.transformer_block.block_axes`."""
        c = self._config(config)
        found: dict[str, Sequence[str | None]] = {
            "patches.weight": ("residual", None, None, None),
            "patches.bias": ("residual",),
            "class_token": ("residual",),
            "positions": (None, "residual"),
        }
        for i in range(c.depth):
            found |= block_axes(f"blocks.{i}")
        return found | {
            "norm.weight": ("residual",),
            "norm.bias": ("residual",),
            "head.weight": (None, "residual"),
            "head.bias": (None,),
        }

    def units(self, config: Mapping[str, Any]) -> Mapping[str, int]:
        c = self._config(config)
        return {f"blocks.{i}.heads": c.heads for i in range(c.depth)}

    def _config(self, config: Mapping[str, Any]) -> Config:
        c = checked(Config, config, self.name)
        check_heads(c.width, c.heads, self.name)
        if c.size % c.patch:
            raise InvalidCheckpoint(
                f"An image of {c.size} pixels a side is not whole patches of {c.patch}.",
                how="Make `size` a multiple of `patch`.",
                model_type=self.name,
            )
        return c


@hookimpl
def zoo_register_architectures(register: Callable[[Architecture], None]) -> None:
    register(Vit())
