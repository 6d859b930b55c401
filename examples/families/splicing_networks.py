"""The architectures `openspliceai` and `pangolin`: RNA splice sites, found in DNA."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from zoo import Architecture, hookimpl

if TYPE_CHECKING:
    import torch

HEADS = range(1, 9)
"""Pangolin's: odd ones tell whether a base is a splice site, even ones how much it is used, in
heart, liver, brain and testis."""


def shapes(config: Mapping[str, Any]) -> list[tuple[int, int]]:
    """(kernel, dilation) of each unit."""
    return list(zip(config["kernel_sizes"], config["dilations"], strict=True))


def context(config: Mapping[str, Any]) -> int:
    """Bases on each side that are read and not scored."""
    return sum(dilation * (kernel - 1) for kernel, dilation in shapes(config))


@cache
def _classes() -> SimpleNamespace:
    """The networks. A function, so that loading the plugin does not import torch."""
    import torch
    from torch import nn

    class Unit(nn.Module):
        """Residual: norm, activation, convolution, twice; (n, c, length) -> the same."""

        def __init__(
            self, channels: int, kernel: int, dilation: int, act: nn.Module, norm: str
        ) -> None:
            super().__init__()
            padding = dilation * (kernel - 1) // 2
            for i in (1, 2):
                self.add_module(f"{norm}{i}", nn.BatchNorm1d(channels))
                self.add_module(
                    f"conv{i}",
                    nn.Conv1d(channels, channels, kernel, padding=padding, dilation=dilation),
                )
            self.act, self.norm = act, norm

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = x
            for i in (1, 2):
                h = self.act(self.get_submodule(f"{self.norm}{i}")(h))
                h = self.get_submodule(f"conv{i}")(h)
            return x + h

    class Skip(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.conv = nn.Conv1d(channels, channels, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x)

    class OpenSpliceAi(nn.Module):
        def __init__(self, config: Mapping[str, Any]) -> None:
            super().__init__()
            c, self.cut = config["channels"], context(config)
            self.initial_conv = nn.Conv1d(4, c, 1)
            self.initial_skip = Skip(c)
            units = [Unit(c, k, d, nn.LeakyReLU(0.1), "batchnorm") for k, d in shapes(config)]
            self.residual_units = nn.ModuleList([*units, Skip(c)])
            self.final_conv = nn.Conv1d(c, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.initial_conv(x)
            s = self.initial_skip(h)
            *units, skip = self.residual_units
            for unit in units:
                h = unit(h)
            s = (s + skip(h))[:, :, self.cut : s.shape[2] - self.cut]
            return self.final_conv(s).softmax(1)

    class Pangolin(nn.Module):
        def __init__(self, config: Mapping[str, Any]) -> None:
            super().__init__()
            c, self.cut = config["channels"], context(config)
            self.conv1 = nn.Conv1d(4, c, 1)
            self.skip = nn.Conv1d(c, c, 1)
            blocks = (Unit(c, k, d, nn.ReLU(), "bn") for k, d in shapes(config))
            self.resblocks = nn.ModuleList(blocks)
            self.convs = nn.ModuleList(nn.Conv1d(c, c, 1) for _ in range(len(self.resblocks) // 4))
            for head in HEADS:
                self.add_module(f"conv_last{head}", nn.Conv1d(c, 2 if head % 2 else 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            c = self.conv1(x)
            s = self.skip(c)
            for i, block in enumerate(self.resblocks):
                c = block(c)
                if i % 4 == 3:
                    s = s + self.convs[i // 4](c)
            s = s[:, :, self.cut : s.shape[2] - self.cut]
            scores = [self.get_submodule(f"conv_last{head}")(s) for head in HEADS]
            return torch.cat([y.softmax(1) if y.shape[1] == 2 else y.sigmoid() for y in scores], 1)

    return SimpleNamespace(openspliceai=OpenSpliceAi, pangolin=Pangolin)


def _convolution(name: str, after: str | None, before: str | None) -> dict[str, Any]:
    return {f"{name}.weight": (after, before, None), f"{name}.bias": (after,)}


def _unit(name: str, norm: str) -> dict[str, Any]:
    """Permutation groups of a unit on the stream."""
    inner = f"{name}.inner"
    found = {
        **_convolution(f"{name}.conv1", inner, "stream"),
        **_convolution(f"{name}.conv2", "stream", inner),
    }
    for i, group in ((1, "stream"), (2, inner)):
        for part in ("weight", "bias", "running_mean", "running_var"):
            found[f"{name}.{norm}{i}.{part}"] = (group,)
        found[f"{name}.{norm}{i}.num_batches_tracked"] = ()
    return found


class OpenSpliceAi(Architecture):
    """Residual units on a stream of channels, gathered in a sum; here four, of kernel 11.

        one-hot DNA (A, C, G, T), (n, 4, length) -> probabilities (n, 3, length - 80): neither,
        acceptor (first base of an exon), donor (last base of an exon)

    Source: Kuanhao-Chao/OpenSpliceAI; after Jaganathan et al. 2019, SpliceAI.
    """

    name = "openspliceai"

    def build(self, config: Mapping[str, Any]) -> torch.nn.Module:
        return _classes().openspliceai(config)

    def layers(self, config: Mapping[str, Any]) -> Sequence[Sequence[str]]:
        count = len(config["kernel_sizes"])
        units = ([f"residual_units.{i}.*"] for i in range(count))
        return [["initial_*"], *units, [f"residual_units.{count}.*", "final_conv.*"]]

    def axes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[str | None]]:
        """`stream` along the units, `sum` along the skips, and one inside each unit."""
        count = len(config["kernel_sizes"])
        found = _convolution("initial_conv", "stream", None)
        found |= _convolution("initial_skip.conv", "sum", "stream")
        for i in range(count):
            found |= _unit(f"residual_units.{i}", "batchnorm")
        found |= _convolution(f"residual_units.{count}.conv", "sum", "stream")
        return found | _convolution("final_conv", None, "sum")


class Pangolin(Architecture):
    """Sixteen residual units, gathered in a sum after every fourth, and eight heads.

        one-hot DNA (A, C, G, T), (n, 4, length) -> scores (n, 12, length - 10000)

    The scores of heart, liver, brain and testis in order, three each: the probabilities that the
    base is no splice site and that it is one, and its usage in [0, 1].

    Source: tkzeng/Pangolin; Zeng and Li 2022, doi 10.1186/s13059-022-02664-4.
    """

    name = "pangolin"

    def build(self, config: Mapping[str, Any]) -> torch.nn.Module:
        return _classes().pangolin(config)

    def layers(self, config: Mapping[str, Any]) -> Sequence[Sequence[str]]:
        """The units in order, each fourth with the convolution to the sum."""
        units = [[f"resblocks.{i}.*"] for i in range(len(config["kernel_sizes"]))]
        for i in range(3, len(units), 4):
            units[i].append(f"convs.{i // 4}.*")
        return [["conv1.*", "skip.*"], *units, ["conv_last*"]]

    def axes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[str | None]]:
        """`stream` along the units, `sum` along the skips, and one inside each unit."""
        count = len(config["kernel_sizes"])
        found = _convolution("conv1", "stream", None) | _convolution("skip", "sum", "stream")
        for i in range(count):
            found |= _unit(f"resblocks.{i}", "bn")
        for i in range(count // 4):
            found |= _convolution(f"convs.{i}", "sum", "stream")
        for head in HEADS:
            found |= _convolution(f"conv_last{head}", None, "sum")
        return found


@hookimpl
def zoo_register_architectures(register: Callable[[Architecture], None]) -> None:
    register(OpenSpliceAi())
    register(Pangolin())
