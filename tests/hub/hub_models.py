"""Tiny models to put on a hub."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8}


def weights(seed: int, shape: tuple[int, int] = (8, 8), count: int = 2) -> dict[str, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    return {
        f"model.layers.{i}.mlp.up_proj.weight": torch.randn(shape, generator=made)
        for i in range(count)
    }


def model(seed: int, **shape: object) -> dict[str, bytes]:
    """The files of a tiny model."""
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "README.md": b"---\nlicense: apache-2.0\n---\n# Tiny\n",
        "model.safetensors": save(weights(seed, **shape), metadata={"format": "pt"}),  # type: ignore[arg-type]
    }


def cache_files(tmp_path: Path) -> list[str]:
    """What the hub's cache holds."""
    root = tmp_path / "hf"
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if not p.is_dir())


def header_bytes(data: bytes) -> int:
    """Bytes before the first tensor of a safetensors file."""
    return 8 + int.from_bytes(data[:8], "little")
