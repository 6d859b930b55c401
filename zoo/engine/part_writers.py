"""Writes what each task keeps of one tensor, as a method gives it chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from zoo.contract import Parts
from zoo.engine.sinks import Sink, Writer
from zoo.errors import GateFailed, PluginError
from zoo.overlays.overlay import Part

if TYPE_CHECKING:
    import numpy as np
    import torch

    from zoo.engine.plan import Task


class PartWriters:
    """The parts of one tensor that a method computes; the engine copies those kept in full."""

    def __init__(self, task: Task, method: str, sink: Sink) -> None:
        self._tensor = task.info.name
        self._method = method
        self._bits: dict[int, _Bits] = {}
        self._scales: dict[int, Writer] = {}
        self._factors: list[tuple[Part, Writer]] = []
        self._made: list[tuple[Part, Writer]] = []
        for part in task.parts:
            if part.kind == "full":
                continue
            writer = Writer(part.info, sink)
            self._made.append((part, writer))
            if part.kind == "mask":
                self._bits[part.expert] = _Bits(writer)
            elif part.kind == "scale":
                self._scales[part.expert] = writer
            else:
                self._factors.append((part, writer))

    def write(self, parts: Parts | None) -> None:
        """What the method gave for the next chunk.

        Raises:
            PluginError: it is not what the method declared.
            GateFailed: a number is not finite, or too large for the type it is stored in.
        """
        if not self._made and parts is None:
            return
        if parts is None:
            raise self._broken("no `Parts`")
        if self._bits:
            if parts.masks is None or parts.masks.shape[1:] != parts.trunk.shape:
                raise self._broken("no mask of the trunk's shape for each expert")
            masks = parts.masks.reshape(len(parts.masks), -1).cpu().numpy()
            for expert, bits in self._bits.items():
                bits.write(masks[expert])
        if self._scales:
            if parts.scales is None:
                raise self._broken("no scales")
            self._write_scales(parts.scales)
        if self._factors:
            if parts.factors is None:
                raise self._broken("no factors")
            for part, writer in self._factors:
                values = parts.factors[part.expert][part.kind == "right"]
                if tuple(values.shape) != part.info.shape:
                    raise self._broken(f"factors of shape {tuple(values.shape)}")
                self._refuse_what_does_not_fit(values, part)
                writer.write(values.contiguous())

    def close(self) -> dict[str, str]:
        """Name -> digest of each part."""
        for bits in self._bits.values():
            bits.close()
        self._write_scales([1.0] * (1 + max(self._scales, default=0)))  # of a tensor without chunks
        return {part.info.name: writer.close() for part, writer in self._made}

    def _write_scales(self, scales: Iterable[float]) -> None:
        """Once: they are the same for all chunks."""
        import torch

        for expert, scale in enumerate(scales):
            if (writer := self._scales.pop(expert, None)) is None:
                continue
            if not math.isfinite(scale):
                raise GateFailed(
                    f"The scale of tensor `{self._tensor}` for task {expert} is {scale}.",
                    tensor=self._tensor,
                )
            writer.write(torch.tensor(scale, dtype=torch.float64))

    def _refuse_what_does_not_fit(self, values: torch.Tensor, part: Part) -> None:
        import torch

        from zoo.dtypes import torch_dtype

        if not bool(torch.isfinite(values.to(torch_dtype(part.info.dtype))).all()):
            raise GateFailed(
                f"The factors of tensor `{self._tensor}` do not fit in {part.info.dtype}.",
                how="Choose a wider type, for example `dtype: float32`.",
                tensor=self._tensor,
            )

    def _broken(self, what: str) -> PluginError:
        return PluginError(
            f"Method `{self._method}` declares overlays and gave {what} for tensor "
            f"`{self._tensor}`.",
            "See `Parts` in zoo.contract.",
            method=self._method,
            tensor=self._tensor,
        )


class _Bits:
    """Packs booleans, 8 to a byte, however many come at a time."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._left: np.ndarray | None = None

    def write(self, mask: np.ndarray) -> None:
        import numpy as np

        if self._left is not None:
            mask = np.concatenate([self._left, mask])
        whole = len(mask) // 8 * 8
        self._left = mask[whole:].copy() if whole < len(mask) else None
        self._writer.write_raw(memoryview(np.packbits(mask[:whole]).data))

    def close(self) -> None:
        import numpy as np

        if self._left is not None:
            self._writer.write_raw(memoryview(np.packbits(self._left).data))
