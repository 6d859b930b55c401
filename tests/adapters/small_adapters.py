"""A base in half precision, and adapters of it, made without peft."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

SHAPES = {"a.proj.weight": (40, 24), "b.proj.weight": (24, 40), "a.norm.weight": (24,)}


def base_state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {n: torch.randn(s, generator=generator).bfloat16() for n, s in SHAPES.items()}


def write_adapter(
    folder: Path,
    seed: int = 1,
    rank: int = 4,
    tensors: Mapping[str, torch.Tensor | None] | None = None,
    **config: Any,
) -> Path:
    """A PEFT directory; `tensors` are changed or, where None, taken away."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, torch.Tensor | None] = {}
    for name, shape in SHAPES.items():
        if len(shape) == 2:
            module = "base_model.model." + name.removesuffix(".weight")
            a, b = (rank, shape[1]), (shape[0], rank)
            found[f"{module}.lora_A.weight"] = torch.randn(a, generator=generator) * 0.1
            found[f"{module}.lora_B.weight"] = torch.randn(b, generator=generator) * 0.1
    found |= {f"base_model.model.{n}": t for n, t in (tensors or {}).items()}
    folder.mkdir(parents=True, exist_ok=True)
    kept = {n: t.contiguous() for n, t in found.items() if t is not None}
    save_file(kept, folder / "adapter_model.safetensors")
    content = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, **config}
    (folder / "adapter_config.json").write_text(json.dumps(content))
    return folder


def dense(folder: Path, scale: float = 2.0) -> dict[str, torch.Tensor]:
    """base + scale * B A in float64."""
    from safetensors.torch import load_file

    factors = load_file(folder / "adapter_model.safetensors")
    found = {n: t.double() for n, t in base_state().items()}
    for name in found:
        module = "base_model.model." + name.removesuffix(".weight")
        if f"{module}.lora_A.weight" in factors:
            a, b = (factors[f"{module}.lora_{x}.weight"].double() for x in "AB")
            found[name] = found[name] + scale * b @ a
    return found
