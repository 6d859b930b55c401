"""torch checkpoints (`.bin .pt .pth .ckpt .th .tar`), through the `weights_only` loader alone.

A pickle can run any code while it loads; torch's `weights_only` loader knows tensors, numbers and
containers and refuses the rest. What it refuses, we refuse.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.checkpoint import Checkpoint, Format, MemoryCheckpoint, Opened
from zoo.errors import InvalidCheckpoint
from zoo.hookspecs import hookimpl

if TYPE_CHECKING:
    import torch

SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".th", ".tar")
WEIGHTS = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"
NESTED = ("state_dict", "model_state_dict", "model", "module", "net", "params", "weights")
"""Where training scripts keep the state dict, in the order we look."""
PREFIX = "module."
"""DataParallel puts it before every name."""

_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The pickled magic number that torch wrote before it wrote zip files (1.6)."""
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_SAVE_WEIGHTS = (
    "Where you trust it, load it and save its weights alone: "
    "`torch.save(model.state_dict(), 'weights.pt')`."
)
_ROOM = 64 << 20
"""Bytes a small file may unfold to."""
_UNFOLDING = 16
"""How many times its own size a large file may unfold to: tied weights share bytes."""


class TorchFormat(Format):
    """The state dict of a torch checkpoint; it is written anew as safetensors."""

    name = "torch"

    def matches(self, path: Path) -> bool:
        if path.is_dir():
            return not any(path.glob("*.safetensors")) and bool(_weight_files(path))
        if path.suffix in SUFFIXES:
            return True
        with path.open("rb") as file:
            start = file.read(256)
        zipped = start.startswith(b"PK\x03\x04") and b"data.pkl" in start
        return zipped or start.startswith(_LEGACY)

    def open(self, path: Path) -> Checkpoint:
        from zoo.checkpoints.auxiliary import auxiliary_files
        from zoo.checkpoints.safetensors import read_config

        files = _weight_files(path) if path.is_dir() else [path]
        checkpoint = open_pickles(path, files)
        if not path.is_dir():
            return checkpoint
        used = [file.relative_to(path).as_posix() for file in files]
        auxiliary, skipped = auxiliary_files(path, weights=[*used, INDEX])
        notes = dict(checkpoint.opened.notes)
        if skipped:
            notes["skipped"] = skipped
        config = read_config(path / "config.json")
        checkpoint.opened = Opened(str(path), {}, auxiliary, config, notes)
        return checkpoint


def open_pickles(path: Path, files: Sequence[Path]) -> MemoryCheckpoint:
    """The tensors of torch files together.

    Args:
        path: what to call the whole in messages.
    Raises:
        InvalidCheckpoint: a tensor is in two files, or a file is refused.
    """
    from zoo.digest import PREFIX as SHA256
    from zoo.digest import flat_key_of_file

    notes: dict[str, Any] = {}
    state: dict[str, torch.Tensor] = {}
    for file in files:
        for name, tensor in _state_of(file, notes).items():
            if name in state:
                raise InvalidCheckpoint(
                    f"Tensor `{name}` is in two files of `{path}`:",
                    "one of them would be lost.",
                    "Name the file you mean, or remove the other.",
                    tensor=name,
                )
            state[name] = tensor
    digests = [SHA256 + flat_key_of_file(file).removeprefix("flat:") for file in files]
    notes["source_sha256"] = dict(zip((f.name for f in files), digests, strict=True))
    if ties := _ties(state):
        notes["ties"] = ties
    return MemoryCheckpoint(state, Opened(str(path), notes=notes))


@hookimpl
def zoo_register_formats(register: Callable[[Format], None]) -> None:
    register(TorchFormat())


def _weight_files(directory: Path) -> list[Path]:
    """The files that make up the model: what the index says, the usual name, or the only one."""
    if (directory / INDEX).is_file():
        from zoo.checkpoints.safetensors import read_index

        return [directory / name for name in sorted(set(read_index(directory / INDEX).values()))]
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    found = [f for f in sorted(directory.iterdir()) if f.suffix in SUFFIXES and f.is_file()]
    return found if len(found) == 1 else []


