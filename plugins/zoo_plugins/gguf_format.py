"""GGUF files, llama.cpp's format: unquantized ones and Q8_0.

Tensors get the names and values they have in transformers, for the families in
`zoo/gguf/families.py`; configuration and tokenizer are made from the metadata. A file of another
architecture keeps llama.cpp's names, and the version's notes say so. Weights of fewer bits are
refused from the header: a merge of them would be a merge of rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from zoo.checkpoint import Checkpoint, Format
from zoo.hookspecs import hookimpl


class GgufFormat(Format):
    """Written anew as safetensors when registered."""

    name = "gguf"

    def matches(self, path: Path) -> bool:
        if path.is_dir():
            others = ("*.safetensors", "*.safetensors.index.json", "*.bin")
            return any(path.glob("*.gguf")) and not any(any(path.glob(o)) for o in others)
        if path.suffix == ".gguf":
            return True
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"

    def open(self, path: Path) -> Checkpoint:
        from zoo.gguf.opening import open_gguf

        return open_gguf(path)


@hookimpl
def zoo_register_formats(register: Callable[[Format], None]) -> None:
    register(GgufFormat())
