"""The tensors of a mixture, each read or worked out when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.checkpoint import TensorInfo
from zoo.dtypes import DTYPES
from zoo.engine.inputs import Input
from zoo.moe.dense import EMBEDDINGS, MLP, PARTS, is_derived, mlp
from zoo.moe.draws import keys, normal
from zoo.moe.elements import Lazy, Reader, computed, copied, elements
from zoo.moe.fits import said_of
from zoo.moe.layouts import SILENT_WIDTH, Layout
from zoo.moe.options import ExpertOptions, UpcycleOptions
from zoo.moe.router import Router

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Mixture:
    """A mixture that is to be made of models that fit."""

    layout: Layout
    base: Input
    experts: Sequence[Input]
    shared: Sequence[Input]
    options: UpcycleOptions
    dtype: str | None
    """The safetensors name of the type that all floating tensors get, where one is asked for."""
    width: int
    shared_width: int
    ids: Mapping[str, Sequence[int]]
    """Token ids of every prompt."""

    @property
    def config(self) -> Mapping[str, Any]:
        return self.base.model.checkpoint.opened.config or {}

    @property
    def added_dtype(self) -> str:
        """The type of experts and router."""
        return self.dtype or self.base.model.checkpoint.tensors[EMBEDDINGS].dtype

    @property
    def silent_width(self) -> int:
        """The width of a shared expert of zeros; 0 where none is needed."""
        return min(SILENT_WIDTH, self.width) if self.layout.shared and not self.shared else 0

    def router(self) -> Router:
        """The router's weights."""
        said = (
            *said_of(self.options.experts, len(self.experts)),
            *said_of(self.options.shared_experts, len(self.shared)),
        )
        return Router(
            self.options.gate_mode,
            self.base.model.checkpoint,
            self.config,
            said,
            len(self.experts),
            self.ids,
            self._keys(),
            self.options.seed,
        )

    def checkpoint(self, router: Router) -> Lazy:
        """All tensors, by their names in the mixture."""
        found: dict[str, tuple[TensorInfo, Reader]] = {}
        for name in self.base.model.checkpoint.tensors:
            if not MLP.fullmatch(name) and not is_derived(name):
                found[name] = self._carried(self.base, name, name, self.dtype, ExpertOptions(), "")
        layers = self.config["num_hidden_layers"]
        for layer in range(layers):
            self._add_experts(found, layer)
            d, count = self.config["hidden_size"], len(self.experts)
            gate = self.layout.gate(layer)
            found[gate] = self._rows(gate, (count, d), layer, router.routed)
            if self.layout.shared:
                name = self.layout.shared_gate(layer)
                rows = router.shared if self.shared else _zeros(d)
                found[name] = self._rows(name, (1, d), layer, rows)
        return Lazy(f"{self.layout.title} of {self.base.model.label}", found)

    def _add_experts(self, found: dict[str, tuple[TensorInfo, Reader]], layer: int) -> None:
        routed = said_of(self.options.experts, len(self.experts))
        shared = said_of(self.options.shared_experts, len(self.shared))
        drawn = self._keys()
        for part in PARTS:
            inner = mlp(layer, part)
            for i, one in enumerate(self.experts):
                name = self.layout.expert(layer, i, part)
                found[name] = self._carried(one, inner, name, self.added_dtype, routed[i], drawn[i])
            if not self.layout.shared:
                continue
            name = self.layout.shared_expert(layer, part)
            if self.shared:
                found[name] = self._carried(
                    self.shared[0], inner, name, self.added_dtype, shared[0], drawn[-1]
                )
            else:
                d, width = self.config["hidden_size"], self.silent_width
                shape = (d, width) if part == "down_proj" else (width, d)
                info = TensorInfo(name, self.added_dtype, shape)
                found[name] = (info, computed(info.dtype, _nothing))

    def _carried(
        self, one: Input, inner: str, name: str, dtype: str | None, said: ExpertOptions, key: str
    ) -> tuple[TensorInfo, Reader]:
        """A tensor of a model under another name; as it is, where nothing is to be done to it."""
        checkpoint = one.model.checkpoint
        old = checkpoint.tensors[inner]
        if not DTYPES[old.dtype].merges:
            dtype = None
        info = TensorInfo(name, dtype or old.dtype, old.shape)
        factor = said.residual_scale if inner.endswith(".down_proj.weight") else 1.0
        if info.dtype == old.dtype and factor == 1 and not said.noise_scale:
            return info, copied(checkpoint, inner)

        def make(start: int, count: int) -> torch.Tensor:
            import torch

            values = elements(checkpoint, old, start, count)
            values = values if values.dtype == torch.float64 else values.float()
            if said.noise_scale:
                noise = normal(self.options.seed, inner, key, start, count) * said.noise_scale
                values = values + torch.from_numpy(noise).to(values.dtype)
            return values if factor == 1 else values * factor

        return info, computed(info.dtype, make)

    def _rows(
        self, name: str, shape: tuple[int, int], layer: int, rows: Any
    ) -> tuple[TensorInfo, Reader]:
        info = TensorInfo(name, self.added_dtype, shape)
        return info, computed(
            info.dtype, lambda start, count: rows(layer).reshape(-1)[start : start + count]
        )

    def _keys(self) -> list[str]:
        return keys([one.model.digest for one in (*self.experts, *self.shared)])


def _nothing(start: int, count: int) -> torch.Tensor:
    import torch

    return torch.zeros(count)


def _zeros(d: int) -> Any:
    return lambda layer: _nothing(0, d)
