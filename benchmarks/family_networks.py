"""Forward passes of the published networks that `families.py` merges, from their state dicts.

Written from the descriptions that come with the checkpoints. Every function takes a state dict and
float32 input, and runs without gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F

State = Mapping[str, torch.Tensor]


def upconv7(weights: State, x: torch.Tensor) -> torch.Tensor:
    """Twice the size: RGB in [0, 1], (n, 3, h, w) -> (n, 3, 2h, 2w), not clipped."""
    h = F.pad(x, (7,) * 4, mode="replicate")
    for i in range(1, 7):
        h = F.leaky_relu(F.conv2d(h, weights[f"conv{i}.weight"], weights[f"conv{i}.bias"]), 0.1)
    return F.conv_transpose2d(h, weights["conv7.weight"], weights["conv7.bias"], 2, 3)


def upresnet10(weights: State, x: torch.Tensor) -> torch.Tensor:
    """Twice the size: RGB in [0, 1], (n, 3, h, w) -> (n, 3, 2h, 2w), not clipped."""

    def conv(name: str, h: torch.Tensor) -> torch.Tensor:
        return F.conv2d(h, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def linear(name: str, h: torch.Tensor) -> torch.Tensor:
        return F.linear(h, weights[f"{name}.weight"], weights[f"{name}.bias"])

    h = b = F.leaky_relu(conv("conv_pre", F.pad(x, (13,) * 4, mode="replicate")), 0.1)
    for r in range(1, 6):
        g = F.leaky_relu(conv(f"res{r}.conv1", h), 0.1)
        g = F.leaky_relu(conv(f"res{r}.conv2", g), 0.1)
        squeezed = F.relu(linear(f"res{r}.fc1", g.mean((2, 3))))
        s = torch.sigmoid(linear(f"res{r}.fc2", squeezed))
        h = g * s[:, :, None, None] + h[:, :, 2:-2, 2:-2]
    h = F.leaky_relu(conv("conv_bridge", h), 0.1) + b[:, :, 11:-11, 11:-11]
    return F.conv_transpose2d(h, weights["conv_post.weight"], None, 2, 3)


def _norm(weights: State, name: str, x: torch.Tensor) -> torch.Tensor:
    """Batch normalization with the stored statistics; a variance below 0, which a sum of deltas
    can make, counts as 0."""
    return F.batch_norm(
        x,
        weights[f"{name}.running_mean"],
        weights[f"{name}.running_var"].clamp(min=0),
        weights[f"{name}.weight"],
        weights[f"{name}.bias"],
    )


def _conv1d(weights: State, name: str, x: torch.Tensor, dilation: int = 1) -> torch.Tensor:
    weight = weights[f"{name}.weight"]
    padding = dilation * (weight.shape[2] - 1) // 2
    return F.conv1d(x, weight, weights[f"{name}.bias"], padding=padding, dilation=dilation)


PANGOLIN_CONTEXT = 5000
"""Bases on each side that Pangolin reads and does not score."""


def pangolin_trunk(weights: State, config: Mapping[str, Any], x: torch.Tensor) -> torch.Tensor:
    """One-hot DNA (1, 4, n) -> features (1, 32, n - 2 * PANGOLIN_CONTEXT)."""
    c = _conv1d(weights, "conv1", x)
    s = _conv1d(weights, "skip", c)
    for i, dilation in enumerate(config["dilations"]):
        block = f"resblocks.{i}"
        h = _conv1d(weights, f"{block}.conv1", F.relu(_norm(weights, f"{block}.bn1", c)), dilation)
        c = c + _conv1d(
            weights, f"{block}.conv2", F.relu(_norm(weights, f"{block}.bn2", h)), dilation
        )
        if i % 4 == 3:
            s = s + _conv1d(weights, f"convs.{i // 4}", c)
    return s[:, :, PANGOLIN_CONTEXT:-PANGOLIN_CONTEXT]


def pangolin_head(weights: State, head: int, s: torch.Tensor) -> torch.Tensor:
    """Features -> a score per base in [0, 1]: a probability (odd heads) or a usage (even ones)."""
    y = _conv1d(weights, f"conv_last{head}", s)
    return F.softmax(y, 1)[0, 1] if head % 2 else torch.sigmoid(y)[0, 0]


OPENSPLICEAI_CONTEXT = 40


def openspliceai(weights: State, x: torch.Tensor) -> torch.Tensor:
    """One-hot DNA (1, 4, n) -> probabilities (3, n - 80): neither, acceptor, donor."""
    h = _conv1d(weights, "initial_conv", x)
    s = _conv1d(weights, "initial_skip.conv", h)
    for r in range(4):
        unit = f"residual_units.{r}"
        g = _conv1d(
            weights, f"{unit}.conv1", F.leaky_relu(_norm(weights, f"{unit}.batchnorm1", h), 0.1)
        )
        h = h + _conv1d(
            weights, f"{unit}.conv2", F.leaky_relu(_norm(weights, f"{unit}.batchnorm2", g), 0.1)
        )
    s = s + _conv1d(weights, "residual_units.4.conv", h)
    s = s[:, :, OPENSPLICEAI_CONTEXT:-OPENSPLICEAI_CONTEXT]
    return F.softmax(_conv1d(weights, "final_conv", s), 1)[0]


def ani_atoms(weights: State, element: str, x: torch.Tensor) -> torch.Tensor:
    """Environment vectors (n, 384) of atoms of one element -> their energies in hartree, (n,)."""
    for layer in (0, 2, 4, 6):
        x = F.linear(x, weights[f"{element}.{layer}.weight"], weights[f"{element}.{layer}.bias"])
        if layer < 6:
            x = F.celu(x, 0.1)
    return x[:, 0]
