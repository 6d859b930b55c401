"""Eight-bit floats with scales beside them, seen as the values they stand for.

    value[i, j] = code[i, j] * scale[i // rows, j // columns]

in float32, rounded once to the type of the result. A scale may stand for the whole tensor, for a
row (an output channel), for an expert, or for a block, 128 x 128 as a rule; which of them follows
from the shapes. `_scale_inv` is the inverse of what the codes were multiplied with, so it too is
multiplied with here. Nothing is stored: every read works its values out, each by itself, so that
the bytes do not depend on how much is read at a time.

Source: DeepSeek-AI 2024, arXiv:2412.19437, section 3.3, and the `weight_dequant` of its inference
code; transformers' `integrations/finegrained_fp8.py` and `fbgemm_fp8.py`; the format
`float-quantized` of compressed-tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from zoo.checkpoint import Checkpoint, tensor_of
from zoo.checkpoints.quantization import DESCRIBES, blocks_of, parts_of, quantization_of, scale_of
from zoo.digest import json_digest
from zoo.dtypes import DTYPES, parse_dtype, torch_dtype

if TYPE_CHECKING:
    import torch

    from zoo.engine.plan import Model

DEFAULT_DTYPE = "BF16"
"""Where the configuration says none: what fp8 models are trained and released in."""
STEP = 1 << 20
"""Elements worked out at a time: 13 MB."""
_BESIDE = ("_scale_ub", ".input_scale", ".activation_scale", ".k_scale", ".v_scale", ".scale_input")
"""How the names of other scales end: of activations and caches, which values have no use for."""
_MARKS = ("scaled_fp8",)
"""A tensor that only says that there are scales (ComfyUI)."""


def dequantized(checkpoint: Checkpoint) -> Checkpoint:
    """The values of a checkpoint whose weights are eight-bit floats with scales.

    Returns:
        The same checkpoint where there is nothing to turn into values, or where that cannot be
        done: the pre-flight refuses it then.
    """
    found = quantization_of(checkpoint.opened.config, checkpoint.tensors)
    if found is None or not found.can_dequantize:
        return checkpoint
    return Dequantized(checkpoint, found.tensors)


def dequantized_model(model: Model) -> Model:
    """A model of values. What identifies a tensor is then its codes, its scales and its type."""
    view = dequantized(model.checkpoint)
    if not isinstance(view, Dequantized):
        return model
    digests = {n: d for n, d in model.digests.items() if n in view.tensors}
    for name, scale in view.scales.items():
        if name in digests and scale in model.digests:
            own = [digests[name], model.digests[scale], view.tensors[name].dtype]
            digests[name] = json_digest(own)
    return replace(model, checkpoint=view, digests=digests)


class Dequantized(Checkpoint):
    """A view of another checkpoint. It does not close what it looks at."""

    def __init__(self, inner: Checkpoint, names: tuple[str, ...]) -> None:
        self.inner = inner
        dtype = _dtype_of(inner.opened.config)
        self.scales = {n: s for n in names if (s := scale_of(n, inner.tensors))}
        """By the name of the tensor that they belong to."""
        self._known: dict[str, torch.Tensor] = {}
        gone = {*self.scales.values(), *_MARKS}
        self.tensors = {
            name: replace(info, dtype=dtype) if name in self.scales else info
            for name, info in inner.tensors.items()
            if name not in gone and not name.endswith(_BESIDE)
        }
        notes = {**inner.opened.notes, "dequantized": {"kind": "fp8", "dtype": dtype}}
        config = without_quantization(inner.opened.config)
        self.opened = replace(inner.opened, config=config, notes=notes)

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        if name not in self.scales:
            self.inner.read_into(name, start, buffer)
            return
        width = DTYPES[self.tensors[name].dtype].bits // 8
        while buffer:
            first = start // width
            last = min(-(-(start + len(buffer)) // width), first + STEP)
            values = _bytes(self._values(name, first, last))
            part = values[start - first * width :][: len(buffer)]
            buffer[: len(part)] = part
            buffer, start = buffer[len(part) :], start + len(part)

    def _values(self, name: str, first: int, last: int) -> torch.Tensor:
        """Elements [first, last) of a tensor."""
        import torch

        info = self.inner.tensors[name]
        blocks = blocks_of(info, self.inner.tensors[self.scales[name]], self.inner.opened.config)
        assert blocks is not None
        columns = info.shape[-1] if info.shape else 1
        top, bottom = first // columns, -(-last // columns)
        codes = bytearray((bottom - top) * columns)
        into = memoryview(codes)[first - top * columns : last - top * columns]
        self.inner.read_into(name, first, into)
        values = torch.frombuffer(codes, dtype=torch_dtype(info.dtype)).view(-1, columns).float()
        values *= _spread(self._scale(name), info.shape, blocks, top, bottom)
        wanted = values.reshape(-1)[first - top * columns : last - top * columns]
        return wanted.to(torch_dtype(self.tensors[name].dtype))

    def _scale(self, name: str) -> torch.Tensor:
        """A tensor's scales in float32, read once: they are a thousandth of the model or less."""
        if name not in self._known:
            scale = self.inner.tensors[self.scales[name]]
            self._known[name] = tensor_of(self.inner, scale).float()
        return self._known[name]


def without_quantization(config: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """A configuration of plain weights: what it says of quantization is gone, in its parts too."""
    if config is None:
        return None
    plain: dict[str, Any] = json.loads(json.dumps(config))
    for part in (plain, *(v for v in plain.values() if isinstance(v, dict))):
        for key in DESCRIBES:
            part.pop(key, None)
    return plain


def _spread(
    scale: torch.Tensor, shape: tuple[int, ...], blocks: tuple[int, ...], top: int, bottom: int
) -> torch.Tensor:
    """A scale for each element of rows [top, bottom), shape (rows, columns) or (rows, 1)."""
    import torch

    if scale.numel() == 1:
        return scale.reshape(1, 1)
    scale = scale.reshape(scale.shape + (1,) * (len(shape) - scale.dim()))
    # Rows of the tensor seen as a matrix -> rows of the scales seen as one.
    index = torch.zeros(bottom - top, dtype=torch.int64)
    row = torch.arange(top, bottom)
    step = 1
    for axis in range(len(shape) - 2, -1, -1):
        index += row % shape[axis] // blocks[axis] * step
        row = row // shape[axis]
        step *= scale.shape[axis]
    wide = scale.reshape(-1, scale.shape[-1])[index]
    if wide.shape[1] == 1:
        return wide
    return wide.repeat_interleave(blocks[-1], 1)[:, : shape[-1]]


def _bytes(values: torch.Tensor) -> memoryview:
    import torch

    return values.contiguous().view(torch.uint8).numpy().data


def _dtype_of(config: Mapping[str, Any] | None) -> str:
    """The type a configuration says its model runs in."""
    for part in parts_of(config):
        for key in ("dtype", "torch_dtype"):
            word = part.get(key)
            if isinstance(word, str):
                try:
                    name = parse_dtype(word.removeprefix("torch."))
                except KeyError:
                    continue
                if DTYPES[name].merges and DTYPES[name].bits > 8:
                    return name
    return DEFAULT_DTYPE
