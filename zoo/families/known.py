"""A family by the data: what `families.jsonl` says of a class, for one configuration."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo.families import data
from zoo.families.family import Family, Stack
from zoo.families.inferred import component_named, components_of
from zoo.families.renames import Renames, rule
from zoo.families.templates import Template, filled, matching, opened

_LAYERS = re.compile(r"layer|depth|block|stage")
_NO_LAYERS = re.compile(r"expert|codebook|head|dense")
_PARTS = {"text_config": "text", "vision_config": "vision", "audio_config": "audio"}


def known(config: Mapping[str, Any], names: Collection[str]) -> Family | None:
    """The family of a configuration, or None where the data has none of its model type."""
    kind = config.get("model_type")
    line = data.kind(kind) if isinstance(kind, str) else None
    if line is None or not isinstance(kind, str):
        return None
    listed = config.get("architectures")
    classes = line["classes"]
    named = [c for c in listed if c in classes] if isinstance(listed, list) else []
    chosen = named[0] if named else _closest(config, line, names)
    return _family(config, kind, chosen, classes[chosen])


def _closest(config: Mapping[str, Any], line: Mapping[str, Any], names: Collection[str]) -> str:
    """The class whose tensors are nearest to the names; the base where there are none."""
    classes = line["classes"]
    base = line.get("base") or next(iter(classes))
    if not names:
        return str(base)

    def misses(name: str) -> tuple[int, int, bool]:
        found = _family(config, line["model_type"], name, classes[name]).compare(names)
        return len(found.unexpected) + len(found.missing), len(found.renamed), name != base

    return str(min(classes, key=misses))


def _family(config: Mapping[str, Any], kind: str, name: str, entry: Mapping[str, Any]) -> Family:
    made = _Assembly()
    _assemble(config, "", "", kind, name, made)
    templates = made.templates()
    base = entry.get("base", "")
    rules = [
        rule(one, scope, base)
        for scope, block in [*entry.get("renames", ()), *made.renames, [None, "legacy"]]
        for one in data.rules(str(block))
    ]
    tied = dict(entry.get("tied", {}))
    for path, pairs in entry.get("tied_if", {}).items():
        if _ties(config, path, path in entry.get("ties", ())):
            tied |= pairs
    components = made.components(templates)
    return Family(
        kind,
        name,
        known=True,
        components=components,
        embeddings=_there(entry.get("embeddings"), templates),
        head=_there(entry.get("head"), templates),
        tied=dict(_expanded(tied, templates)),
        stacks=tuple(made.stacks(components)),
        keys=entry.get("keys", {}),
        norms=tuple(p for p in templates if _leaf(p) in set(entry.get("norms", ()))),
        templates=templates,
        renames=Renames(
            rules,
            base,
            tuple(re.compile(e) for e in entry.get("ignored", ())),
            tuple(re.compile(e) for e in entry.get("unneeded", ())),
        ),
        open_prefixes=tuple(made.open),
    )


@dataclass
class _Assembly:
    """What is gathered of a class and the models in it."""

    kinds: dict[str, tuple[bool, bool]] = field(default_factory=dict)
    """Pattern -> whether it is optional, whether it is absent."""
    axes: dict[str, tuple[str | None, int | None]] = field(default_factory=dict)
    """Prefix -> (key, count)."""
    parts: list[tuple[str, str]] = field(default_factory=list)
    """(prefix, path of the configuration)."""
    open: list[str] = field(default_factory=list)
    renames: list[Any] = field(default_factory=list)
    """Of parts that are other models than the data has there."""

    def templates(self) -> dict[str, Template]:
        found = {}
        for pattern, (optional, absent) in self.kinds.items():
            pieces = pattern.split("*")
            counts = tuple(
                self.axes.get("*".join(pieces[: i + 1]).rstrip("."), (None, None))[1]
                for i in range(len(pieces) - 1)
            )
            found[pattern] = Template(pattern, counts, optional, absent)
        return found

    def components(self, templates: Mapping[str, Template]) -> dict[str, str]:
        """By the parts with configurations of their own; then by words in the prefixes."""
        found: dict[str, str] = {}
        for prefix, path in sorted(self.parts, key=lambda p: len(p[0])):
            last = path.rpartition(".")[2]
            own = component_named(prefix) if not path else _PARTS.get(last)
            own = own or (component_named(prefix) if last else None)
            if own and (path or own != "text"):
                found.setdefault(own, prefix)
        if set(found) == {"encoder"} or set(found) == {"decoder"}:
            found = {}  # the model itself
        for own, prefix in components_of(templates).items():
            found.setdefault(own, prefix)
        return found if len(found) > 1 else {}

    def stacks(self, components: Mapping[str, str]) -> Iterator[Stack]:
        for prefix, (key, count) in self.axes.items():
            last = (key or "").rpartition(".")[2]
            where = prefix.rpartition(".")[2] + "."
            if "*" in prefix or _NO_LAYERS.search(where):
                continue
            if last.isdigit() or (_LAYERS.search(last) and not _NO_LAYERS.search(last)):
                within = [(len(p), c) for c, p in components.items() if prefix.startswith(p)]
                component = max(within)[1] if within else component_named(prefix)
                yield Stack(f"{prefix}.", component, key, count)


def _assemble(
    config: Mapping[str, Any], path: str, prefix: str, kind: str, name: str, made: _Assembly
) -> None:
    """Add the tensors of a class under a prefix, its parts first."""
    line = data.kind(kind)
    entry = (line or {"classes": {}})["classes"].get(name)
    if entry is None:
        made.open.append(prefix)
        return
    for at, below, part, of in entry.get("parts", ()):
        where = ".".join(p for p in (path, below) if p)
        made.parts.append((prefix + at, where))
        said = _section(config, where).get("model_type") if below else None
        if isinstance(said, str) and said != of and (other := data.kind(said)) is not None:
            # Another model in the same place, as any text model in a larger one.
            base = _counterpart(part, other)
            if base is not None and part is not None:
                _assemble(config, where, prefix + at, said, base, made)
                made.renames += [
                    [(prefix + at).rstrip("."), b]
                    for scope, b in other["classes"][base].get("renames", ())
                    if scope is None
                ]
                continue
        if isinstance(said, str) and said != of and data.kind(said) is None:
            made.open.append(prefix + at)
        if part is not None:
            _assemble(config, where, prefix + at, of, part, made)
    for pattern in entry.get("minus", ()):
        made.kinds.pop(prefix + pattern, None)
    defaults = entry.get("defaults", {})
    for line_ in entry.get("own", ()):
        pattern, *conditions = line_.split(" ")
        optional = pattern.endswith("~")
        holds = True
        for condition in conditions:
            found = _value(config, path, condition[1:], defaults.get(condition[1:]))
            if found is None:
                optional = True
            elif bool(found) != (condition[0] == "?"):
                holds = False
        made.kinds[prefix + pattern.rstrip("~")] = (optional, not holds and not optional)
    for at, (key, offset, default) in entry.get("axes", {}).items():
        count = None
        if key is not None:
            value = _value(config, path, key, default)
            count = value + offset if isinstance(value, int) else None
        where = ".".join(p for p in (path, key or "") if p)
        made.axes[prefix + at] = (where if key else None, count)


def _counterpart(part: str | None, other: Mapping[str, Any]) -> str | None:
    """The class of another model type that can stand where a class stands."""
    if part is not None and "For" in part:
        kinds = {"ForCausalLM": ("ForCausalLM", "LMHeadModel")}
        kind = part[part.index("For") :]
        ends = kinds.get(kind, (kind,))
        same: str | None = next((c for c in other["classes"] if c.endswith(ends)), None)
        if same is not None:
            return same
    base = other.get("base")
    return base if isinstance(base, str) else None


def _section(config: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    for key in path.split(".") if path else ():
        below = config.get(key)
        if not isinstance(below, Mapping):
            return {}
        config = below
    return config


def _value(config: Mapping[str, Any], path: str, key: str, default: Any) -> Any:
    """What a configuration says: older ones have a part's values beside those of the whole."""
    for where in (path, "") if path and not _section(config, path) else (path,):
        found: Any = _section(config, where)
        for word in key.split("."):
            if isinstance(found, Mapping) and word in found:
                found = found[word]
            elif isinstance(found, list) and word.isdigit() and int(word) < len(found):
                found = found[int(word)]
            else:
                break
        else:
            return bool(found) if isinstance(default, bool) else found
    return default


def _ties(config: Mapping[str, Any], path: str, default: bool) -> bool:
    """Whether a part of a configuration ties embeddings, as transformers reads it."""
    section = _section(config, path)
    if path and not section:
        section = config  # older ones have a part's values beside those of the whole
    said = section.get("tie_word_embeddings")
    return said if isinstance(said, bool) else default


def _there(name: str | None, templates: Mapping[str, Template]) -> str | None:
    """A tensor that the configuration has."""
    if name is None or (found := matching(name, templates)) is None or found[0].absent:
        return None
    return name


def _expanded(
    tied: Mapping[str, str], templates: Mapping[str, Template]
) -> Iterator[tuple[str, str]]:
    for target, source in tied.items():
        template = templates.get(target)
        if "*" not in target:
            yield target, source
        elif template is not None:
            for name in template.names():
                numbers = opened(name)[1][: source.count("*")]
                yield name, filled(source, numbers)


def _leaf(pattern: str) -> str:
    return pattern.rpartition(".")[0].rpartition(".")[2]
