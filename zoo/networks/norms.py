"""The normalisation layers that a bundled image network may have, chosen by one word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

if TYPE_CHECKING:
    import torch

Norm = Annotated[Literal["none", "batch", "layer"], "`none`, `batch` or `layer`"]
"""After each convolution: nothing, BatchNorm, or LayerNorm over all channels and pixels."""


def norm(kind: str, channels: int) -> torch.nn.Module:
    """The layer after a convolution of so many channels; (n, channels, h, w) -> the same.

    `layer` is GroupNorm with one group: statistics of each example over all channels and pixels,
    and a scale and shift for each channel. Permuting the channels permutes its output.
    """
    from torch import nn

    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(1, channels) if kind == "layer" else nn.Identity()


def norm_axes(kind: str, name: str, group: str | None) -> dict[str, Sequence[str | None]]:
    """Permutation groups of the tensors of such a layer; of `Architecture.axes`."""
    found: dict[str, Sequence[str | None]] = {}
    if kind != "none":
        found |= {f"{name}.weight": (group,), f"{name}.bias": (group,)}
    if kind == "batch":
        found |= {f"{name}.running_mean": (group,), f"{name}.running_var": (group,)}
        found[f"{name}.num_batches_tracked"] = ()
    return found
