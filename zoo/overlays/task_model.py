"""The model of one task, put together from trunk, overlay and base as it is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from zoo.checkpoint import Checkpoint, TensorInfo
from zoo.dtypes import DTYPES, torch_dtype
from zoo.errors import GateFailed, InvalidCheckpoint

if TYPE_CHECKING:
    import torch

_PIECE = 1 << 18
"""Elements put together at a time."""
_PRODUCT = 1 << 20
"""Elements of a product of factors made at a time, in whole rows. A tensor is always cut at the
same rows, so its bytes do not depend on how it is read."""


class TaskModel(Checkpoint):
    """A lazy checkpoint of one task: whatever reads checkpoints reads it, in bounded memory.

    Args:
        trunk: the merged model.
        overlay: the task's file; see `zoo.overlays.overlay`.
        base: the model the masks fall back to; needed where `needs_base` says so.
    Raises:
        InvalidCheckpoint: the overlay does not belong to the trunk.
    """

    def __init__(self, trunk: Checkpoint, overlay: Checkpoint, base: Checkpoint | None) -> None:
        self._trunk, self._overlay, self._base = trunk, overlay, base
        self.opened = replace(trunk.opened, weight_files={})
        self._kinds: dict[str, set[str]] = {}
        tensors = dict(trunk.tensors)
        for local in overlay.tensors:
            kind, _, name = local.partition(":")
            self._kinds.setdefault(name, set()).add(kind)
            if kind == "full":
                tensors[name] = replace(overlay.tensors[local], name=name, file="", offset=0)
        self.tensors = dict(sorted(tensors.items()))
        for name in self._kinds:
            self._check(name)

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        kinds = self._kinds.get(name, set())
        if not kinds:
            self._trunk.read_into(name, start, buffer)
            return
        if "full" in kinds:
            self._overlay.read_into(f"full:{name}", start, buffer)
            return
        import torch

        info = self.tensors[name]
        width = DTYPES[info.dtype].bits // 8
        first, last = start // width, -(-(start + len(buffer)) // width)
        pieces = self._masked if "mask" in kinds else self._completed
        at = first * width - start
        for values in pieces(info, first, last):
            raw = memoryview(values.contiguous().view(torch.uint8).numpy().data)
            cut = raw[max(0, -at) : len(buffer) - at]
            buffer[max(0, at) : max(0, at) + len(cut)] = cut
            at += len(raw)

    def close(self) -> None:
        for checkpoint in (self._trunk, self._overlay, self._base):
            if checkpoint is not None:
                checkpoint.close()

    def _masked(self, info: TensorInfo, first: int, last: int) -> Iterator[torch.Tensor]:
        """Base where the mask is 0; trunk, or base + scale (trunk - base), where it is 1."""
        import torch

        assert self._base is not None
        scale = 1.0
        if f"scale:{info.name}" in self._overlay.tensors:
            scale = float(_values(self._overlay, f"scale:{info.name}", 0, 1))
        dtype = torch_dtype(info.dtype)
        # Selected from as integers: torch cannot select from eight-bit floats.
        integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        bits = integers[dtype.itemsize]
        wide = _wide(info.dtype, self._base.tensors[info.name].dtype)
        for at in range(first, last, _PIECE):
            end = min(at + _PIECE, last)
            mask = self._mask(info.name, at, end)
            taken = _values(self._trunk, info.name, at, end)
            base = _values(self._base, info.name, at, end)
            if scale != 1:
                origin = base.to(wide)
                taken = taken.to(wide).sub_(origin).mul_(scale).add_(origin)
                taken = _stored(taken.where(mask, origin), info)
            yield torch.where(mask, taken.view(bits), base.to(dtype).view(bits))

    def _mask(self, name: str, first: int, last: int) -> torch.Tensor:
        import numpy as np
        import torch

        packed = _values(self._overlay, f"mask:{name}", first // 8, -(-last // 8))
        bits = np.unpackbits(packed.numpy())[first % 8 :][: last - first]
        return torch.from_numpy(bits).bool()

    def _completed(self, info: TensorInfo, first: int, last: int) -> Iterator[torch.Tensor]:
        """Trunk plus the product of the factors, a block of rows at a time."""
        row = max(1, info.elements // max(1, info.shape[0]))
        rank = self._overlay.tensors[f"right:{info.name}"].shape[0]
        wide = _wide(info.dtype)
        right = _values(self._overlay, f"right:{info.name}", 0, rank * row).view(rank, row).to(wide)
        rows = max(1, _PRODUCT // row)
        for top in range(first // row // rows * rows, -(-last // row), rows):
            bottom = min(top + rows, info.shape[0])
            left = _values(self._overlay, f"left:{info.name}", top * rank, bottom * rank)
            product = (left.view(-1, rank).to(wide) @ right).reshape(-1)
            trunk = _values(self._trunk, info.name, top * row, bottom * row)
            made = product.add_(trunk.to(wide))[max(0, first - top * row) : last - top * row]
            yield _stored(made, info)

    def _check(self, name: str) -> None:
        """A damaged or foreign overlay must not be read past its ends."""
        kinds, trunk = self._kinds[name], self._trunk.tensors.get(name)
        if kinds == {"full"}:
            return
        parts = {k: self._overlay.tensors[f"{k}:{name}"] for k in kinds}
        fits = False
        if trunk is not None and DTYPES[trunk.dtype].merges:
            if "mask" in kinds:
                found = {k: (p.dtype, p.shape) for k, p in parts.items()}
                base = self._base.tensors.get(name) if self._base is not None else None
                mask = {"mask": ("U8", ((trunk.elements + 7) // 8,))}
                fits = found in (mask, {**mask, "scale": ("F64", ())})
                fits &= base is not None and base.shape == trunk.shape
            elif kinds == {"left", "right"} and trunk.shape:
                rows, row = trunk.shape[0], prod(trunk.shape[1:])
                rank = (*parts["right"].shape, 0)[0]
                fits = (rows, rank) == parts["left"].shape and (rank, row) == parts["right"].shape
                fits &= all(DTYPES[p.dtype].merges for p in parts.values())
        if not fits:
            raise InvalidCheckpoint(
                f"`{self._overlay.opened.origin}` is no overlay of `{self._trunk.opened.origin}`:",
                f"what it has of tensor `{name}` ({', '.join(sorted(kinds))}) does not fit.",
                tensor=name,
            )


def needs_base(overlay: Checkpoint) -> bool:
    """Whether the task's model takes values from the base."""
    return any(name.startswith("mask:") for name in overlay.tensors)


def _values(checkpoint: Checkpoint, name: str, first: int, last: int) -> torch.Tensor:
    """Some elements of a tensor, in its own type."""
    import torch

    dtype = checkpoint.tensors[name].dtype
    if first >= last:
        return torch.empty(0, dtype=torch_dtype(dtype))
    width = DTYPES[dtype].bits // 8
    data = bytearray((last - first) * width)
    checkpoint.read_into(name, first * width, memoryview(data))
    return torch.frombuffer(data, dtype=torch_dtype(dtype))


def _wide(*dtypes: str) -> torch.dtype:
    """The type to compute in."""
    import torch

    return torch.float64 if "F64" in dtypes else torch.float32


def _stored(values: torch.Tensor, info: TensorInfo) -> torch.Tensor:
    """The values in the type of the tensor.

    Raises:
        GateFailed: one of them is beyond it.
    """
    made = values.to(torch_dtype(info.dtype))
    if not bool(made.to(values.dtype).isfinite().all()):
        raise GateFailed(
            f"The task's tensor `{info.name}` does not fit in {info.dtype}.",
            "Its scale or factors lead beyond the largest number of that type.",
            "Merge again with a wider type, for example `dtype: float32`.",
            tensor=info.name,
        )
    return made
