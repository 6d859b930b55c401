"""Values of a parameter that vary over a model's tensors.

A value is one of

    0.5                                           the same everywhere
    {gradient: [0, 0.5, 1]}                       anchors over depth, linear between them
    [{filter: attn, value: V}, {value: V}]        the first rule whose filter fits

V is a number or a gradient. A filter is tried on the tensor's name:

    attn                             a part of it
    "model.layers.*.mlp.*"           a glob for all of it, known by its `*`, `?` or `[`
    "/layers\\.[0-3]\\./"              a regular expression, found anywhere in it
    {glob: "*.bias"}  {regex: "k|v"}  the same, spelt out
    "*"                              every name

Depth is layer / (layers - 1); tensors before the layers (embeddings) have depth 0, those after
them 1. A recipe with slices counts in each slice anew. In mergekit's form, and with `compat:
mergekit`, tensors after the layers have depth 0 and an only layer has depth 1, as they have there.

Source: mergekit's parameter specification, whose rules these are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from zoo.families import family_of

_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?|resblocks|stages?)\.(\d+)\.")
_NUMBERED = re.compile(r"\.\d+\.")
_FRONT = re.compile(r"embed(?!_out)|wte|wpe|patch|conv_pre|position|rotary|(?:^|\.)shared\.")
_GLOB = re.compile(r"[*?\[]")
_PATTERNS = ("regex", "glob")

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
            if found := _problem_with_filter(rule.get("filter", "*")):
                return found
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
            if fits(rule.get("filter", "*"), tensor):
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


def fits(filter: str | Mapping[str, str], tensor: str) -> bool:
    """Whether a filter fits a tensor's name."""
    kind, pattern = _kind(filter)
    if kind == "regex":
        return re.search(pattern, tensor) is not None
    return fnmatchcase(tensor, pattern) if kind == "glob" else pattern in tensor


def is_plain(filter: Any) -> bool:
    """Whether a filter is a part of a name, or `*`: all that mergekit knows."""
    return filter == "*" or (isinstance(filter, str) and _kind(filter)[0] == "part")


def _kind(filter: str | Mapping[str, str]) -> tuple[str, str]:
    """`regex`, `glob` or `part`, and the pattern."""
    if isinstance(filter, Mapping):
        ((kind, pattern),) = filter.items()
        return kind, pattern
    if len(filter) > 2 and filter[0] == filter[-1] == "/":
        return "regex", filter[1:-1]
    return ("glob" if _GLOB.search(filter) else "part"), filter


def _problem_with_filter(filter: Any) -> str | None:
    if isinstance(filter, Mapping) and (
        len(filter) != 1
        or next(iter(filter)) not in _PATTERNS
        or not isinstance(next(iter(filter.values())), str)
    ):
        return f"a filter has one key of {' and '.join(_PATTERNS)}, and text, not {dict(filter)}"
    if not isinstance(filter, (str, Mapping)):
        return f"a filter is text, not {filter!r}"
    kind, pattern = _kind(filter)
    if kind == "regex":
        try:
            re.compile(pattern)
        except re.error as error:
            return f"`{pattern}` is no regular expression: {error}"
    return None


def layers(
    tensors: Collection[str], config: Mapping[str, Any] | None = None
) -> dict[str, tuple[int, int]]:
    """(layer, layers of its stack) of each tensor that belongs to a block.

    A stack is all that is numbered under one prefix: an encoder and a decoder are two. With the
    model's configuration, stacks count that only the data of its family knows (`zoo.families`), as
    `transformer.attentions` of XLM.
    """
    found = {name: m for name in tensors if (m := _LAYER.search(name))}
    if config and any(_NUMBERED.search(n) for n in tensors if n not in found):
        found |= _known_layers([n for n in tensors if n not in found], tensors, config)
    counts: dict[str, int] = {}
    for m in found.values():
        stack = m.string[: m.start(1)]
        counts[stack] = max(counts.get(stack, 0), int(m.group(1)) + 1)
    return {n: (int(m.group(1)), counts[n[: m.start(1)]]) for n, m in found.items()}


def _known_layers(
    left: Iterable[str], tensors: Collection[str], config: Mapping[str, Any]
) -> dict[str, re.Match[str]]:
    """Tensors in stacks of a known family."""
    family = family_of(config, tensors)
    if family is None or not family.known or not family.stacks:
        return {}
    prefixes = "|".join(re.escape(s.prefix) for s in family.stacks)
    stack = re.compile(rf"^(?:{prefixes})(\d+)\.")
    return {name: m for name in left if (m := stack.search(name))}


def renumbered(tensor: str, layer: int) -> str:
    """The name of the same tensor in another layer of its stack."""
    return _LAYER.sub(lambda m: f"{m[0][: m.start(1) - m.start()]}{layer}.", tensor, count=1)


def stack_of(tensor: str) -> str | None:
    """The prefix under which a tensor's layers are numbered: all up to the number."""
    m = _LAYER.search(tensor)
    return tensor[: m.start(1)] if m else None


def is_front(tensor: str) -> bool:
    """Whether a tensor outside the layers comes before them: embeddings, not norms and heads."""
    return _FRONT.search(tensor) is not None


def depth_at(layer: int, count: int, *, mergekit: bool = False) -> float:
    """Depth of a layer among `count`, from 0 to 1."""
    return layer / (count - 1) if count > 1 else float(mergekit)


def depths(
    tensors: Collection[str],
    config: Mapping[str, Any] | None = None,
    *,
    mergekit: bool = False,
) -> dict[str, float]:
    """Depth of each tensor, from 0 to 1, where we put it or where mergekit does.

    Args:
        config: the model's; as for `layers`.
    """
    names = list(tensors)
    blocks = layers(names, None if mergekit else config)
    outside = 0.0 if mergekit else 1.0
    return {
        name: depth_at(*blocks[name], mergekit=mergekit)
        if name in blocks
        else 0.0
        if is_front(name)
        else outside
        for name in names
    }


def layer_count(tensors: Collection[str]) -> int:
    """Number of layers the names show, of the deepest stack; 0 when none do."""
    return max((count for _, count in layers(tensors).values()), default=0)
