"""Directories of components: diffusers pipelines, and sentence-transformers with further layers.

Each component has a folder with its configuration and its weights, in one file or in shards.
Folders often hold the same weights several times. One set of each component is taken,

    1. safetensors before torch's formats
    2. the plain set before variants, of these `bf16` and `fp16` first, then by name
    3. one file before shards

and the others stay behind: `skipped` in the version's notes lists them, `variants` says which
variant was taken for want of a plain set. Tensors are called `FOLDER/NAME`; see
`zoo.checkpoints.components`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo.checkpoint import Checkpoint, Format, Opened
from zoo.errors import InvalidCheckpoint, NotFound
from zoo.hookspecs import hookimpl

PREFERRED = ("", "bf16", "fp16")
"""Variants, the plain set first."""
SAFETENSORS = ".safetensors"
TORCH = ".bin"
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})")
_STEMS = {
    SAFETENSORS: ("diffusion_pytorch_model", "model"),
    TORCH: ("diffusion_pytorch_model", "pytorch_model"),
}
"""What diffusers, transformers and sentence-transformers call weights files."""


class DiffusersFormat(Format):
    """All components of a pipeline as one model; safetensors are kept byte for byte."""

    name = "diffusers"

    def matches(self, path: Path) -> bool:
        from zoo.checkpoints.safetensors import MARKS

        if not path.is_dir():
            return False
        if any((path / mark).is_file() for mark in MARKS[:2]):
            return True
        # A sentence-transformers model whose weights all lie at the top is a plain model.
        return (path / MARKS[2]).is_file() and any(
            f.suffix in _STEMS for f in path.glob("*/*") if not f.parent.name.startswith(".")
        )

    def open(self, path: Path) -> Checkpoint:
        from zoo.checkpoints.auxiliary import auxiliary_files
        from zoo.checkpoints.components import folders_of
        from zoo.checkpoints.safetensors import MARKS

        marks = {m: path / m for m in MARKS if (path / m).is_file()}
        sets = {f: s for f in sorted(folders_of(marks)) if (s := _chosen(path / f))}
        if not sets:
            raise NotFound(
                f"`{path}` names components, and none of them has weights.",
                how="Download the folders of its components too.",
                path=path,
            )
        used = [_path(folder, file) for folder, s in sets.items() for file in s.files]
        indexes = [_path(folder, s.index) for folder, s in sets.items() if s.index]
        carried = [i for i in indexes if i.endswith(".json") and SAFETENSORS in i]
        auxiliary, skipped = auxiliary_files(
            path, weights={*used, *indexes} - {*carried}, keep=carried
        )
        notes: dict[str, Any] = {"components": [f or "." for f in sets]}
        if variants := {f: s.variant for f, s in sets.items() if s.variant}:
            notes["variants"] = variants
        if skipped:
            notes["skipped"] = skipped
        opened = Opened(str(path), {}, auxiliary, None, notes)
        if all(s.suffix == SAFETENSORS for s in sets.values()):
            return _kept(path, sets, opened)
        return _joined(path, sets, opened)


@hookimpl
def zoo_register_formats(register: Callable[[Format], None]) -> None:
    register(DiffusersFormat())


@dataclass(frozen=True, slots=True)
class _Set:
    """The weights of one component."""

    suffix: str
    variant: str
    files: tuple[str, ...]
    index: str | None


def _path(folder: str, file: str) -> str:
    return f"{folder}/{file}" if folder else file


def _chosen(folder: Path) -> _Set | None:
    """The set of weights that is taken of a component; None where it has none: a scheduler."""
    for suffix, stems in _STEMS.items():
        found: dict[tuple[str, str], list[str]] = {}
        for file in sorted(folder.glob("*" + suffix)):
            stem, _, variant = _SHARD.sub("", file.name.removesuffix(suffix)).partition(".")
            if stem in stems and file.is_file():
                found.setdefault((variant, stem), []).append(file.name)
        if found:
            variant, stem = min(found, key=lambda key: (_rank(key[0]), key))
            return _whole(folder, suffix, stem, variant, found[variant, stem])
    return None


def _rank(variant: str) -> int:
    return PREFERRED.index(variant) if variant in PREFERRED else len(PREFERRED)


def _whole(folder: Path, suffix: str, stem: str, variant: str, files: list[str]) -> _Set:
    """The set, complete: one file, or all shards.

    Raises:
        InvalidCheckpoint: shards are missing.
    """
    from zoo.checkpoints.safetensors import read_index

    single = [f for f in files if not _SHARD.search(f)]
    if single:
        return _Set(suffix, variant, (single[0],), None)
    middle = f".{variant}" if variant else ""
    for name in (
        f"{stem}{suffix}.index{middle}.json",
        f"{stem}{middle}{suffix}.index.json",
    ):
        if (folder / name).is_file():
            named = sorted(set(read_index(folder / name).values()))
            return _Set(suffix, variant, tuple(named), name)
    count = max(int(m[2]) for f in files if (m := _SHARD.search(f)))
    if len(files) != count:
        raise InvalidCheckpoint(
            f"`{folder}` holds {len(files)} of {count} shards:",
            "the checkpoint is incomplete.",
            "Download the missing shards, and the index that belongs to them.",
            path=folder,
        )
    return _Set(suffix, variant, tuple(files), None)


def _kept(path: Path, sets: Mapping[str, _Set], opened: Opened) -> Checkpoint:
    """The files as they are, each index checked against its shards."""
    from zoo.checkpoints.safetensors import (
        SafetensorsCheckpoint,
        check_index,
        prefixes_of,
        read_index,
    )

    files = {_path(folder, f): path / folder / f for folder, s in sets.items() for f in s.files}
    checkpoint = SafetensorsCheckpoint(
        replace(opened, weight_files=files), prefixes_of(files, opened.auxiliary)
    )
    with ExitStack() as undo:
        undo.callback(checkpoint.close)
        for folder, own in sets.items():
            if own.index is None:
                continue
            index = path / folder / own.index
            weight_map = {_path(folder, n): _path(folder, f) for n, f in read_index(index).items()}
            mine = {_path(folder, f) for f in own.files}
            check_index(
                index, weight_map, {n: t for n, t in checkpoint.tensors.items() if t.file in mine}
            )
        undo.pop_all()
    return checkpoint


def _joined(path: Path, sets: Mapping[str, _Set], opened: Opened) -> Checkpoint:
    """Components of which some are pickles: all are written anew as safetensors."""
    from zoo.checkpoints.components import Joined
    from zoo.checkpoints.safetensors import open_files
    from zoo_plugins.torch_format import open_pickles

    parts: dict[str, Checkpoint] = {}
    notes = dict(opened.notes)
    with ExitStack() as undo:
        for folder, own in sets.items():
            files = [path / folder / f for f in own.files]
            if own.suffix == SAFETENSORS:
                part: Checkpoint = open_files({f.name: f for f in files}, str(path / folder))
            else:
                part = open_pickles(path / folder, files)
                for key, told in part.opened.notes.items():
                    notes.setdefault(key, {})[folder or "."] = told
            undo.callback(part.close)
            parts[_path(folder, "")] = part
        undo.pop_all()
    return Joined(parts, replace(opened, notes=notes))
