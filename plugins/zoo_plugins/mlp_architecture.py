"""The architecture `zoo_mlp`: a multilayer perceptron."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from zoo.architecture import Architecture
from zoo.hookspecs import hookimpl
from zoo.networks.network_config import checked

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Config:
    inputs: Annotated[int, Ge(1), "numbers of an example: channels x height x width"]
    width: Annotated[int, Ge(1), "units of each hidden layer"]
    depth: Annotated[int, Ge(0), "hidden layers"]
    classes: Annotated[int, Ge(1), "outputs"]
    activation: Annotated[Literal["relu", "gelu", "tanh"], "`relu`, `gelu` or `tanh`"]


class Mlp(Architecture):
    """Linear layers of one width with an activation after each; the input is flattened.

        (n, c, h, w) -> (n, classes), float

    `config.json`: `{"model_type": "zoo_mlp", "inputs": 784, "width": 128, "depth": 2,
    "classes": 10, "activation": "relu"}`. Weights begin as torch draws them.
    """

    name = "zoo_mlp"

    def build(self, config: Mapping[str, Any]) -> torch.nn.Module:
        from torch import nn

        c = checked(Config, config, self.name)
        activation = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}[c.activation]
        parts: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        features = c.inputs
        for i in range(1, c.depth + 1):
            parts[f"fc{i}"] = nn.Linear(features, c.width)
            parts[f"{c.activation}{i}"] = activation()
            features = c.width
        parts["head"] = nn.Linear(features, c.classes)
        return nn.Sequential(parts)

    def layers(self, config: Mapping[str, Any]) -> Sequence[Sequence[str]]:
        c = checked(Config, config, self.name)
        return [*([f"fc{i}.*"] for i in range(1, c.depth + 1)), ["head.*"]]

    def head(self, config: Mapping[str, Any]) -> str | None:
        return "head"

    def axes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[str | None]]:
        """One group for each hidden layer: `fc1`, `fc2`, ..."""
        c = checked(Config, config, self.name)
        found: dict[str, Sequence[str | None]] = {}
        before: str | None = None
        for i in range(1, c.depth + 1):
            found |= {f"fc{i}.weight": (f"fc{i}", before), f"fc{i}.bias": (f"fc{i}",)}
            before = f"fc{i}"
        return found | {"head.weight": (None, before), "head.bias": (None,)}


@hookimpl
def zoo_register_architectures(register: Callable[[Architecture], None]) -> None:
    register(Mlp())
