"""Small models and tasks, and the golden numbers, for the tests of metrics of one model."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from zoo.architecture import Architecture
from zoo.checkpoint import MemoryCheckpoint
from zoo.metrics import Metric
from zoo.plugins import load_plugins
from zoo.sample import Sample
from zoo.subject import Subject
from zoo.task import Batch, Task

GOLDEN = Path(__file__).parent / "golden"
METRICS = load_plugins().metrics


def golden(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    return found


class Given(Task):
    """Examples that a test wrote down."""

    name = "given"
    splits = ("train", "test")

    def __init__(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        labels: Sequence[str] = ("a", "b", "c"),
        scale: float = 1.0,
    ) -> None:
        self.x, self.y, self.labels, self.scale = x, y, labels, scale

    def size(self, split: str) -> int:
        return len(self.x)

    def batches(self, split: str, size: int = 256) -> Iterable[Batch]:
        return zip(self.x.split(size), self.y.split(size), strict=True)

    def examples(self, split: str, indices: torch.Tensor) -> Batch:
        return self.x[indices], self.y[indices]

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.scale * super().loss(outputs, targets)


class Quadratic(Task):
    """Loss w H w / 2 of a module whose output is w: what the golden numbers of sharpness use."""

    name = "quadratic"

    def __init__(self, hessian: Any) -> None:
        self.hessian = torch.tensor(hessian, dtype=torch.float64)

    def batches(self, split: str, size: int = 256) -> Iterable[Batch]:
        yield torch.zeros(1, dtype=torch.float64), torch.zeros(1)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs @ self.hessian.to(outputs.dtype) @ outputs / 2


class Weights(nn.Module):
    """Its output is its parameters, whatever the input."""

    def __init__(self, **parts: Sequence[float]) -> None:
        super().__init__()
        for name, part in parts.items():
            weight = nn.Parameter(torch.tensor(part, dtype=torch.float64))
            self.add_module(name, nn.ParameterDict({"weight": weight}))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([p.reshape(-1) for p in self.parameters()])


class OfHead(Architecture):
    """Says what a test wants to be known of a module."""

    name = "small"

    def __init__(self, head: str | None = None, layers: Sequence[Sequence[str]] = ()) -> None:
        self._head, self._layers = head, layers

    def build(self, config: Mapping[str, Any]) -> nn.Module:
        raise NotImplementedError

    def head(self, config: Mapping[str, Any]) -> str | None:
        return self._head

    def layers(self, config: Mapping[str, Any]) -> Sequence[Sequence[str]]:
        return self._layers


def subject(
    module: nn.Module, *, architecture: Architecture | None = None, base: Subject | None = None
) -> Subject:
    module = module.eval()
    return Subject(
        "small",
        "sha256:" + "0" * 64,
        MemoryCheckpoint(module.state_dict()),
        architecture=architecture,
        base=base,
        make=lambda: copy.deepcopy(module),
    )


def mlp(seed: int, *sizes: int, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """A small network in float64, with biases."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise(sizes)):
        layer = nn.Linear(a, b, dtype=torch.float64)
        with torch.no_grad():
            for p in layer.parameters():
                p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) / a**0.5)
        layers += [activation(), layer] if i else [layer]
    return nn.Sequential(*layers)


def points(seed: int, n: int, features: int, classes: int = 3) -> Given:
    """Random examples, each class present where there are enough."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, features, generator=generator, dtype=torch.float64)
    y = torch.arange(n) % classes
    return Given(x, y, [str(c) for c in range(classes)])


def sample(task: Task, **how: Any) -> Sample:
    return Sample(task, **{"split": "test", **how})


def run(name: str, model: Subject, examples: Sample | None = None, **parameters: Any) -> Any:
    """Values of a bundled metric, by name or `name/split`, as a registry would compute them."""
    metric: Metric = METRICS[name]
    settings = dict(metric.parameters(**parameters))
    arguments = (model,) if examples is None else (model, examples)
    found = list(metric.function(*arguments, **settings))
    assert {v.name for v in found} <= set(metric.gives)
    return {v.name + (f"/{v.split}" if v.split else ""): v for v in found}


def numbers(found: Mapping[str, Any]) -> dict[str, float]:
    return {name: v.value for name, v in found.items()}


def network_loss(
    theta: np.ndarray, sizes: Sequence[int], x: np.ndarray, y: np.ndarray, relu: bool = False
) -> tuple[float, np.ndarray]:
    """Mean cross-entropy of a dense network and its gradient, by hand in numpy."""
    shapes = [s for a, b in pairwise(sizes) for s in ((b, a), (b,))]
    parts, at = [], 0
    for shape in shapes:
        n = int(np.prod(shape))
        parts.append(theta[at : at + n].reshape(shape))
        at += n
    hidden = [x]
    for i in range(0, len(parts), 2):
        z = hidden[-1] @ parts[i].T + parts[i + 1]
        last = i == len(parts) - 2
        hidden.append(z if last else np.maximum(z, 0) if relu else np.tanh(z))
    z = hidden[-1] - hidden[-1].max(1, keepdims=True)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    n = len(x)
    loss = float(-np.log(p[np.arange(n), y]).mean())
    back = (p - np.eye(p.shape[1])[y]) / n
    gradients: list[np.ndarray] = []
    for i in range(len(parts) - 2, -1, -2):
        gradients = [(back.T @ hidden[i // 2]).ravel(), back.sum(0), *gradients]
        if i:
            h = hidden[i // 2]
            back = (back @ parts[i]) * ((h > 0) if relu else 1 - h**2)
    return loss, np.concatenate(gradients)
