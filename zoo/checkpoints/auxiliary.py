"""Which files beside the weights belong to a model: config, tokenizer, card, code."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

from zoo.errors import InvalidCheckpoint
from zoo.names import check_relative_path

LARGEST = 1_000_000_000
"""Bytes. Nothing that describes a model is larger; other weights are."""
MOST = 1_000
"""Files. More means that the directory is no model's."""

WEIGHT_SUFFIXES = frozenset(
    {
        *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".th", ".tar", ".pkl", ".pickle"),
        *(".h5", ".msgpack", ".npz", ".npy", ".onnx", ".onnx_data", ".tflite", ".pb"),
        *(".gguf", ".ggml", ".ot", ".mlmodel"),
    }
)

_INDEX = re.compile(r"\.index(\.[\w-]+)?\.json$")
"""`model.safetensors.index.json`; with a variant, `model.safetensors.index.fp16.json`."""


def auxiliary_files(
    directory: Path, weights: Collection[str], keep: Collection[str] = ()
) -> tuple[dict[str, Path], list[str]]:
    """The files to carry with the weights, and those left behind.

    Everything regular is carried except hidden files, the weights themselves, weights in other
    formats with their indexes, and files over 1 GB. Links are followed, as the caches of hubs are
    made of links.

    Args:
        weights: relative paths of the weights in use.
        keep: relative paths to carry whatever their suffix.
    Returns:
        relative path -> path; and the relative paths of weights and giants not carried.
    Raises:
        InvalidCheckpoint: over 1,000 files.
        InvalidName: a file whose name cannot be kept.
    """
    carried: dict[str, Path] = {}
    skipped: list[str] = []
    for folder, subfolders, files in os.walk(directory):
        subfolders[:] = sorted(s for s in subfolders if not s.startswith((".", "__pycache__")))
        for name in sorted(files):
            path = Path(folder, name)
            relative = path.relative_to(directory).as_posix()
            if name.startswith(".") or relative in weights or not path.is_file():
                continue
            stem = _INDEX.sub("", name)
            foreign = Path(stem).suffix.lower() in WEIGHT_SUFFIXES and relative not in keep
            if foreign or path.stat().st_size > LARGEST:
                skipped.append(relative)
                continue
            carried[check_relative_path(relative)] = path
            if len(carried) > MOST:
                raise InvalidCheckpoint(
                    f"`{directory}` holds over {MOST} files beside the weights:",
                    "that is no model's directory.",
                    "Give the weights file itself, or a directory of its own.",
                    path=directory,
                )
    return carried, sorted(skipped)
