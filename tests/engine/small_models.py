"""Small models in memory and on disk, and what tests ask of a store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from zoo import Registry

State = dict[str, torch.Tensor]

SHAPES = {
    "layers.0.weight": (12, 7),
    "layers.0.bias": (12,),
    "layers.1.weight": (7, 12),
    "layers.1.bias": (7,),
    "norm.running_var": (7,),
    "scale": (),
    "unused": (0, 3),
}


def family(experts: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[State]:
    """A base and its experts, the base first; one integer buffer beside the weights."""
    generator = torch.Generator().manual_seed(seed)

    def draw(scale: float) -> State:
        return {n: scale * torch.randn(s, generator=generator) for n, s in SHAPES.items()}

    base = draw(1.0)
    base["norm.running_var"] = base["norm.running_var"].abs() + 1
    models = [base]
    for _ in range(experts):
        step = draw(0.1)
        models.append({name: base[name] + step[name] for name in SHAPES})
    return [
        {**{n: t.to(dtype) for n, t in m.items()}, "norm.num_batches_tracked": torch.tensor(10 + i)}
        for i, m in enumerate(models)
    ]


def write(directory: Path, state: Mapping[str, torch.Tensor], **config: Any) -> Path:
    """A model's directory in Hugging Face layout."""
    directory.mkdir(parents=True)
    save_file(dict(state), directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text(json.dumps({"model_type": "tiny", **config}))
    return directory


def same_bytes(a: State, b: State) -> bool:
    """Equal names, types, shapes and bits; -0.0 is not 0.0."""
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype
        and a[n].shape == b[n].shape
        and torch.equal(bits(a[n]), bits(b[n]))
        for n in a
    )


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def left_behind(registry: Registry) -> list[str]:
    """What is in the store's staging, and objects in no version; empty when all is tidy."""
    root = registry.store.root
    work = [str(p.relative_to(root)) for p in (root / "staging").rglob("*")]
    live = registry.catalog.live_objects()
    return work + [key for key, _, _ in registry.store.objects() if key not in live]
