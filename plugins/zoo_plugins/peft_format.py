"""PEFT adapters: a directory with `adapter_config.json` and `adapter_model.safetensors` or `.bin`.

Loaded before the formats of whole models (plugins load by name): such a directory may hold a
tokenizer and other weights too, and what it is called for is the adapter.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from zoo.checkpoint import Checkpoint, Format
from zoo.hookspecs import hookimpl

STEM = "adapter_model"
_CONFIG = "adapter_config.json"


class PeftFormat(Format):
    """The factors, kept as they are."""

    name = "peft"

    def matches(self, path: Path) -> bool:
        folder = path if path.is_dir() else path.parent
        if path.is_file() and not path.name.startswith(f"{STEM}."):
            return False
        return (folder / _CONFIG).is_file() and _weights(folder) is not None

    def open(self, path: Path) -> Checkpoint:
        from zoo.adapters.adapter import NOTE
        from zoo.checkpoint import MemoryCheckpoint, Opened, state_of
        from zoo.checkpoints.auxiliary import auxiliary_files
        from zoo.checkpoints.safetensors import SafetensorsCheckpoint

        folder = path if path.is_dir() else path.parent
        weights = _weights(folder)
        assert weights is not None
        found, skipped = auxiliary_files(folder, weights=[weights])
        beside = {name: place for name, place in found.items() if "/" not in name}
        notes: dict[str, object] = {NOTE: {"layout": "peft"}}
        if skipped:
            notes["skipped"] = skipped
        if weights.endswith(".safetensors"):
            files = {weights: folder / weights}
            return SafetensorsCheckpoint(Opened(str(path), files, beside, None, notes))
        from zoo_plugins.torch_format import TorchFormat

        with TorchFormat().open(folder / weights) as loaded:
            opened = Opened(str(path), {}, beside, None, {**loaded.opened.notes, **notes})
            return MemoryCheckpoint(state_of(loaded), opened)


@hookimpl
def zoo_register_formats(register: Callable[[Format], None]) -> None:
    register(PeftFormat())


def _weights(folder: Path) -> str | None:
    """The weights file of an adapter's directory."""
    names = (f"{STEM}.safetensors", f"{STEM}.bin")
    return next((name for name in names if (folder / name).is_file()), None)