def _state_of(path: Path, notes: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Name -> tensor of one file, checked; what was done to get it goes into `notes`."""
    import torch

    dropped = list(notes.get("dropped", ()))
    keys, found = _find(_load(path), path, dropped)
    state: dict[str, torch.Tensor] = {}
    for name, value in found.items():
        if isinstance(value, torch.Tensor):
            state[str(name)] = _plain(str(name), value, path)
        else:
            dropped.append(".".join([*keys, str(name)]))
    if state and all(name.startswith(PREFIX) for name in state):
        state = {name.removeprefix(PREFIX): t for name, t in state.items()}
        notes["stripped_prefix"] = PREFIX
    if keys:
        notes["state_dict_key"] = ".".join(keys)
    if dropped:
        notes["dropped"] = sorted(dropped)
    _check_size(state, path)
    return {name: t.contiguous() for name, t in state.items()}


def _load(path: Path) -> Any:
    import warnings

    import torch

    zipped = zipfile.is_zipfile(path)
    if zipped:
        _check_archive(path)
    try:
        with warnings.catch_warnings():
            # torch warns of old protocols and types; a file from 2019 is not the reader's fault.
            warnings.simplefilter("ignore")
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipped)
    except MemoryError:
        raise
    except Exception as error:
        # torch raises half a dozen types here, and a hostile file provokes others.
        refused = _GLOBAL.search(str(error))
        if refused:
            raise InvalidCheckpoint(
                f"`{path}` holds code, not only weights:",
                f"loading it would import `{refused[1]}`.",
                _SAVE_WEIGHTS,
                path=path,
                refused=refused[1],
            ) from None
        if "Unsupported operand" in str(error):
            raise InvalidCheckpoint(
                f"`{path}` is pickled in a way that torch's safe loader does not read:",
                "whether it holds code cannot be told; `torch.save` writes pickle protocol 2.",
                _SAVE_WEIGHTS,
                path=path,
            ) from None
        raise InvalidCheckpoint(
            f"`{path}` is no readable torch checkpoint:",
            f"{_last_line(error)}.",
            "Download or save it again.",
            path=path,
        ) from None


def _check_archive(path: Path) -> None:
    """torch stores, it never compresses: a compressed archive is not torch's, or is a bomb."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [i.filename for i in archive.infolist() if i.compress_type != 0]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InvalidCheckpoint(f"`{path}` is a damaged archive:", f"{error}.", path=path) from None
    if packed:
        raise InvalidCheckpoint(
            f"`{path}` is a compressed archive:",
            "torch writes its checkpoints uncompressed.",
            "Unpack it and give the weights file inside.",
            path=path,
        )


def _find(content: Any, path: Path, dropped: list[str]) -> tuple[list[str], Mapping[Any, Any]]:
    """The state dict and the keys that lead to it; the rest of what is passed goes to `dropped`."""
    import torch

    keys: list[str] = []
    while isinstance(content, Mapping):
        nested = [k for k, v in content.items() if isinstance(v, Mapping) and _holds_tensors(v)]
        key = next((k for k in NESTED if k in nested), None)
        if key is None and any(isinstance(v, torch.Tensor) for v in content.values()):
            return keys, content
        if key is None and len(nested) == 1:
            key = nested[0]
        if key is None:
            if nested:
                raise InvalidCheckpoint(
                    f"`{path}` holds several sets of weights:",
                    ", ".join(f"`{k}`" for k in map(str, nested)) + ".",
                    "Save the one you mean alone: `torch.save(checkpoint[KEY], 'weights.pt')`.",
                    path=path,
                    keys=[str(k) for k in nested],
                )
            break
        dropped.extend(".".join([*keys, str(k)]) for k in content if k != key)
        keys.append(str(key))
        content = content[key]
    raise InvalidCheckpoint(
        f"`{path}` holds no weights:",
        "no map from names to tensors is in it.",
        "Save the weights as `torch.save(model.state_dict(), 'weights.pt')`.",
        path=path,
    )


def _holds_tensors(value: Mapping[Any, Any], depth: int = 4) -> bool:
    import torch

    return any(
        isinstance(v, torch.Tensor)
        or (depth > 0 and isinstance(v, Mapping) and _holds_tensors(v, depth - 1))
        for v in value.values()
    )


def _plain(name: str, tensor: torch.Tensor, path: Path) -> torch.Tensor:
    """The tensor as dense bytes in memory, or a refusal that names it."""
    import torch

    from zoo.dtypes import dtype_name
    from zoo.names import tensor_name_problem

    problem = tensor_name_problem(name)
    if not problem and (tensor.layout != torch.strided or tensor.is_quantized):
        problem = "it is sparse or quantized, which safetensors cannot hold"
    if not problem and tensor.device.type != "cpu":
        problem = f"it has no data (device {tensor.device.type})"
    if not problem:
        try:
            dtype_name(tensor.dtype)
        except KeyError:
            problem = f"safetensors has no type {tensor.dtype}"
    if problem:
        raise InvalidCheckpoint(
            f"Tensor {name!a} of `{path}` cannot be stored:", f"{problem}.", tensor=name, path=path
        )
    return tensor.detach().resolve_conj().resolve_neg()


def _check_size(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """A few bytes can claim to be a huge tensor by strides of zero."""
    total = sum(t.numel() * t.element_size() for t in state.values())
    size = path.stat().st_size
    if total > max(_ROOM, _UNFOLDING * size):
        raise InvalidCheckpoint(
            f"`{path}` has {size:,} bytes and claims tensors of {total:,}:",
            "repeated strides would fill the disk.",
            "Save it again with `contiguous()` tensors if it is yours.",
            path=path,
        )


def _ties(state: Mapping[str, torch.Tensor]) -> list[list[str]]:
    """Names that share all their bytes, such as an embedding and its tied head."""
    places: dict[tuple[Any, ...], list[str]] = {}
    for name, t in sorted(state.items()):
        if t.numel():
            place = (t.data_ptr(), t.dtype, tuple(t.shape), t.stride())
            places.setdefault(place, []).append(name)
    return [names for names in places.values() if len(names) > 1]


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("Unsupported")] or lines[:1]
    return (told[0] if told else type(error).__name__)[:200].rstrip(".")
