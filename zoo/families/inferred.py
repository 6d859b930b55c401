"""A family worked out from a configuration and the names of the tensors."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from zoo.families.family import Family, Stack
from zoo.families.templates import Template, opened

EMBEDDINGS = re.compile(
    r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|tok_embeddings|embed_in|embeddings)\.weight$"
    r"|^(?:model\.)?shared\.weight$"
)
HEAD = re.compile(
    r"(?:^|\.)(?:lm_head(?:\.linear|\.decoder)?|embed_out|output_layer|vocab_projector)\.weight$"
    r"|^output\.weight$|^cls\.predictions\.decoder\.weight$"
)
NORM = re.compile(r"(?:^|[._])(?:\w*norm\w*|ln(?:_\w+)?|layernorm\w*)\.(?:weight|bias)$")
LAYERS = re.compile(r"(?:^|\.)(?:layers?|h|blocks?|resblocks|stages?|stack|groups?)\.$")
_WORDS = (
    ("projector", ("projector", "connector", "merger", "aligner", "embed_vision", "bridge")),
    ("vision", ("vision", "visual", "image", "vit")),
    ("audio", ("audio", "speech")),
    ("text", ("language_model", "text_model", "text", "llm")),
    ("encoder", ("encoder",)),
    ("decoder", ("decoder",)),
)
COUNTS = {
    "vision": ("num_hidden_layers", "depth", "num_layers"),
    "audio": ("num_hidden_layers", "encoder_layers", "num_layers"),
    "encoder": ("encoder_layers", "num_encoder_layers", "num_layers", "num_hidden_layers"),
    "decoder": ("decoder_layers", "num_decoder_layers", "num_layers", "num_hidden_layers"),
    "text": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
}
SECTIONS = {
    "vision": ("vision_config",),
    "audio": ("audio_config",),
    "text": ("text_config", "language_config", "llm_config"),
    "encoder": ("encoder",),
    "decoder": ("decoder",),
}
_KEYS = {
    "hidden": ("hidden_size", "n_embd", "d_model", "dim"),
    "heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "vocabulary": ("vocab_size",),
}


def inferred(config: Mapping[str, Any] | None, names: Collection[str]) -> Family | None:
    """A family of one model; None where there are no names."""
    if not names:
        return None
    config = config or {}
    stacks = _stacks(config, names)
    components = components_of(names)
    embeddings = min((n for n in names if EMBEDDINGS.search(n)), key=len, default=None)
    head = next((n for n in sorted(names) if HEAD.search(n)), None)
    kind, listed = config.get("model_type"), config.get("architectures")
    templates = {t.pattern: t for t in _templates(names, stacks)}
    return Family(
        kind if isinstance(kind, str) else "unknown",
        listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], str) else None,
        known=False,
        components=components,
        embeddings=embeddings,
        head=head,
        tied={head: embeddings} if head and embeddings and _ties(config) else {},
        stacks=stacks,
        keys=keys_of(config),
        norms=tuple(sorted({opened(n)[0] for n in names if NORM.search(n)})),
        templates=templates,
    )


def keys_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Where a configuration says its sizes; in the part of the language model, if it has one."""
    sections = [("", config)]
    sections += [
        (f"{s}.", part) for s in SECTIONS["text"] if isinstance(part := config.get(s), Mapping)
    ]
    found: dict[str, str] = {}
    for meaning, names in _KEYS.items():
        for prefix, section in sections:
            own = [n for n in names if isinstance(section.get(n), int)]
            if own:
                found.setdefault(meaning, prefix + own[0])
    return found


def component_named(prefix: str) -> str:
    """What a part of a model is called, by the last words of its prefix."""
    for word in reversed(prefix.strip(".").split(".")):
        for component, words in _WORDS:
            if any(w in word for w in words):
                return component
    return "text"


