"""What mergekit calls the options that its task-vector methods share, and what they are here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

TASK_VECTORS: Mapping[str, str | tuple[str, Mapping[Any, Any]] | None] = MappingProxyType(
    {
        "weight": "weight",
        "density": "density",
        "lambda": "lambda",
        "normalize": ("merge", {True: "mean", False: "sum"}),
        "rescale": ("rescale", {True: "l1", False: "none"}),
        "int8_mask": None,
    }
)
