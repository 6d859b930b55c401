"""Which quantization a checkpoint's weights are in, seen from its configuration and its headers.

Merging is arithmetic on values, and quantized weights are codes: the mean of two codes is not the
code of the mean. Eight-bit floats with scales beside them are turned into values by
`zoo.checkpoints.dequantize`; everything else is kept as it is, and refused where a merge wants its
values.

Source: transformers, `utils/quantization_config.py` and `quantizers/`, for the methods and for what
each calls its tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from zoo.checkpoint import TensorInfo

SCALE_ENDINGS = ("_scale_inv", "_scale")
"""What follows a tensor's name in that of its scale; `_scale_inv` is multiplied with, too."""
SCALED_WEIGHT = ".scale_weight"
"""ComfyUI's name for the scale of `.weight`."""
FLOATS_OF_8_BITS = ("F8_E4M3", "F8_E5M2")
SCALE_DTYPES = ("F32", "F16", "BF16", "F64", "F8_E8M0")
DESCRIBES = ("quantization_config", "compression_config")
"""Where a configuration says how its weights are quantized."""
USUAL_BLOCK = 128
"""Rows and columns that share a scale where the configuration does not say."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """How the weights of a checkpoint are quantized."""

    kind: str
    """What it is called: `fp8`, `bitsandbytes`, `gptq`, `awq`, ..."""
    can_dequantize: bool
    """Whether zoo turns it into values by itself when it merges."""
    remedy: str
    """What to do before a merge, as a sentence; empty where nothing is to be done."""
    tensors: tuple[str, ...] = ()
    """Those that gave it away, names ascending; empty where only the configuration says so."""


def quantization_of(
    config: Mapping[str, Any] | None, tensors: Mapping[str, TensorInfo]
) -> Quantization | None:
    """What a checkpoint is quantized with; None for plain values.

    Tensors go before words: a `quantization_config` beside plain weights describes nothing.

    Args:
        config: the content of `config.json`.
        tensors: by name; headers are enough.
    """
    said = method_said(config)
    found: dict[str, list[str]] = {}
    for name, info in tensors.items():
        if kind := _kind_of(name, info, tensors, said):
            found.setdefault(kind, []).append(name)
    # A checkpoint whose experts are packed and whose other weights are fp8 needs the other remedy.
    for kind in sorted(found, key=lambda kind: (kind == "fp8", kind)):
        names = tuple(sorted(found[kind]))
        if kind == "fp8":
            return _scaled_floats(names, config, tensors)
        return Quantization(kind, False, _remedy(kind), names)
    return None


def method_said(config: Mapping[str, Any] | None) -> str | None:
    """The `quant_method` of a configuration, of the model or of a part of it; None without one."""
    for block in _said(config):
        said = block.get("quant_method")
        if isinstance(said, str):
            return said
        if block.get("load_in_4bit") or block.get("load_in_8bit"):
            return "bitsandbytes"
        return "unknown"
    return None


def parts_of(config: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """A configuration and those within it, of a model's parts."""
    whole = config or {}
    return [whole, *(v for v in whole.values() if isinstance(v, Mapping))]


