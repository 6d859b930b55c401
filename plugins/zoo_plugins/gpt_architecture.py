"""The architecture `zoo_gpt`: a small language model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from zoo.architecture import Architecture
from zoo.hookspecs import hookimpl
from zoo.networks.network_config import checked
from zoo.networks.transformer_block import EMBEDDING_STD, block_axes, block_class, check_heads

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Config:
    vocab_size: Annotated[int, Ge(1), "tokens"]
    context: Annotated[int, Ge(1), "tokens that it can read at once"]
    width: Annotated[int, Ge(1), "channels of the residual stream"]
    depth: Annotated[int, Ge(1), "blocks"]
    heads: Annotated[int, Ge(1), "of each attention"]
    inner: Annotated[int, Ge(1), "units inside each MLP, often 4 x `width`"]
    tie_word_embeddings: Annotated[bool, "whether the head is the matrix of embeddings"]


@cache
def _module_class() -> type[torch.nn.Module]:
    """The network. A function, so that loading the plugin does not import torch."""
    import torch
    from torch import nn

    class Gpt(nn.Module):
        def __init__(self, c: Config) -> None:
            super().__init__()
            block = block_class()
            embeddings = nn.Embedding(c.vocab_size, c.width)
            positions = nn.Embedding(c.context, c.width)
            for table in (embeddings, positions):
                nn.init.normal_(table.weight, std=EMBEDDING_STD)
            blocks = (block(c.width, c.heads, c.inner, causal=True) for _ in range(c.depth))
            # Called as in transformers, for merges of vocabularies and ties find them so.
            self.model = nn.ModuleDict(
                {
                    "embed_tokens": embeddings,
                    "positions": positions,
                    "blocks": nn.Sequential(*blocks),
                    "norm": nn.LayerNorm(c.width),
                }
            )
            self.lm_head = nn.Linear(c.width, c.vocab_size, bias=False)
            if c.tie_word_embeddings:
                self.lm_head.weight = embeddings.weight
            self.context = c.context

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            t = tokens.shape[1]
            if t > self.context:
                raise ValueError(f"{t} tokens are more than the context of {self.context}")
            places = torch.arange(t, device=tokens.device)
            h = self.model["embed_tokens"](tokens) + self.model["positions"](places)
            y: torch.Tensor = self.lm_head(self.model["norm"](self.model["blocks"](h)))
            return y

    return Gpt


class Gpt(Architecture):
    """Token and position embeddings; pre-norm blocks that see what is before; a linear head.

        (n, t) integers -> (n, t, vocab_size) logits of each next token; t at most `context`

    The outputs keep their three axes; a task's loss flattens the first two.

    `config.json`: `{"model_type": "zoo_gpt", "vocab_size": 256, "context": 128, "width": 64,
    "depth": 4, "heads": 4, "inner": 256, "tie_word_embeddings": true}`. Weights begin as torch
    draws them; embeddings and positions from N(0, 0.02^2).

    Source: Radford et al. 2019, GPT-2, section 2.3.
    """

    name = "zoo_gpt"

    def build(self, config: Mapping[str, Any]) -> torch.nn.Module:
        return _module_class()(self._config(config))

    def layers(self, config: Mapping[str, Any]) -> Sequence[Sequence[str]]:
        """The embeddings, the blocks, the head with the last norm."""
        c = self._config(config)
        blocks = ([f"model.blocks.{i}.*"] for i in range(c.depth))
        first = ["model.embed_tokens.*", "model.positions.*"]
        return [first, *blocks, ["model.norm.*", "lm_head.*"]]

    def head(self, config: Mapping[str, Any]) -> str | None:
        return "lm_head"

    def axes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[str | None]]:
        """`residual`, and for each block `model.blocks.I.heads` and `model.blocks.I.mlp`; channels
        within a head are left out, see `zoo.networks.transformer_block.block_axes`."""
        c = self._config(config)
        found: dict[str, Sequence[str | None]] = {
            "model.embed_tokens.weight": (None, "residual"),
            "model.positions.weight": (None, "residual"),
        }
        for i in range(c.depth):
            found |= block_axes(f"model.blocks.{i}")
        found |= {"model.norm.weight": ("residual",), "model.norm.bias": ("residual",)}
        return found if c.tie_word_embeddings else found | {"lm_head.weight": (None, "residual")}

    def units(self, config: Mapping[str, Any]) -> Mapping[str, int]:
        c = self._config(config)
        return {f"model.blocks.{i}.heads": c.heads for i in range(c.depth)}

    def _config(self, config: Mapping[str, Any]) -> Config:
        c = checked(Config, config, self.name)
        check_heads(c.width, c.heads, self.name)
        return c


@hookimpl
def zoo_register_architectures(register: Callable[[Architecture], None]) -> None:
    register(Gpt())
