"""The block that the bundled transformers are made of: pre-norm attention and a two-layer MLP."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from zoo.errors import InvalidCheckpoint

if TYPE_CHECKING:
    import torch

EMBEDDING_STD = 0.02
"""Standard deviation of embeddings and positions at the start. torch's own, 1, is as large as all
that a norm lets through, and a head tied to it begins with logits of tens of nats.
Source: Radford et al. 2019, GPT-2."""


def check_heads(width: int, heads: int, model_type: str) -> None:
    """
    Raises:
        InvalidCheckpoint: the width is no multiple of the heads.
    """
    if width % heads:
        raise InvalidCheckpoint(
            f"`{model_type}` cannot deal {width} channels to {heads} heads.",
            "All heads are of one size.",
            "Make `width` a multiple of `heads`.",
            model_type=model_type,
        )


@cache
def block_class() -> type[torch.nn.Module]:
    """The block. A function, so that loading a plugin does not import torch."""
    import torch
    from torch import nn

    class Attention(nn.Module):
        """Multi-head attention, (n, t, d) -> (n, t, d); `causal`: on itself and what is before.

        The product is written out, for torch's fused one has no second derivative on a CPU, and
        curvature is measured here.
        """

        def __init__(self, width: int, heads: int, causal: bool) -> None:
            super().__init__()
            self.heads, self.causal = heads, causal
            self.q = nn.Linear(width, width)
            self.k = nn.Linear(width, width)
            self.v = nn.Linear(width, width)
            self.out = nn.Linear(width, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            n, t, d = x.shape
            q, k, v = (
                part(x).view(n, t, self.heads, d // self.heads).transpose(1, 2)
                for part in (self.q, self.k, self.v)
            )
            scores = q @ k.transpose(2, 3) * (d // self.heads) ** -0.5  # (n, heads, t, t)
            if self.causal:
                later = torch.ones(t, t, dtype=torch.bool, device=x.device).triu(1)
                scores = scores.masked_fill(later, float("-inf"))
            joined = (scores.softmax(3) @ v).transpose(1, 2).reshape(n, t, d)
            y: torch.Tensor = self.out(joined)
            return y

    class Block(nn.Module):
        def __init__(self, width: int, heads: int, inner: int, causal: bool) -> None:
            super().__init__()
            self.norm1 = nn.LayerNorm(width)
            self.attention = Attention(width, heads, causal)
            self.norm2 = nn.LayerNorm(width)
            self.fc1 = nn.Linear(width, inner)
            self.gelu = nn.GELU()
            self.fc2 = nn.Linear(inner, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + self.attention(self.norm1(x))
            y: torch.Tensor = x + self.fc2(self.gelu(self.fc1(self.norm2(x))))
            return y

    return Block


def block_axes(name: str) -> dict[str, Sequence[str | None]]:
    """Permutation groups of a block; of `Architecture.axes`.

    `residual` is the stream's; `NAME.mlp` the inner units'; `NAME.heads` moves whole heads, each a
    block of channels. Reordering the channels within a head is another symmetry, which a group on
    an axis that the heads' group has cannot say: left out.

    Source: Imfeld et al. 2024, arXiv:2310.05719, section 3.
    """
    heads, inner = f"{name}.heads", f"{name}.mlp"
    found: dict[str, Sequence[str | None]] = {}
    for norm in ("norm1", "norm2"):
        found |= {f"{name}.{norm}.{part}": ("residual",) for part in ("weight", "bias")}
    for part in "qkv":
        found[f"{name}.attention.{part}.weight"] = (heads, "residual")
        found[f"{name}.attention.{part}.bias"] = (heads,)
    return found | {
        f"{name}.attention.out.weight": ("residual", heads),
        f"{name}.attention.out.bias": ("residual",),
        f"{name}.fc1.weight": (inner, "residual"),
        f"{name}.fc1.bias": (inner,),
        f"{name}.fc2.weight": ("residual", inner),
        f"{name}.fc2.bias": ("residual",),
    }
