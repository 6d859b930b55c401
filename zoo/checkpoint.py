"""A lazy view of a checkpoint: names, types, shapes, and where the bytes are.

Opening one reads headers only. Bytes are read by offset into buffers the caller owns, so a model
of any size costs the memory of one block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from zoo.dtypes import DTYPES
from zoo.errors import InvalidCheckpoint

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a checkpoint."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str = ""
    """Relative path of the weights file that holds it; empty when in memory."""
    offset: int = 0
    """First byte in that file (absolute, header included)."""
    written_as: str = ""
    """The type a merge writes it in, where that is not `dtype`: values that are worked out have
    more digits than the model they belong to keeps."""

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return (self.elements * DTYPES[self.dtype].bits + 7) // 8


@dataclass(frozen=True)
class Opened:
    """What surrounds the tensors of a checkpoint; filled by the format that opened it."""

    origin: str
    """Path or id as the user gave it."""
    weight_files: Mapping[str, Path] = field(default_factory=dict)
    """Files the store may keep as they are: relative path -> path. Safetensors only; empty when
    the weights must be rewritten (pickles, memory)."""
    auxiliary: Mapping[str, Path] = field(default_factory=dict)
    """Other files to carry: relative path -> path (config, tokenizer, card)."""
    config: Mapping[str, Any] | None = None
    """Parsed `config.json`, or None."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What the format did: `stripped_prefix`, `state_dict_key`, `source_sha256`, `ties`."""


class Checkpoint(ABC):
    """Lazy checkpoint. Use as a context manager, or `close()` it."""

    tensors: Mapping[str, TensorInfo]
    """By name, names ascending."""
    opened: Opened

    @abstractmethod
    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with raw little-endian bytes of a tensor from byte `start` on.

        Raises:
            InvalidCheckpoint: the file ended early or is gone.
        """

    def close(self) -> None:  # noqa: B027  (nothing to release is the common case)
        """Release files. Reading afterwards is an error."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Format(ABC):
    """A checkpoint format, offered by a plugin through `zoo_register_formats`."""

    name: str

    @abstractmethod
    def matches(self, path: Path) -> bool:
        """Whether this format reads the file or directory; looks at names and first bytes only."""

    @abstractmethod
    def open(self, path: Path) -> Checkpoint:
        """A lazy view.

        Raises:
            InvalidCheckpoint: says what is wrong, where, and how to mend it.
        """


class MemoryCheckpoint(Checkpoint):
    """Tensors that are already in memory, behind the same interface."""

    def __init__(self, state: Mapping[str, torch.Tensor], opened: Opened | None = None) -> None:
        from zoo.dtypes import dtype_name

        self._state = {name: state[name].detach() for name in sorted(state)}
        self.tensors = {
            name: TensorInfo(name, dtype_name(t.dtype), tuple(t.shape))
            for name, t in self._state.items()
        }
        self.opened = opened or Opened("memory")

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        import torch

        if not len(buffer):
            return  # torch refuses to look at no bytes
        t = self._state[name].contiguous().cpu().reshape(-1).view(torch.uint8)
        out = torch.frombuffer(buffer, dtype=torch.uint8)
        out.copy_(t[start : start + len(buffer)])


def state_of(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint in memory, name -> tensor, names ascending.

    Raises:
        InvalidCheckpoint: torch has no type for one of them.
    """
    return {name: tensor_of(checkpoint, info) for name, info in checkpoint.tensors.items()}


def tensor_of(checkpoint: Checkpoint, info: TensorInfo) -> torch.Tensor:
    """One tensor of a checkpoint, in memory of its own.

    Raises:
        InvalidCheckpoint: torch has no type for it.
    """
    import torch

    from zoo.dtypes import torch_dtype

    try:
        dtype = torch_dtype(info.dtype)
    except KeyError:
        raise InvalidCheckpoint(
            f"Tensor `{info.name}` of `{checkpoint.opened.origin}` cannot be loaded:",
            f"torch has no type {info.dtype}.",
            tensor=info.name,
        ) from None
    if info.elements == 0:
        return torch.empty(info.shape, dtype=dtype)
    data = bytearray(info.nbytes)
    checkpoint.read_into(info.name, 0, memoryview(data))
    return torch.frombuffer(data, dtype=dtype).reshape(info.shape)
