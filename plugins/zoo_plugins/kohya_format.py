"""Adapters for diffusion models: one safetensors file, as kohya's scripts, LyCORIS or diffusers'
`save_lora_weights` write it; alone, or in a directory with a card.

Such a file looks like any other safetensors file; its tensors' names tell it apart, so this format
is asked before that of whole models (plugins load by name).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from zoo.checkpoint import Checkpoint, Format
from zoo.hookspecs import hookimpl

_METADATA = "lora_adapter_metadata"
_FIELDS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora")
_OF_MODELS = ("config.json", "adapter_config.json", "model_index.json")
_FIRST = 1 << 16
"""Bytes at the start of a file in which a header that is worth reading has named a tensor."""


class KohyaFormat(Format):
    """The factors, kept as they are."""

    name = "kohya"

    def matches(self, path: Path) -> bool:
        if path.is_dir():
            # As a hub has it: the file with a card beside it. A model has a configuration.
            alone = sorted(path.glob("*.safetensors"))
            known = any((path / name).exists() for name in _OF_MODELS)
            return len(alone) == 1 and not known and self.matches(alone[0])
        if not path.is_file() or path.suffix not in (".safetensors", ""):
            return False
        with path.open("rb") as file:
            start = file.read(_FIRST)
        if not any(word in start for word in (b"lora", b"lycoris", b'"ss_')):
            return False
        from zoo.adapters.kohya_layout import is_kohya
        from zoo.checkpoints.safetensors_header import read_header
        from zoo.errors import ZooError

        try:
            return is_kohya(t.name for t in read_header(path).tensors)
        except ZooError:
            return False  # whichever format reads it will say what is wrong

    def open(self, path: Path) -> Checkpoint:
        from dataclasses import replace

        from zoo.adapters.adapter import NOTE
        from zoo.checkpoints.safetensors import open_path

        found = open_path(path)
        metadata = next(iter(found.headers.values())).metadata
        layout: dict[str, object] = {"layout": "kohya"}
        if configs := _configs(metadata.get(_METADATA, "")):
            layout["configs"] = configs
        found.opened = replace(found.opened, notes={**found.opened.notes, NOTE: layout})
        return found


def _configs(text: str) -> dict[str, dict[str, object]]:
    """What diffusers writes of an adapter's ranks and alphas, by network: `unet.lora_alpha`."""
    import json

    try:
        content = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    found: dict[str, dict[str, object]] = {}
    for key, value in content.items() if isinstance(content, dict) else ():
        network, _, field = key.partition(".")
        if field in _FIELDS:
            found.setdefault(network, {"peft_type": "LORA"})[field] = value
    return found


@hookimpl
def zoo_register_formats(register: Callable[[Format], None]) -> None:
    register(KohyaFormat())
