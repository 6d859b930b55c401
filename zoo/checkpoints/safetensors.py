"""Safetensors weights as a lazy checkpoint: one file, or shards, read by offset."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.checkpoint import Checkpoint, Opened, TensorInfo
from zoo.checkpoints.auxiliary import auxiliary_files
from zoo.checkpoints.safetensors_header import Header, parse_strict_json, read_header_from
from zoo.errors import InvalidCheckpoint, InvalidName, NotFound
from zoo.names import check_relative_path
from zoo.overlays.overlay import files_below

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MARKS = ("model_index.json", "modular_model_index.json", "modules.json")
"""Files that say that a directory's weights are those of components, in folders of their own:
diffusers', and sentence-transformers'."""
LARGEST_JSON = 100_000_000
"""Bytes of an index or a config that we are willing to parse."""


class SafetensorsCheckpoint(Checkpoint):
    """Tensors in one or more safetensors files.

    Files stay open, one descriptor each, and are read with `preadv` from any number of threads.
    Nothing is mapped: mapped pages count as resident memory, and a file cut short under a map
    kills the process instead of raising.
    """

    def __init__(self, opened: Opened, prefixes: Mapping[str, str] | None = None) -> None:
        """Open `opened.weight_files` and check their headers.

        Args:
            prefixes: what comes before the names that a file's tensors have in it, by file.
        Raises:
            InvalidCheckpoint: a file is damaged, or a tensor is in two files.
        """
        self.opened = opened
        self.headers: dict[str, Header] = {}
        """By file, as it is called in `opened.weight_files`; tensors go by the checkpoint's names.
        """
        self._files: dict[str, int] = {}
        tensors: dict[str, TensorInfo] = {}
        with ExitStack() as undo:
            undo.callback(self.close)
            for file, path in sorted(opened.weight_files.items()):
                self._files[file] = _open(path)
                header = read_header_from(self._files[file], path)
                if prefix := (prefixes or {}).get(file):
                    named = (replace(t, name=prefix + t.name) for t in header.tensors)
                    header = replace(header, tensors=tuple(named))
                self.headers[file] = header
                for info in header.tensors:
                    if info.name in tensors:
                        raise InvalidCheckpoint(
                            f"Tensor `{info.name}` of `{opened.origin}` is in two files, "
                            f"`{tensors[info.name].file}` and `{file}`:",
                            "one of them would be lost.",
                            "Name the file you mean, or remove the other.",
                            tensor=info.name,
                        )
                    tensors[info.name] = replace(info, file=file)
            undo.pop_all()
        self.tensors = dict(sorted(tensors.items()))

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        info = self.tensors[name]
        if start < 0 or start + len(buffer) > info.nbytes:
            raise ValueError(f"bytes {start}..{start + len(buffer)} are outside tensor {name}")
        fd = self._files[info.file]
        offset = info.offset + start
        while buffer:
            try:
                n = os.preadv(fd, [buffer], offset)
            except OSError as error:
                raise self._unreadable(info, error.strerror or str(error)) from error
            if n == 0:
                raise self._unreadable(info, "the file was cut short after it was opened")
            buffer = buffer[n:]
            offset += n

    def stat(self, file: str) -> os.stat_result:
        """What the file system says of an open file, whatever has its path by now."""
        return os.fstat(self._files[file])

    def close(self) -> None:
        while self._files:
            os.close(self._files.popitem()[1])

    def _unreadable(self, info: TensorInfo, problem: str) -> InvalidCheckpoint:
        path = self.opened.weight_files[info.file]
        return InvalidCheckpoint(
            f"Tensor `{info.name}` cannot be read from `{path}`:",
            f"{problem}.",
            "Run `zoo fsck` if the file belongs to a zoo.",
            tensor=info.name,
            path=path,
        )


def open_path(path: Path) -> SafetensorsCheckpoint:
    """A safetensors file, or a directory that holds some.

    A directory with an index is what the index says; without one, it is all its safetensors
    files together.

    Raises:
        InvalidCheckpoint: damaged files; an index that disagrees with the shards or leaves the
            directory.
        NotFound: nothing there.
    """
    if not path.is_dir():
        return open_files({SINGLE: path}, str(path))
    indexes = sorted(path.glob("*.safetensors.index.json"))
    if len(indexes) > 1 and path / INDEX in indexes:
        indexes = [path / INDEX]
    if len(indexes) > 1:
        raise InvalidCheckpoint(
            f"`{path}` holds {len(indexes)} indexes:",
            ", ".join(f"`{i.name}`" for i in indexes) + ", and none is called `" + INDEX + "`.",
            "Keep one.",
            path=path,
        )
    weight_map = read_index(indexes[0]) if indexes else None
    files = (
        {file: path / file for file in sorted(set(weight_map.values()))}
        if weight_map is not None
        else {file.name: file for file in sorted(path.glob("*.safetensors"))}
    )
    if not files:
        raise NotFound(f"`{path}` holds no safetensors file.", path=path)
    kept = {*(i.name for i in indexes), *files_below(path)}
    auxiliary, skipped = auxiliary_files(path, weights=files, keep=kept)
    notes = {"skipped": skipped} if skipped else {}
    opened = Opened(str(path), files, auxiliary, read_config(path / "config.json"), notes)
    checkpoint = SafetensorsCheckpoint(opened)
    if weight_map is not None:
        try:
            check_index(indexes[0], weight_map, checkpoint.tensors)
        except InvalidCheckpoint:
            checkpoint.close()
            raise
    return checkpoint


def open_files(
    files: Mapping[str, Path], origin: str, beside: Collection[str] = ()
) -> SafetensorsCheckpoint:
    """Weights whose places are known, such as a stored version's objects.

    Args:
        files: relative path in the version's directory -> where the bytes are.
        origin: what to call the whole in messages.
        beside: paths of the version's other files.
    """
    return SafetensorsCheckpoint(Opened(origin, dict(files)), prefixes_of(files, beside))


def prefixes_of(files: Iterable[str], beside: Collection[str]) -> dict[str, str]:
    """What comes before tensors' names, by weights file: the folder, where the other files say that
    folders are components. Elsewhere folders mean nothing, and names are the files' own."""
    if not any(mark in beside for mark in MARKS):
        return {}
    return {f: f[: f.rindex("/") + 1] for f in files if "/" in f}


