"""The element types of safetensors: width, torch's name for each, and which of them merge."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


class DType(NamedTuple):
    name: str
    bits: int
    """Bits per element; sub-byte types pack, and a tensor of them fills whole bytes."""
    torch_name: str | None
    """Attribute of the torch module, or None where torch has no such type."""
    merges: bool
    """Floating types that arithmetic is defined on; all others are carried, never merged."""


DTYPES = {
    d.name: d
    for d in (
        DType("BOOL", 8, "bool", False),
        DType("U8", 8, "uint8", False),
        DType("I8", 8, "int8", False),
        DType("U16", 16, "uint16", False),
        DType("I16", 16, "int16", False),
        DType("U32", 32, "uint32", False),
        DType("I32", 32, "int32", False),
        DType("U64", 64, "uint64", False),
        DType("I64", 64, "int64", False),
        DType("F16", 16, "float16", True),
        DType("BF16", 16, "bfloat16", True),
        DType("F32", 32, "float32", True),
        DType("F64", 64, "float64", True),
        DType("C64", 64, "complex64", False),
        # Unscaled eight-bit floats are numbers; pre-flight refuses them beside a scale tensor.
        DType("F8_E4M3", 8, "float8_e4m3fn", True),
        DType("F8_E5M2", 8, "float8_e5m2", True),
        DType("F8_E4M3FNUZ", 8, "float8_e4m3fnuz", False),
        DType("F8_E5M2FNUZ", 8, "float8_e5m2fnuz", False),
        DType("F8_E8M0", 8, "float8_e8m0fnu", False),
        DType("F4", 4, None, False),
        DType("F6_E2M3", 6, None, False),
        DType("F6_E3M2", 6, None, False),
    )
}


def torch_dtype(name: str) -> torch.dtype:
    """The torch type of a safetensors type; KeyError for those torch lacks."""
    import torch

    torch_name = DTYPES[name].torch_name
    if torch_name is None:
        raise KeyError(name)
    dtype: torch.dtype = getattr(torch, torch_name)
    return dtype


def dtype_name(dtype: torch.dtype) -> str:
    """The safetensors name of a torch type."""
    wanted = str(dtype).removeprefix("torch.")
    for d in DTYPES.values():
        if d.torch_name == wanted:
            return d.name
    raise KeyError(wanted)


def parse_dtype(word: str) -> str:
    """The safetensors name for what people write: `bfloat16`, `bf16`, `BF16`, `float32`."""
    upper = word.upper()
    if upper in DTYPES:
        return upper
    for d in DTYPES.values():
        if d.torch_name == word:
            return d.name
    short = {"FLOAT": "F32", "HALF": "F16", "FP16": "F16", "FP32": "F32", "DOUBLE": "F64"}
    return short[upper]
