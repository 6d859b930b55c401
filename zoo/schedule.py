"""Values of a parameter that vary over a model's tensors.

A value is one of

    0.5                                           the same everywhere
    {gradient: [0, 0.5, 1]}                       anchors over depth, linear between them
    [{filter: attn, value: V}, {value: V}]        the first rule whose filter fits

A filter is a substring of the tensor's name, `*` fits every name; V is a number or a gradient.
Depth is layer / (layers - 1); tensors before the layers (embeddings) have depth 0, those after
them 1.

Source: mergekit's parameter specification, whose rules and positions these are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?|resblocks|stages?)\.(\d+)\.")
_FRONT = re.compile(r"embed|wte|wpe|patch|conv_pre")

Value = Any
"""A schedule as plain data, see above."""


def is_rules(value: Value) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(v, Mapping) and "gradient" not in v for v in value)
    )


def problem_with(value: Value) -> str | None:
    """What is wrong with a schedule, or None."""
    if is_rules(value):
        for rule in value:
            if set(rule) - {"filter", "value"} or "value" not in rule:
                return f"a rule has the keys `filter` and `value`, not {sorted(rule)}"
            if not isinstance(rule.get("filter", "*"), str):
                return f"a filter is text, not {rule['filter']!r}"
            if is_rules(rule["value"]):
                return "rules cannot be nested"
            if found := problem_with(rule["value"]):
                return found
        return None
    if isinstance(value, Mapping):
        anchors = value.get("gradient")
        if set(value) != {"gradient"} or not isinstance(anchors, list) or not anchors:
            return "a map here has the one key `gradient`, a list of numbers"
        if not all(isinstance(a, (int, float)) and not isinstance(a, bool) for a in anchors):
            return f"gradient anchors are numbers, not {anchors}"
        return None
    if isinstance(value, list):
        return "one value is wanted here, not a list"
    return None


def value_at(value: Value, tensor: str, depth: float) -> Any:
    """The value for one tensor, or None when no rule fits."""
    if is_rules(value):
        for rule in value:
            pattern = rule.get("filter", "*")
            if pattern == "*" or pattern in tensor:
                return value_at(rule["value"], tensor, depth)
        return None
    if isinstance(value, Mapping):
        anchors = value["gradient"]
        position = depth * (len(anchors) - 1)
        left = min(int(position), len(anchors) - 1)
        right = min(left + 1, len(anchors) - 1)
        share = position - left
        return (1 - share) * anchors[left] + share * anchors[right]
    return value


def layers(tensors: Iterable[str]) -> dict[str, tuple[int, int]]:
    """(layer, layers of its stack) of each tensor that belongs to a block.

    A stack is all that is numbered under one prefix: an encoder and a decoder are two.
    """
    found = {name: m for name in tensors if (m := _LAYER.search(name))}
    counts: dict[str, int] = {}
    for m in found.values():
        stack = m.string[: m.start(1)]
        counts[stack] = max(counts.get(stack, 0), int(m.group(1)) + 1)
    return {n: (int(m.group(1)), counts[n[: m.start(1)]]) for n, m in found.items()}


def depths(tensors: Iterable[str]) -> dict[str, float]:
    """Depth of each tensor, from 0 to 1."""
    names = list(tensors)
    blocks = layers(names)
    found = {}
    for name in names:
        if name in blocks:
            layer, count = blocks[name]
            found[name] = layer / (count - 1) if count > 1 else 0.0
        else:
            found[name] = 0.0 if _FRONT.search(name) else 1.0
    return found


def layer_count(tensors: Iterable[str]) -> int:
    """Number of layers the names show, of the deepest stack; 0 when none do."""
    return max((count for _, count in layers(tensors).values()), default=0)
