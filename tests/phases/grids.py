"""Versions of a grid with made-up measurements of known phases."""

from __future__ import annotations

from zoo.digest import flat_key, tensor_digest, weights_digest
from zoo.records import FileRecord, TensorRecord, VersionDraft

TASK = "digits"
PLACES = {
    # (width, batch size): phase by the default rule, train loss, connectivity, CKA, trace
    ("2", "8"): ("I", 1.2, -12.0, 0.4, 1100.0),
    ("2", "512"): ("II", 0.8, 9.0, 0.5, 650.0),
    ("8", "8"): ("III", 0.05, -8.0, 0.5, 30.0),
    ("8", "512"): ("unassigned", 0.101, 3.0, 0.5, 30.0),
    ("64", "8"): ("IV-B", 0.002, 0.1, 0.85, 20.0),
    ("64", "512"): ("IV-A", 0.001, -0.2, 0.35, 22.0),
}


def draft(name: str, number: int, **more: object) -> VersionDraft:
    """A version of one small tensor; different numbers, different weights."""
    data = number.to_bytes(4, "little")
    digest = tensor_digest("I32", (1,), data)
    return VersionDraft(
        **{
            "name": name,
            "kind": "expert",
            "digest": weights_digest([("w", digest)]),
            "tensors": (TensorRecord("w", "I32", (1,), digest),),
            "files": (FileRecord("model.safetensors", flat_key(data), 64),),
            "task": TASK,
            **more,
        }
    )


def spread(i: int, n: int, size: float) -> float:
    """Differences from a mean that sum to 0."""
    return 0.1 * size * (2 * i - (n - 1))
