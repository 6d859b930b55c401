"""Safetensors: one file, shards with an index, or a Hugging Face directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from zoo.checkpoint import Checkpoint, Format
from zoo.hookspecs import hookimpl


class SafetensorsFormat(Format):
    """Files are kept as they are, byte for byte."""

    name = "safetensors"

    def matches(self, path: Path) -> bool:
        if path.is_dir():
            return any(path.glob("*.safetensors")) or any(path.glob("*.safetensors.index.json"))
        if path.suffix == ".safetensors":
            return True
        with path.open("rb") as file:
            start = file.read(9)
        # A header is at most 100 MB, so the upper four bytes of its length are zero.
        return start[4:] == b"\0\0\0\0{"

    def open(self, path: Path) -> Checkpoint:
        from zoo.checkpoints.safetensors import open_path

        return open_path(path)


@hookimpl
def zoo_register_formats(register: Callable[[Format], None]) -> None:
    register(SafetensorsFormat())
