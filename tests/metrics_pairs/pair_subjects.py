"""Small models and tasks, and the golden numbers, for the tests of metrics of pairs and sets."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from zoo.architecture import Architecture
from zoo.checkpoint import MemoryCheckpoint
from zoo.measuring.measurement import compute
from zoo.metrics import parameters_of_each
from zoo.plugins import load_plugins
from zoo.records import MetricValue
from zoo.sample import Sample
from zoo.subject import Subject
from zoo.task import Batch, Task

METRICS = load_plugins().metrics
Array = np.ndarray[Any, Any]


def golden(name: str) -> dict[str, Any]:
    path = Path(__file__).parent / "golden" / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


class Points(Task):
    """Points of the plane or of space with a label each; other ones to train on than to test."""

    name = "points"
    splits = ("train", "test")

    def __init__(
        self, count: int = 40, axes: int = 4, labels: Sequence[str] = ("a", "b", "c")
    ) -> None:
        self.labels = labels
        self.data = {}
        for seed, split in enumerate(self.splits):
            generator = torch.Generator().manual_seed(seed)
            x = torch.randn(count, axes, generator=generator, dtype=torch.float64)
            self.data[split] = x, x[:, :3].argmax(1)

    def size(self, split: str) -> int:
        return len(self.data[split][0])

    def batches(self, split: str, size: int = 256) -> Iterable[Batch]:
        x, y = self.data[split]
        return zip(x.split(size), y.split(size), strict=True)

    def examples(self, split: str, indices: torch.Tensor) -> Batch:
        x, y = self.data[split]
        return x[indices], y[indices]


class Surface(Task):
    """A loss that is a function of the weights of `Weights`, whatever the input."""

    name = "surface"

    def __init__(self, loss: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._loss = loss

    def size(self, split: str) -> int:
        return 4

    def batches(self, split: str, size: int = 256) -> Iterable[Batch]:
        x = torch.zeros(4, 1, dtype=torch.float64)
        return zip(x.split(size), x.split(size), strict=True)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self._loss(outputs[0])


class Weights(nn.Module):
    """Gives its weights for each example."""

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weights.expand(len(x), -1)


def mlp(seed: int, width: int = 6, norm: bool = False, classes: int = 3) -> nn.Module:
    """Two layers in float64, with BatchNorm between them if asked for, its statistics drawn too."""
    generator = torch.Generator().manual_seed(seed)
    middle = nn.BatchNorm1d(width) if norm else nn.Identity()
    layers = [nn.Linear(4, width), middle, nn.ReLU(), nn.Linear(width, classes)]
    module = nn.Sequential(*layers).double()
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
    if norm:
        module[1].running_var.abs_().add_(0.1)
    return module.eval()


@cache
def _trained(seed: int, norm: bool) -> nn.Module:
    module = mlp(seed, norm=norm).train()
    x, y = Points().data["train"]
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    for _ in range(120):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
    return module.eval()


def trained(seed: int, norm: bool = False) -> nn.Module:
    """An `mlp` that has learned `Points`; two of them have a barrier between them."""
    return copy.deepcopy(_trained(seed, norm))


def subject(
    module: nn.Module,
    name: str = "model",
    base: Subject | None = None,
    architecture: Architecture | None = None,
) -> Subject:
    state = {n: t.clone() for n, t in module.state_dict().items()}
    return Subject(
        name,
        f"sha256:{name}",
        MemoryCheckpoint(state),
        architecture=architecture,
        base=base,
        make=lambda: _in_its_own_type(module),
    )


def _in_its_own_type(module: nn.Module) -> nn.Module:
    """A copy that stays float64, as the oracles are, though metrics ask for float32."""
    made = copy.deepcopy(module)
    made.float = lambda: made  # type: ignore[method-assign]
    return made


def stored(state: Mapping[str, Any], name: str = "model", base: Subject | None = None) -> Subject:
    """A model of which only the weights are there."""
    tensors = {n: torch.as_tensor(np.asarray(t)) for n, t in state.items()}
    return Subject(name, f"sha256:{name}", MemoryCheckpoint(tensors), base=base)


def measured(
    name: str, models: Sequence[Subject], sample: Sample | None = None, **parameters: Any
) -> dict[str, MetricValue]:
    """What a bundled metric gives, by name, or `name/part`."""
    metric = METRICS[name]
    options = parameters_of_each([metric], parameters)[name]
    found = compute(metric, models, sample, options)
    return {f"{v.name}/{v.split}" if v.split else v.name: v for v in found}


def numbers(
    name: str, models: Sequence[Subject], sample: Sample | None = None, **parameters: Any
) -> dict[str, float]:
    return {k: v.value for k, v in measured(name, models, sample, **parameters).items()}


# An oracle in numpy


def weights_of(module: nn.Module) -> dict[str, Array]:
    return {n: t.detach().numpy().copy() for n, t in module.state_dict().items()}


def forward(w: Mapping[str, Array], x: Array, stats: tuple[Array, Array] | None = None) -> Array:
    """Logits of `mlp`, with these statistics of BatchNorm."""
    h = x @ w["0.weight"].T + w["0.bias"]
    if stats is not None:
        h = (h - stats[0]) / np.sqrt(stats[1] + 1e-5) * w["1.weight"] + w["1.bias"]
    return np.maximum(h, 0) @ w["3.weight"].T + w["3.bias"]


def cross_entropy(logits: Array, y: Array) -> Array:
    """Loss of each example."""
    shifted = logits - logits.max(1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return -logs[np.arange(len(y)), y]


def between(a: Mapping[str, Array], b: Mapping[str, Array], t: float) -> dict[str, Array]:
    return {n: (1 - t) * a[n] + t * b[n] for n in a}
