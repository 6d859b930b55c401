"""Versions and runs to add: small, plain, and different where the seed differs."""

from __future__ import annotations

from typing import Any

from zoo.digest import flat_key, tensor_digest, weights_digest
from zoo.records import FileRecord, RunDraft, RunInput, TensorRecord, Version, VersionDraft


def draft(name: str, seed: int = 0, **more: Any) -> VersionDraft:
    """A version of six float and two integer elements, 40 bytes in all."""
    data = seed.to_bytes(8, "little")
    tensors = (
        TensorRecord("b", "I64", (2,), tensor_digest("I64", (2,), data * 2)),
        TensorRecord("w", "F32", (2, 3), tensor_digest("F32", (2, 3), data * 3)),
    )
    more.setdefault("kind", "expert")
    more.setdefault("files", (FileRecord("model.safetensors", flat_key(data), 140),))
    digest = weights_digest((x.name, x.digest) for x in tensors)
    return VersionDraft(name=name, digest=digest, tensors=tensors, **more)


def merge_run(run_id: str, base: Version | None, *experts: Version, **more: Any) -> RunDraft:
    """A run that merges experts, each with weight 1/number."""
    inputs = [RunInput(base.id, base.digest, "base", 0)] if base else []
    inputs += [
        RunInput(e.id, e.digest, "expert", i, 1 / len(experts)) for i, e in enumerate(experts)
    ]
    fields: dict[str, Any] = {
        "id": run_id,
        "kind": "merge",
        "inputs": tuple(inputs),
        "recipe": {"method": "ties", "density": 0.2, "name": "ü"},
        "recipe_digest": "sha256:" + "1" * 64,
        "method": "ties",
        "method_version": "1.0.0",
        "plugin": "zoo-registry",
        "plugin_version": "0.1.0",
        "code_hash": "sha256:" + "2" * 64,
        "seed": 7,
        "selection": {"where": "task = 'math'", "frozen": [e.ref for e in experts]},
        "environment": {"python": "3.11"},
        "timings": {"execute": 0.5},
        "started_at": "2025-01-01T00:00:00Z",
        "ended_at": "2025-01-01T00:00:01Z",
    }
    return RunDraft(**{**fields, **more})
