"""Q8_0: 32 numbers share a scale,

    value = d * q        d float16, q int8, 34 bytes for 32 numbers

worked out in float32. Written, d = max |value| / 127 and q = value / d, halves rounded away from
zero, bit for bit what llama.cpp and the library `gguf` write.

Source: ggml, `quantize_row_q8_0_ref`; gguf, `quants.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

BLOCK = 32
BYTES = 34


def values_of(raw: bytearray) -> torch.Tensor:
    """Numbers of whole blocks, float32, shape (n,)."""
    import torch

    blocks = torch.frombuffer(raw, dtype=torch.uint8).view(-1, BYTES)
    scale = blocks[:, :2].contiguous().view(torch.float16).float()
    return (blocks[:, 2:].contiguous().view(torch.int8).float() * scale).reshape(-1)


def blocks_of(values: torch.Tensor) -> np.ndarray:
    """Blocks of numbers, uint8, shape (n / 32 * 34,); n fills whole blocks."""
    import numpy as np

    rows = values.float().reshape(-1, BLOCK).numpy()
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        scale = np.abs(rows).max(axis=1, keepdims=True) / np.float32(127)
        inverse = np.float32(1) / scale
        inverse[~np.isfinite(inverse)] = 0  # zeros, and what float16 takes for zeros
        exact = rows * inverse
        size = np.abs(exact)
        down = np.floor(size)
        nearest = down + np.floor(2 * (size - down))
        codes = (np.sign(exact) * nearest).astype(np.int8)
        small = scale.astype("<f2")
    packed = np.concatenate([small.view(np.uint8), codes.view(np.uint8)], axis=1)
    return packed.reshape(-1)
