"""An adapter that was opened: its tensors, its layout, its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from zoo.adapters.change import Change
from zoo.adapters.peft_config import CONFIG, PeftConfig, read_peft_config
from zoo.adapters.updates import LowRank
from zoo.checkpoint import Checkpoint, TensorInfo
from zoo.checkpoints.safetensors import read_config
from zoo.dtypes import DTYPES
from zoo.errors import IncompatibleModels, InvalidCheckpoint

KIND = "adapter"
NOTE = "adapter"
"""The key of a checkpoint's notes, and of a version's, that says what layout its factors have."""
Layout = Literal["peft", "kohya"]
MOST_LISTED = 8


@dataclass(frozen=True)
class Adapter:
    """Factors, and how they are to be read."""

    checkpoint: Checkpoint
    layout: Layout
    config: PeftConfig | None = None
    """Of the layout `peft`."""
    configs: Mapping[str, PeftConfig] = field(default_factory=dict)
    """Of the layout `kohya`: by network, where the file says more than its tensors do."""

    @property
    def origin(self) -> str:
        return self.checkpoint.opened.origin

    def changes(
        self, base: Mapping[str, TensorInfo], base_config: Mapping[str, Any] | None, label: str
    ) -> dict[str, Change]:
        """What it does to each tensor of a base; from headers.

        Args:
            label: of the base.
        Raises:
            IncompatibleModels: a tensor that the base lacks, or has in another shape.
            InvalidCheckpoint: half a pair of factors, or a tensor that no such adapter has.
        """
        tensors = self.checkpoint.tensors
        for info in tensors.values():
            if not DTYPES[info.dtype].merges:
                raise InvalidCheckpoint(
                    f"Tensor `{info.name}` of `{self.origin}` is {info.dtype}:",
                    "an adapter is made of floats.",
                    tensor=info.name,
                )
        if self.layout == "peft":
            from zoo.adapters.peft_layout import peft_changes

            assert self.config is not None
            made, problems = peft_changes(tensors, self.config, base, base_config, self.origin)
        else:
            from zoo.adapters.kohya_layout import kohya_changes

            made, problems = kohya_changes(self.checkpoint, base, self.configs)
        for name, change in made.items():
            problems += change.problems(base.get(name))
        if problems:
            shown = "\n".join(f"  - {p}" for p in problems[:MOST_LISTED])
            more = len(problems) - MOST_LISTED
            raise IncompatibleModels(
                f"`{self.origin}` is no adapter of `{label}`, {len(problems)} "
                f"problem{'s' * (len(problems) > 1)}:\n{shown}"
                + (f"\n  - and {more} more\n" if more > 0 else "\n"),
                "What it adds would have no place.",
                "Name the base it was trained on: `--base REF`.",
                problems=problems,
            )
        return made


def adapter_in(checkpoint: Checkpoint, config: Path | None = None) -> Adapter | None:
    """The adapter that a checkpoint is; None for a model.

    Args:
        config: where its `adapter_config.json` is; among the files beside it by default.
    Raises:
        UnsupportedFormat: an adapter of a type that cannot be added to weights.
        InvalidCheckpoint: its configuration is missing, or wrong.
    """
    layout = _layout(checkpoint.opened.notes)
    if layout is None:
        return None
    origin = checkpoint.opened.origin
    if layout == "kohya":
        said = checkpoint.opened.notes[NOTE].get("configs") or {}
        configs = {network: read_peft_config(c, origin) for network, c in said.items()}
        return Adapter(checkpoint, "kohya", None, configs)
    place = config or checkpoint.opened.auxiliary.get(CONFIG)
    content = read_config(place) if place is not None else None
    if content is None:
        raise InvalidCheckpoint(
            f"`{origin}` has no `{CONFIG}`:",
            "nothing says what its factors are multiplied by.",
            "Export the adapter again: `model.save_pretrained(DIR)`.",
            path=origin,
        )
    return Adapter(checkpoint, "peft", read_peft_config(content, origin))


def _layout(notes: Mapping[str, Any]) -> str | None:
    said = notes.get(NOTE)
    return said.get("layout") if isinstance(said, Mapping) else None


def is_adapter(notes: Mapping[str, Any]) -> bool:
    """Whether a version's or a checkpoint's notes say that it is an adapter's factors."""
    return _layout(notes) is not None


def about(adapter: Adapter, changes: Mapping[str, Change]) -> dict[str, Any]:
    """What is worth keeping with a version: layout, method, ranks; plain data."""
    ranks = {u.rank for c in changes.values() for u in c.updates if u.rank is not None}
    kinds = {type(u) for c in changes.values() for u in c.updates}
    found: dict[str, Any] = {
        **adapter.checkpoint.opened.notes[NOTE],
        "method": adapter.config.method if adapter.config else _method(kinds),
        "targets": len(changes),
    }
    if ranks:
        found["rank"] = max(ranks)
    if any(c.magnitude for c in changes.values()):
        found["dora"] = True
    return {NOTE: found}


def _method(kinds: set[type]) -> str:
    from zoo.adapters.updates import Hadamard, Kronecker

    for kind, name in ((LowRank, "LORA"), (Hadamard, "LOHA"), (Kronecker, "LOKR")):
        if kind in kinds:
            return name
    return "FULL"
