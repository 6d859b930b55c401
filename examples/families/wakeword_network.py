"""The architecture `openwakeword-dnn`: hears one wake word, from openWakeWord."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from zoo import Architecture, hookimpl
from zoo.errors import InvalidCheckpoint

if TYPE_CHECKING:
    import torch

INPUTS, WIDTH, EPSILON = 1536, 32, 1e-5
EPSILON_NAME = "onnx_tf_prefix_/2/Constant_1"

NAMES = {
    "a": (
        ("layer1.weight", "layer1.bias", "layernorm1.weight", "layernorm1.bias"),
        ("blocks.0.fcn_layer.weight", "blocks.0.fcn_layer.bias"),
        ("blocks.0.layer_norm.weight", "blocks.0.layer_norm.bias"),
        ("last_layer.weight", "last_layer.bias"),
    ),
    "b": (
        ("const_fold_opt__20", "Const_1", "Const_2", "Const_3"),
        ("const_fold_opt__22", "Const_5", "Const_6", "Const_7"),
        ("const_fold_opt__23", "Const_9", EPSILON_NAME),
    ),
}
"""Layout -> tensors from the input to the output. The graphs were not published with the tensors;
which vector of `b` is which, their numbers say, and their values bear it out: over all networks,
those of one role lie alike in both layouts."""


@cache
def _module_classes() -> dict[str, type[torch.nn.Module]]:
    """The networks. A function, so that loading the plugin does not import torch."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fcn_layer = nn.Linear(WIDTH, WIDTH)
            self.layer_norm = nn.LayerNorm(WIDTH)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.relu(self.layer_norm(self.fcn_layer(x)))

    class LayoutA(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer1 = nn.Linear(INPUTS, WIDTH)
            self.layernorm1 = nn.LayerNorm(WIDTH)
            self.blocks = nn.ModuleList([Block()])
            self.last_layer = nn.Linear(WIDTH, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = F.relu(self.layernorm1(self.layer1(x.flatten(1))))
            return torch.sigmoid(self.last_layer(self.blocks[0](h)))

    class LayoutB(nn.Module):
        """Another tool's export: matrices are (in, out), and the epsilon is a tensor."""

        def __init__(self) -> None:
            super().__init__()
            w1, b1, g1, c1, w2, b2, g2, c2, w3, b3, epsilon = (n for p in NAMES["b"] for n in p)
            for weight, bias, before, after in (
                (w1, b1, INPUTS, WIDTH),
                (w2, b2, WIDTH, WIDTH),
                (w3, b3, WIDTH, 1),
            ):
                layer = nn.Linear(before, after)
                self.register_parameter(weight, nn.Parameter(layer.weight.detach().T.contiguous()))
                self.register_parameter(bias, layer.bias)
            for gain, shift in ((g1, c1), (g2, c2)):
                self.register_parameter(gain, nn.Parameter(torch.ones(WIDTH)))
                self.register_parameter(shift, nn.Parameter(torch.zeros(WIDTH)))
            self.register_buffer(epsilon, torch.tensor(EPSILON))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            state = {**self._parameters, **self._buffers}
            w1, b1, g1, c1, w2, b2, g2, c2, w3, b3, epsilon = (
                state[n] for p in NAMES["b"] for n in p
            )

            def norm(h: torch.Tensor, gain: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
                variance, mean = torch.var_mean(h, 1, unbiased=False, keepdim=True)
                return (h - mean) * (variance + epsilon).rsqrt() * gain + shift

            h = F.relu(norm(x.flatten(1) @ w1 + b1, g1, c1))
            h = F.relu(norm(h @ w2 + b2, g2, c2))
            return torch.sigmoid(h @ w3 + b3)

    return {"a": LayoutA, "b": LayoutB}


class WakeWord(Architecture):
    """Two hidden layers of 32 units with layer norms.

        sixteen embeddings of 96 numbers, (n, 16, 96) or flat -> how likely the word is, (n, 1)

    There are two layouts of the same network, `a` and `b`, which `layout` in `config.json` names.

    Source: dscripka/openWakeWord, openwakeword/train.py.
    """

    name = "openwakeword-dnn"

    def build(self, config: Mapping[str, Any]) -> torch.nn.Module:
        return _module_classes()[self._layout(config)]()

    def layers(self, config: Mapping[str, Any]) -> Sequence[Sequence[str]]:
        names = [n for part in NAMES[self._layout(config)] for n in part]
        return [names[:4], names[4:8], names[8:]]

    def axes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[str | None]]:
        """A group for each hidden layer."""
        layout = self._layout(config)
        w1, b1, g1, c1, w2, b2, g2, c2, w3, b3, *epsilon = (n for p in NAMES[layout] for n in p)
        matrices: dict[str, Sequence[str | None]] = {
            w1: ("hidden1", None),
            w2: ("hidden2", "hidden1"),
            w3: (None, "hidden2"),
        }
        if layout == "b":
            matrices = {n: axes[::-1] for n, axes in matrices.items()}
        first = dict.fromkeys((b1, g1, c1), ("hidden1",))
        second = dict.fromkeys((b2, g2, c2), ("hidden2",))
        return {**matrices, **first, **second, b3: (None,), **dict.fromkeys(epsilon, ())}

    def _layout(self, config: Mapping[str, Any]) -> str:
        layout = config.get("layout")
        if layout not in NAMES:
            raise InvalidCheckpoint(
                f"`{self.name}` has no layout {layout!r}.",
                how='Write `"layout": "a"` or `"layout": "b"` in `config.json`.',
                model_type=self.name,
            )
        return str(layout)


@hookimpl
def zoo_register_architectures(register: Callable[[Architecture], None]) -> None:
    register(WakeWord())
