"""A configuration for a model whose layers were cut and stacked: their number, and what it lists
for each of them.

Configurations call the same thing by many names; what is changed is what has the right name and
the right value, and what cannot be told is noted, never guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from zoo.families import COMPONENTS, family_of

_COUNTS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "depth",
    "encoder_layers",
    "num_encoder_layers",
    "decoder_layers",
    "num_decoder_layers",
)
"""What configurations call the number of layers."""
_UP_TO = ("max_window_layers",)
"""Numbers of first layers that are all layers where they equal their number."""
_INDEXES = ("mlp_only_layers", "full_attn_idxs", "cross_attention_layers", "hybrid_layer_ids")
"""Lists of the layers that are of a kind."""
_WORDS = {"vision": ("vision", "visual"), "text": ("text", "language", "llm"), "audio": ("audio",)}


@dataclass(frozen=True, slots=True)
class LayersOf:
    """Layers that a slice takes."""

    config: Mapping[str, Any]
    """Of the model they come from."""
    start: int
    length: int
    count: int
    """Layers that model has."""


def with_layers(
    config: Mapping[str, Any], taken: Sequence[LayersOf], before: int, module: str | None = None
) -> tuple[dict[str, Any], list[str]]:
    """A model's configuration for the layers taken, and what could not be told.

    Args:
        before: layers that the model has.
        module: the part of the model that the layers are of.
    """
    total = sum(part.length for part in taken)
    found = deepcopy(dict(config))
    if len(taken) == 1 and (taken[0].start, total) == (0, before):
        return found, []
    sections = [path for path in _sections(found) if _concerns(path, module)]
    places = [
        (path, key) for path in sections for key in _COUNTS if _at(found, path).get(key) == before
    ]
    # An encoder and a decoder have counts of their own, which may be equal: `decoder_layers`.
    if own := [(path, key) for path, key in places if module is not None and module in key]:
        places = own
    elif module in ("encoder", "decoder"):
        places = [(path, key) for path, key in places if "coder" not in key]
    if len({path for path, _ in places}) != 1:
        places = _known(found, before, module) or places
    if len({path for path, _ in places}) != 1:
        where = " and ".join(".".join((*path, key)) for path, key in places) or "nothing"
        of = f" of `{module}`" if module else ""
        return found, [
            f"config.json has {where} that says how many layers{of} there are: "
            f"make it {total} by hand"
        ]
    path = places[0][0]
    section = _at(found, path)
    for _, key in places:
        section[key] = total
    for key in _UP_TO:
        if section.get(key) == before:
            section[key] = total
    for key, value in section.items():
        if key in _INDEXES and isinstance(value, list):
            section[key] = _indexes(taken, path, key)
        elif isinstance(value, list) and len(value) == before and _per_layer(taken, path, key):
            section[key] = [
                entry
                for part in taken
                for entry in _at(part.config, path)[key][part.start : part.start + part.length]
            ]
    return found, []


def _known(
    config: Mapping[str, Any], before: int, module: str | None
) -> list[tuple[tuple[str, ...], str]]:
    """Where the data of the model's family says that the layers of a module are counted."""
    family = family_of(config, ())
    if family is None or not family.known:
        return []
    found: dict[tuple[tuple[str, ...], str], None] = {}
    for stack in family.stacks:
        if stack.key is not None and stack.count == before:
            *path, key = stack.key.split(".")
            if module is None or stack.component == COMPONENTS.get(module, module):
                found[tuple(path), key] = None
    return list(found)


def _sections(config: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of the maps in a configuration, its own first."""
    yield path
    for key, value in config.items():
        if isinstance(value, Mapping) and key.endswith(("config", "encoder", "decoder")):
            yield from _sections(value, (*path, key))


def _concerns(path: tuple[str, ...], module: str | None) -> bool:
    """Whether a section may speak of a module: one named after another part does not."""
    kinds = [kind for kind, words in _WORDS.items() if any(w in (module or "") for w in words)]
    about = [k for k, words in _WORDS.items() if any(w in part for part in path for w in words)]
    return not about or about == (kinds or ["text"])


def _per_layer(taken: Sequence[LayersOf], path: tuple[str, ...], key: str) -> bool:
    """Whether every model lists one entry per layer."""
    return all(
        isinstance(entries := _at(part.config, path).get(key), list) and len(entries) == part.count
        for part in taken
    )


def _indexes(taken: Sequence[LayersOf], path: tuple[str, ...], key: str) -> list[int]:
    found, offset = [], 0
    for part in taken:
        listed = _at(part.config, path).get(key) or []
        found += [
            offset + layer - part.start
            for layer in listed
            if part.start <= layer < part.start + part.length
        ]
        offset += part.length
    return found


def _at(config: Mapping[str, Any], path: Sequence[str]) -> Any:
    for key in path:
        config = config.get(key, {})
    return config