def _said(config: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    for part in parts_of(config):
        for key in DESCRIBES:
            if isinstance(block := part.get(key), Mapping):
                yield block


def scale_of(name: str, tensors: Mapping[str, TensorInfo]) -> str | None:
    """The tensor that holds the scales of `name`; None where it has none."""
    candidates = [name + ending for ending in SCALE_ENDINGS]
    if name.endswith(".weight"):
        candidates.append(name.removesuffix(".weight") + SCALED_WEIGHT)
    return next((c for c in candidates if c in tensors), None)


_ENDINGS = (
    # What a name ends with -> the kind. The first that fits decides.
    (".SCB", "bitsandbytes"),
    (".absmax", "bitsandbytes"),
    (".quant_state.bitsandbytes__nf4", "bitsandbytes"),
    (".quant_state.bitsandbytes__fp4", "bitsandbytes"),
    (".weight_packed", "compressed-tensors"),
    (".weight_shape", "compressed-tensors"),
    (".W_q", "hqq"),
    (".weight._data", "quanto"),
    (".weight_scales", "eetq"),
    ("_weight_qdata", "torchao"),
    ("_blocks", "mxfp4"),
)
_ENDINGS_WHERE_SAID = {"aqlm": ".codes", "vptq": ".centroids", "spqr": ".dense_weights"}
"""Words that plain models use too, so the configuration has to say the same."""
_PACKED = (".qweight", ".qzeros")
_SCALED = ("fp8", "fbgemm_fp8", "compressed-tensors", "modelopt")
"""Methods that keep eight-bit floats with scales."""


def _kind_of(
    name: str, info: TensorInfo, tensors: Mapping[str, TensorInfo], said: str | None
) -> str | None:
    """The kind of quantization that one tensor gives away."""
    if info.dtype in FLOATS_OF_8_BITS:
        # Without a scale they are plain numbers, unless the configuration says otherwise.
        owed = said in _SCALED and name.endswith(".weight")
        return "fp8" if owed or scale_of(name, tensors) is not None else None
    if name.endswith(_PACKED):
        return said if said in ("gptq", "awq", "auto-round") else _packing(name, tensors)
    for ending, kind in _ENDINGS:
        if name.endswith(ending):
            if kind == "mxfp4" and name.removesuffix("_blocks") + "_scales" not in tensors:
                continue
            return kind
    if said in _ENDINGS_WHERE_SAID and name.endswith(_ENDINGS_WHERE_SAID[said]):
        return said
    if info.dtype in ("I8", "U8") and said is not None and name.endswith(".weight"):
        return "fp4" if said == "fp8" else said
    return None


def _packing(name: str, tensors: Mapping[str, TensorInfo]) -> str:
    """GPTQ packs inputs (rows), AWQ packs outputs (columns): the scales know how many there are."""
    stem = name.rpartition(".")[0]
    codes, scales = tensors.get(stem + ".qweight"), tensors.get(stem + ".scales")
    if codes is None or scales is None or len(codes.shape) != 2 or len(scales.shape) != 2:
        return "gptq"
    return "gptq" if codes.shape[1] == scales.shape[1] else "awq"


def blocks_of(
    info: TensorInfo, scale: TensorInfo, config: Mapping[str, Any] | None = None
) -> tuple[int, ...] | None:
    """How many elements share a scale along each axis of a tensor; None where shapes do not fit.

    Fewer axes than the tensor has are its first ones: a scale per row, or per expert.
    """
    if scale.dtype not in SCALE_DTYPES or not info.elements:
        return None
    if scale.elements == 1:
        return info.shape
    missing = len(info.shape) - len(scale.shape)
    if missing < 0:
        return None
    said = (0,) * (len(info.shape) - 2) + _block_said(config)
    found = []
    for size, count, own in zip(info.shape, scale.shape + (1,) * missing, said, strict=False):
        if count == 0:
            return None
        fitting = [b for b in (own, USUAL_BLOCK) if b and -(-size // b) == count]
        if count in (1, size):
            found.append(size // count)
        elif fitting:
            found.append(fitting[0])
        elif size % count == 0:
            found.append(size // count)
        else:
            return None
    return tuple(found)


def _block_said(config: Mapping[str, Any] | None) -> tuple[int, int]:
    """`weight_block_size` of a configuration, rows and columns; zeros where it has none."""
    for block in _said(config):
        size = block.get("weight_block_size")
        if isinstance(size, list) and [type(n) for n in size] == [int, int] and min(size) > 0:
            return size[0], size[1]
    return 0, 0


def _scaled_floats(
    names: tuple[str, ...], config: Mapping[str, Any] | None, tensors: Mapping[str, TensorInfo]
) -> Quantization:
    for name in names:
        scale = scale_of(name, tensors)
        if scale is None:
            why = (
                f"`{name}` has no scale beside it: the checkpoint is not whole. Download it again."
            )
        elif blocks_of(tensors[name], tensors[scale], config) is None:
            why = (
                f"`{scale}` is {tensors[scale].dtype} {list(tensors[scale].shape)}, which fits no "
                f"blocks of `{name}` {list(tensors[name].shape)}. {_ORIGINAL}"
            )
        else:
            continue
        return Quantization("fp8", False, why, names)
    return Quantization("fp8", True, "", names)


_ORIGINAL = "Merge the model that it was quantized from, if you can get it."
_BY_TRANSFORMERS = (
    "Turn it into values first, on a machine that can run it: "
    '`AutoModelForCausalLM.from_pretrained(DIR, dtype="auto").dequantize().save_pretrained(OUT)` '
    "of transformers."
)
_BY_GPTQMODEL = (
    "Turn it into values first: `from gptqmodel.utils.model_dequant import dequantize_model; "
    "dequantize_model(DIR, OUT)` of the library gptqmodel."
)
_REMEDIES = {
    "bitsandbytes": _BY_TRANSFORMERS,
    "higgs": _BY_TRANSFORMERS,
    "gptq": _BY_GPTQMODEL,
    "awq": _BY_GPTQMODEL,
    "compressed-tensors": _BY_GPTQMODEL,
    "hqq": "Turn it into values first: each layer's `HQQLinear.dequantize()` of the library hqq.",
    "torchao": (
        "Turn it into values first: each weight's `dequantize()` of torchao's tensor classes, then "
        "`save_pretrained(OUT)`."
    ),
    "quanto": "Turn it into values first: each weight's `dequantize()` of the library quanto.",
    "mxfp4": (
        "Turn it into values first: `AutoModelForCausalLM.from_pretrained(DIR, "
        "quantization_config=Mxfp4Config(dequantize=True)).save_pretrained(OUT)` of transformers."
    ),
}


def _remedy(kind: str) -> str:
    own = _REMEDIES.get(kind)
    return f"{own} {_ORIGINAL}" if own else _ORIGINAL
