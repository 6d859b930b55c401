"""Models made of components, each with its weights in a folder of its own.

A diffusers pipeline says so in `model_index.json`, a sentence-transformers model in `modules.json`.
Two components may call their tensors alike, so a tensor is known here by folder and name,

    unet/conv_in.weight        `conv_in.weight` of a file in `unet/`

and files say what they always said. What is written goes back to such folders, under the names the
libraries look for.

Source: diffusers, `utils/constants.py` and `pipelines/pipeline_loading_utils.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from zoo.checkpoint import Checkpoint, Opened, TensorInfo
from zoo.checkpoints.safetensors import MARKS, read_config, read_json
from zoo.checkpoints.safetensors_header import SHARD_BYTES, Layout, index, layout, shards

DIFFUSERS_STEM = "diffusion_pytorch_model"
TRANSFORMERS_STEM = "model"
_INDEX = re.compile(r"\.safetensors\.index(\.[\w-]+)?\.json$")


def folders_of(marks: Mapping[str, Path]) -> dict[str, str]:
    """The folders of components, and what each is called; `""` is the directory itself.

    Args:
        marks: files of the directory, by path; `model_index.json` and the like among them.
    Raises:
        InvalidCheckpoint: such a file is no valid JSON.
    """
    found: dict[str, str] = {}
    for name in MARKS:
        if name not in marks:
            continue
        content = read_json(marks[name])
        if isinstance(content, Mapping):
            # {"_class_name": ..., "unet": ["diffusers", "UNet2DConditionModel"], ...}
            for component, made_by in content.items():
                if isinstance(made_by, list) and made_by[:1] != [None]:
                    found[component] = component
        elif isinstance(content, list):
            # [{"idx": 0, "path": "", ...}, {"path": "2_Dense", ...}]
            for part in content:
                if isinstance(part, Mapping) and isinstance(part.get("path"), str):
                    found[part["path"]] = part["path"] or "."
    return {f: n for f, n in found.items() if f == "" or PurePosixPath(f).name == f}


def stems_of(beside: Mapping[str, Path]) -> dict[str, str]:
    """Prefix of a component's tensors -> path of its weights file, without the ending.

    Args:
        beside: the files beside the weights, by path.
    Returns:
        Nothing for a model that is no set of components.
    """
    if not any(mark in beside for mark in MARKS):
        return {}
    return {
        (f"{folder}/" if folder else ""): str(PurePosixPath(folder, stem_of(folder, beside)))
        for folder in folders_of(beside)
    }


def stem_of(folder: str, beside: Mapping[str, Path]) -> str:
    """What the library that loads a component calls its weights file."""
    path = beside.get(str(PurePosixPath(folder, "config.json")))
    config: Mapping[str, Any] = (read_config(path) if path is not None else None) or {}
    return DIFFUSERS_STEM if "_class_name" in config else TRANSFORMERS_STEM


def is_index(path: str) -> bool:
    """Whether a file is the index of sharded safetensors, in whatever folder, of any variant."""
    return _INDEX.search(path) is not None


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The weights files of a model that is to be written."""

    layouts: dict[str, Layout]
    """By path; the tensors go by the names they have in the zoo, the headers by the files' own."""
    indexes: dict[str, bytes]
    """By path; for what takes several files."""


def weight_files(
    tensors: Sequence[TensorInfo],
    limit: int = SHARD_BYTES,
    stems: Mapping[str, str] | None = None,
    stem: str = TRANSFORMERS_STEM,
) -> WeightFiles:
    """Which files hold which tensors, and where; same tensors, same bytes.

    Args:
        limit: bytes of tensors per file.
        stems: of a model made of components, as `stems_of` has them.
        stem: of any other.
    """
    by_prefix: dict[str, list[TensorInfo]] = {}
    for t in tensors:
        fitting = [p for p in stems or () if t.name.startswith(p)]
        by_prefix.setdefault(max(fitting, key=len, default=""), []).append(t)
    found = WeightFiles({}, {})
    for prefix, own in sorted(by_prefix.items()):
        path = PurePosixPath((stems or {}).get(prefix, stem))
        folder = "" if path.parent == PurePosixPath() else f"{path.parent}/"
        bare = [replace(t, name=t.name.removeprefix(prefix)) for t in own]
        groups = shards(bare, limit, path.name)
        for file, group in groups.items():
            laid = layout(group)
            named = tuple(
                replace(t, name=prefix + t.name, file=folder + file) for t in laid.tensors
            )
            found.layouts[folder + file] = replace(laid, tensors=named)
        if len(groups) > 1:
            found.indexes[f"{path}.safetensors.index.json"] = index(groups)
    return found


class Joined(Checkpoint):
    """Several checkpoints as one, each under a prefix of its own. It closes them.

    Args:
        parts: by prefix; `""` for one at the top.
    """

    def __init__(self, parts: Mapping[str, Checkpoint], opened: Opened) -> None:
        self.opened = opened
        self._parts = dict(parts)
        self._place = {
            prefix + name: (part, name) for prefix, part in parts.items() for name in part.tensors
        }
        self.tensors = {
            name: replace(part.tensors[own], name=name)
            for name, (part, own) in sorted(self._place.items())
        }

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        part, own = self._place[name]
        part.read_into(own, start, buffer)

    def close(self) -> None:
        for part in self._parts.values():
            part.close()