def _ties(config: Mapping[str, Any]) -> bool:
    parts = [config, *(config.get(s) for s in SECTIONS["text"])]
    said = [
        p["tie_word_embeddings"]
        for p in parts
        if isinstance(p, Mapping) and "tie_word_embeddings" in p
    ]
    return bool(said and said[0])


def _stacks(config: Mapping[str, Any], names: Iterable[str]) -> tuple[Stack, ...]:
    """All that is numbered under a prefix that layers have."""
    numbers: dict[str, set[int]] = defaultdict(set)
    for name in names:
        parts = name.split(".")
        at = next((i for i, part in enumerate(parts[:-1]) if part.isdigit()), None)
        if at:
            numbers[".".join(parts[:at]) + "."].add(int(parts[at]))
    found = []
    for prefix, own in sorted(numbers.items()):
        if not LAYERS.search(prefix) or 0 not in own:
            continue
        component = component_named(prefix)
        key, said = _counted(config, component, max(own) + 1)
        found.append(Stack(prefix, component, key, said or max(own) + 1))
    return tuple(found)


def _counted(
    config: Mapping[str, Any], component: str, least: int
) -> tuple[str | None, int | None]:
    """The key that counts a component's layers, and its value; one that is too small is another."""
    for section in (*SECTIONS.get(component, ()), ""):
        part = config.get(section) if section else config
        if not isinstance(part, Mapping):
            continue
        for key in COUNTS.get(component, ()):
            value = part.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and value >= least:
                return f"{section}.{key}" if section else key, value
    return None, None


def components_of(names: Iterable[str]) -> dict[str, str]:
    """Prefixes of tensors that are named after a part of a model, the shortest of each.

    A part has layers, but for the projector; an encoder alone is no part, but the model.
    """
    found: dict[str, str] = {}
    layered: set[str] = set()
    for name in sorted(names, key=len):
        parts = name.split(".")
        for i, word in enumerate(parts[: min(3, len(parts) - 1)]):
            if word.isdigit() or word == "*":
                break
            if i and component_named(word) == "projector":  # within another part, it may be
                found.setdefault("projector", ".".join(parts[: i + 1]) + ".")
        for i, word in enumerate(parts[: min(3, len(parts) - 1)]):
            if word.isdigit() or word == "*":
                break
            component = component_named(word)
            if component != "text" or any(w in word for w in dict(_WORDS)["text"]):
                prefix = ".".join(parts[: i + 1]) + "."
                if found.setdefault(component, prefix) == prefix and "*" in opened(name)[0]:
                    layered.add(component)
                break
    found = {c: p for c, p in found.items() if c in layered or c == "projector"}
    return found if len(found) > 1 else {}


def _templates(names: Iterable[str], stacks: tuple[Stack, ...]) -> Iterable[Template]:
    """Every kind of tensor there is; those that all layers have are needed in every layer."""
    numbers: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for name in names:
        pattern, own = opened(name)
        numbers[pattern].add(own)
    layers: dict[str, set[int]] = defaultdict(set)
    for pattern, many in numbers.items():
        for stack in stacks:
            if pattern.startswith(stack.prefix + "*"):
                layers[stack.prefix] |= {n[0] for n in many}
    for pattern, many in numbers.items():
        within = [s for s in stacks if pattern.startswith(s.prefix + "*")]
        if not within:
            for own in many:
                yield Template(_fixed(pattern, own, 0))
            continue
        stack = within[0]
        for rest in {own[1:] for own in many}:
            having = {own[0] for own in many if own[1:] == rest}
            everywhere = having == layers[stack.prefix]
            yield Template(_fixed(pattern, rest, 1), (stack.count,), optional=not everywhere)


def _fixed(pattern: str, numbers: tuple[int, ...], after: int) -> str:
    """A pattern in which only the first `after` numbers are left open."""
    parts = pattern.split("*")
    found = "*".join(parts[: after + 1])
    for number, part in zip(numbers, parts[after + 1 :], strict=True):
        found += f"{number}{part}"
    return found