def read_index(path: Path) -> dict[str, str]:
    """The `weight_map` of an index: tensor name -> file, every file inside the directory."""
    content = parse_strict_json(read_small(path), path)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
        raise InvalidCheckpoint(
            f"`{path}` is no index:", "it has no `weight_map` from tensors to files.", path=path
        )
    for file in set(weight_map.values()):
        try:
            check_relative_path(file)
        except InvalidName as error:
            raise InvalidCheckpoint(
                f"`{path}` names a file outside its directory:", str(error), path=path, file=file
            ) from error
        if not (path.parent / file).is_file():
            raise InvalidCheckpoint(
                f"`{path}` names `{file}`, which is not there:",
                "the checkpoint is incomplete.",
                "Download the missing shard.",
                path=path,
                file=file,
            )
    return weight_map


def read_json(path: Path) -> Any:
    """A small JSON file beside the weights, read strictly."""
    return parse_strict_json(read_small(path), path)


def read_config(path: Path) -> Mapping[str, Any] | None:
    """The content of a `config.json`, or None where there is none."""
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, dict):
        raise InvalidCheckpoint(f"`{path}` is no configuration:", "it is not a map.", path=path)
    return content


def read_small(path: Path) -> bytes:
    """A JSON file's bytes, refused when no JSON file of a model is that large."""
    try:
        # Not to wait for whoever writes into a pipe: it reads as an empty file.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            data = file.read(LARGEST_JSON + 1)
    except OSError as error:
        raise InvalidCheckpoint(f"`{path}` cannot be read:", f"{error.strerror}.") from error
    if len(data) > LARGEST_JSON:
        raise InvalidCheckpoint(f"`{path}` is larger than {LARGEST_JSON} bytes.", path=path)
    return data


def check_index(
    path: Path, weight_map: Mapping[str, str], tensors: Mapping[str, TensorInfo]
) -> None:
    """Refuse an index that disagrees with the shards it names."""
    found = {name: info.file for name, info in tensors.items()}
    wrong = sorted(
        name for name in weight_map.keys() | found if weight_map.get(name) != found.get(name)
    )
    if wrong:
        first = wrong[0]
        said, lies = (f"in `{m[first]}`" if first in m else "nowhere" for m in (weight_map, found))
        raise InvalidCheckpoint(
            f"`{path}` disagrees with its shards about {len(wrong)} "
            f"tensor{'s' if len(wrong) > 1 else ''}:",
            f"by the index `{first}` is {said}, by the files {lies}.",
            "Remove the index if the shards are right, or download both again.",
            path=path,
            tensors=wrong,
        )


def _open(path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFound(f"`{path}` does not exist.", path=path) from None
    except OSError as error:
        raise InvalidCheckpoint(f"`{path}` cannot be opened:", f"{error.strerror}.") from error
    return fd
