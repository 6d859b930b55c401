"""A transform for tests: every tensor of one model times a number, called by other names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict

import zoo
from zoo.checkpoint import Checkpoint, TensorInfo, tensor_of
from zoo.transform import Parents, Transform, Transformed


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")
    factor: float = 2.0


class Scaled(Checkpoint):
    def __init__(self, inner: Checkpoint, factor: float) -> None:
        self._inner, self._factor = inner, factor
        self.opened = inner.opened
        self.tensors = {
            f"scaled.{n}": TensorInfo(f"scaled.{n}", t.dtype, t.shape)
            for n, t in inner.tensors.items()
        }

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        inner = self._inner.tensors[name.removeprefix("scaled.")]
        values = (tensor_of(self._inner, inner) * self._factor).numpy().tobytes()
        buffer[:] = values[start : start + len(buffer)]


class Scale(Transform):
    name = "scale"
    version = "1.0.0"
    summary = "A model times a number."
    roles = {"model": (1, 1)}
    replay = "exact"

    def parameters(self) -> type[BaseModel]:
        return Options

    def apply(self, parents: Parents, parameters: Any) -> Transformed:
        (one,) = parents["model"]
        made = Scaled(one.model.checkpoint, parameters.factor)
        made.opened = replace(made.opened, origin="scaled")
        return Transformed(made, {"note.txt": b"scaled\n"}, base=one)


@zoo.hookimpl
def zoo_register_transforms(register: Any) -> None:
    register(Scale())
