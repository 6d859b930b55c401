"""Which files of a repository make up the model, so that nothing else is downloaded.

The rules are those by which a directory here is read: an index says which safetensors files count,
without one all beside the configuration do; torch files count where there is no safetensors file;
files of other frameworks never do. `zoo.checkpoints.auxiliary` says what is carried beside them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from zoo.checkpoints.auxiliary import LARGEST, WEIGHT_SUFFIXES
from zoo.checkpoints.safetensors import LARGEST_JSON
from zoo.errors import InvalidCheckpoint, NotFound, UnsupportedFormat
from zoo.hub.listing import HubFile
from zoo.overlays.overlay import FOLDER

PIPELINE = "model_index.json"
"""A diffusers pipeline: its components are folders."""
CONFIGURATIONS = ("config.json", "adapter_config.json", PIPELINE)
"""Without these a model is another one, so that they cannot be left out for their size."""
INDEX = ".safetensors.index.json"
TORCH_INDEX = "pytorch_model.bin.index.json"
TORCH = (".bin", ".pt", ".pth", ".ckpt", ".th", ".tar")
_VARIANT = re.compile(r"\.(?:fp16|bf16|fp32|ema|non_ema)(?=[.-])")
"""diffusers and transformers keep other precisions beside the usual file, under this name."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The files of a model, by their path in its directory."""

    weights: Mapping[str, HubFile]
    beside: Mapping[str, HubFile]
    pickled: bool
    """Whether the weights are in torch's own files, which have no header to look at."""

    @property
    def all(self) -> dict[str, HubFile]:
        return {**self.weights, **self.beside}


def choose(
    files: Mapping[str, HubFile], read_index: Callable[[HubFile], Collection[str]], source: str
) -> Chosen:
    """The files of the model.

    Args:
        files: by path, all inside the model's directory.
        read_index: gives the files that an index names.
        source: for messages.
    Raises:
        UnsupportedFormat: no weights that zoo reads.
        InvalidCheckpoint: an index names what is not there.
    """
    shown = {p: f for p, f in files.items() if not _hidden(p)}
    for path in CONFIGURATIONS:
        if path in shown and shown[path].size > LARGEST_JSON:
            raise InvalidCheckpoint(
                f"`{path}` of `{source}` has {shown[path].size:,} bytes:",
                f"no configuration is larger than {LARGEST_JSON:,}.",
                source=source,
                path=path,
            )
    weights = _weights(shown, read_index, source)
    beside = {
        path: file
        for path, file in shown.items()
        if path not in weights and file.size <= LARGEST and _describes(path, weights)
    }
    pickled = any(path.endswith(TORCH) for path in weights)
    return Chosen(weights, beside, pickled)


def choose_path(files: Mapping[str, HubFile], path: str, source: str) -> dict[str, HubFile]:
    """What lies below a folder of a repository, by path from there; or the one file.

    Raises:
        NotFound: there is no such path.
    """
    if path in files:
        return {PurePosixPath(path).name: files[path]}
    below = {p.removeprefix(path + "/"): f for p, f in files.items() if p.startswith(path + "/")}
    if not below:
        raise NotFound(f"`{source}` holds no `{path}`.", source=source, path=path)
    return below


def _weights(
    files: Mapping[str, HubFile], read_index: Callable[[HubFile], Collection[str]], source: str
) -> dict[str, HubFile]:
    folders = {""}
    if PIPELINE in files:
        folders = {p.rpartition("/")[0] for p in files if p.count("/") == 1}
    found: dict[str, HubFile] = {}
    for folder in sorted(folders):
        own = {p: f for p, f in files.items() if p.rpartition("/")[0] == folder}
        found |= _of_folder(own, files, read_index, source)
    if not found:
        raise UnsupportedFormat(
            f"`{source}` holds no weights that zoo reads:",
            _others(files),
            "Name the file that is meant, `hf://org/model/FILE`, or another repository.",
            source=source,
        )
    if any(p.endswith(".safetensors") for p in found):
        overlays = (p for p in files if p.startswith(FOLDER) and p.endswith(".safetensors"))
        found |= {p: files[p] for p in overlays}
    return found


def _of_folder(
    own: Mapping[str, HubFile],
    files: Mapping[str, HubFile],
    read_index: Callable[[HubFile], Collection[str]],
    source: str,
) -> dict[str, HubFile]:
    """The weights of one folder; its index may name files in others."""

    def indexed(path: str) -> dict[str, HubFile]:
        folder = path.rpartition("/")[0]
        named = sorted({f"{folder}/{n}" if folder else n for n in read_index(own[path])})
        if lacking := [n for n in named if n not in files]:
            raise InvalidCheckpoint(
                f"`{source}` is incomplete:",
                f"`{path}` names `{ascii(lacking[0])[1:-1]}`, which is not there.",
                source=source,
            )
        return {n: files[n] for n in named}

    safetensors = [p for p in own if p.endswith(".safetensors") and not _VARIANT.search(p)]
    safetensors = safetensors or [p for p in own if p.endswith(".safetensors")]
    indexes = [p for p in own if p.endswith(INDEX) and not _VARIANT.search(p)]
    usual = [p for p in indexes if p.endswith("/model" + INDEX) or p == "model" + INDEX]
    if len(usual or indexes) == 1:
        return indexed((usual or indexes)[0])
    if safetensors:
        return {p: own[p] for p in sorted(safetensors)}
    for path in own:
        if path.endswith(TORCH_INDEX):
            return indexed(path)
    torch = [p for p in own if p.endswith(TORCH)]
    named = [p for p in torch if p.endswith("pytorch_model.bin")]
    gguf = [p for p in own if p.endswith(".gguf")]
    for only in (named, torch, gguf):
        if len(only) == 1:
            return {only[0]: own[only[0]]}
    return {}


def _others(files: Mapping[str, HubFile]) -> str:
    """What there is instead of weights that could be used."""
    found = [p for p in files if PurePosixPath(p).suffix.lower() in WEIGHT_SUFFIXES]
    if not found:
        return "there are none."
    shown = ", ".join(f"`{p}`" for p in found[:5])
    return f"there are {len(found)} files of which none is the usual one: {shown}."


def _describes(path: str, weights: Collection[str]) -> bool:
    """Whether a file beside the weights is carried; an index only with its weights."""
    name = PurePosixPath(path).name
    stem = name.removesuffix(".index.json")
    if stem != name and PurePosixPath(stem).suffix == ".safetensors":
        return any(p.endswith(".safetensors") for p in weights) and not _VARIANT.search(name)
    if name == TORCH_INDEX:
        return any(p.endswith(TORCH) for p in weights)
    return PurePosixPath(stem).suffix.lower() not in WEIGHT_SUFFIXES


def _hidden(path: str) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.split("/"))
