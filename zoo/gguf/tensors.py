"""Which tensors of a model lie in which tensors of a GGUF file, and what was done to them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from zoo.gguf.families import Family
from zoo.gguf.header import GgufTensor

Change = Literal["", "permuted", "shifted"]

_LAYER = re.compile(r"^(blk|model\.layers)\.(\d+)\.")
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_SUFFIXES = (".weight", ".bias")
ROPE = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Frequencies, which transformers works out from the configuration."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor of a model as it lies in a file."""

    name: str
    """As the model calls it."""
    source: GgufTensor
    shape: tuple[int, ...]
    start: int = 0
    """Its first element in the source: experts lie one after another."""
    change: Change = ""
    heads: int = 0
    """Of a permuted tensor."""


def pieces(
    tensors: Iterable[GgufTensor], family: Family | None, heads: Mapping[str, int]
) -> tuple[list[Piece], list[str]]:
    """The model's tensors, and the names of those that the family does not know.

    Args:
        family: None keeps llama.cpp's names and values.
        heads: `q` and `k` -> number of heads.
    """
    found: list[Piece] = []
    unknown: list[str] = []
    for tensor in tensors:
        if family is None:
            found.append(Piece(tensor.name, tensor, tensor.shape))
            continue
        if tensor.name in ROPE:
            continue
        stem, suffix, layer = _parted(tensor.name)
        if stem in family.experts:
            count, *shape = tensor.shape
            size = tensor.elements // count if count else 0
            for expert in range(count):
                name = _filled(family.experts[stem], layer).replace("@", str(expert)) + suffix
                found.append(Piece(name, tensor, tuple(shape), expert * size))
        elif stem in family.names:
            name = _filled(family.names[stem], layer) + suffix
            change = change_of(stem, suffix, family)
            own = heads["q" if stem.endswith("_q") else "k"] if change == "permuted" else 0
            found.append(Piece(name, tensor, tensor.shape, 0, change, own))
        else:
            unknown.append(tensor.name)
            found.append(Piece(tensor.name, tensor, tensor.shape))
    return found, unknown


def change_of(stem: str, suffix: str, family: Family) -> Change:
    """What llama.cpp does to the values of a tensor of this name."""
    if family.permuted and stem in ("blk.#.attn_q", "blk.#.attn_k"):
        return "permuted"
    if family.shifted and stem.endswith("norm") and suffix == ".weight":
        return "shifted"
    return ""


@dataclass(frozen=True, slots=True)
class Target:
    """A tensor of a GGUF file to be written."""

    name: str
    parts: tuple[str, ...]
    """Tensors of the model that make it up: one, or one for each expert."""
    change: Change


def targets(names: Iterable[str], family: Family) -> tuple[list[Target], list[str]]:
    """The file's tensors as llama.cpp orders them, and the names that have no place in it."""
    by_name = {theirs: ours for ours, theirs in family.names.items()}
    of_experts = {theirs: ours for ours, theirs in family.experts.items()}
    found: dict[str, dict[int, str]] = {}
    changes: dict[str, Change] = {}
    lost: list[str] = []
    for name in names:
        stem, suffix, layer = _parted(name)
        expert = _EXPERT.search(stem)
        ours = by_name.get(stem)
        if ours is None and expert is not None:
            ours = of_experts.get(_EXPERT.sub(".experts.@.", stem))
        if ours is None:
            lost.append(name)
            continue
        target = _filled(ours, layer) + suffix
        found.setdefault(target, {})[int(expert[1]) if expert else 0] = name
        changes[target] = change_of(ours, suffix, family)
    made = []
    for target, parts in sorted(found.items(), key=lambda item: _order(item[0])):
        if sorted(parts) == list(range(len(parts))):
            made.append(Target(target, tuple(parts[i] for i in sorted(parts)), changes[target]))
        else:
            lost.extend(parts.values())  # an expert is missing
    return made, lost


def _order(name: str) -> tuple[int, int, str]:
    layer = _LAYER.match(name)
    if layer:
        return 1, int(layer[2]), name
    return (0, 0, name) if name.startswith("token_embd") else (2, 0, name)


def _parted(name: str) -> tuple[str, str, str]:
    """Stem with `#` for the layer, `.weight` or `.bias`, and the layer."""
    suffix = next((s for s in _SUFFIXES if name.endswith(s)), "")
    stem = name.removesuffix(suffix)
    layer = _LAYER.match(stem)
    if layer is None:
        return stem, suffix, ""
    return f"{layer[1]}.#.{stem[layer.end() :]}", suffix, layer[2]


def _filled(pattern: str, layer: str) -> str:
    return pattern.replace("#", layer)
