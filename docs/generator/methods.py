"""The pages on merge methods: a list, and for each a page with its picture."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from generator.docstring import take_apart
from generator.markdown import code, fenced, table
from generator.pictures import Picture

if TYPE_CHECKING:
    from pydantic import BaseModel

    from zoo.contract import Method


def bundled_methods() -> list[Method]:
    """The methods of zoo's own plugins, whatever else is installed here."""
    from zoo.plugins import load_plugins

    found = load_plugins().methods
    return [
        found[name]
        for name in sorted(found)
        if found[name].function.__module__.startswith("zoo_plugins.")
    ]


def methods_index() -> str:
    methods = bundled_methods()
    rows = [
        (f"[{m.name}]({m.name}.md)", m.summary, m.base, experts_of(m), m.needs, m.replay)
        for m in methods
    ]
    return "\n\n".join(
        [
            "# Methods",
            "The methods that come with zoo. `zoo methods` lists these and those of your plugins; "
            "which to take is the subject of [](../../how-to/choose-a-method.md).",
            table(["method", "result", "base", "experts", "needs", "replay"], rows),
            fenced("\n".join(["{toctree}", ":hidden:", "", *(m.name for m in methods)])).replace(
                "```text\n", "```"
            ),
        ]
    )


def experts_of(method: Method) -> str:
    if method.max_experts == method.min_experts:
        return str(method.min_experts)
    return (
        f"{method.min_experts} or more"
        if method.max_experts is None
        else (f"{method.min_experts} to {method.max_experts}")
    )


def method_page(method: Method, shown: Picture | None) -> str:
    doc = take_apart(method.function.__doc__)
    parts = [f"# {method.name}", doc.summary]
    if shown:
        parts += [f"![{method.name} on toy tensors]({method.name}.svg)", shown.caption]
    parts += ["## Formula", doc.text] if doc.text else []
    if "When" in doc.sections:
        parts += ["## When to use it", sentence(doc.sections["When"])]
    parts += ["## Parameters", parameters_text(method)]
    titles = {"Cost": "Cost", "Source": "Source", "Departs": "Departures from the source"}
    for section, title in titles.items():
        if section in doc.sections:
            parts += [f"## {title}", sentence(doc.sections[section])]
    parts += ["## In a mergekit recipe", mergekit_text(method)]
    parts += ["## Contract", contract_table(method)]
    return "\n\n".join(parts)


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def contract_table(method: Method) -> str:
    tolerance = f", tolerance {method.tolerance:g} elsewhere" if method.replay != "exact" else ""
    facts = [
        ("version", method.version),
        ("base", method.base),
        ("experts", experts_of(method)),
        ("works on", "deltas (expert minus base)" if method.space == "delta" else "weights"),
        ("needs", method.needs + (", in whole rows" if method.unit == "row" else "")),
        ("order of experts matters", "yes" if method.ordered else "no"),
        ("deterministic", "yes" if method.deterministic else "no"),
        ("replay", method.replay + tolerance),
    ]
    if method.artifacts:
        facts.append(("needs beside each expert", ", ".join(map(code, method.artifacts))))
    if method.overlays:
        facts.append(
            (
                "keeps for each task",
                "an overlay: `zoo.load(REF, task=T)` and `zoo.load_state` apply it",
            )
        )
    return table(["property", "value"], facts)


BASES = {
    "base": "",
    "first": "`base_model` is the first expert, and the other model the second.",
    "expert": "`base_model` names only where the tokenizer comes from: a base that stands among "
    "the models is an expert like the others.",
}
"""What `Mergekit.base` says, in words."""


def mergekit_text(method: Method) -> str:
    """What each of mergekit's names for a method means here."""
    if not method.mergekit:
        return "mergekit has no method that means this."
    parts = []
    for entry in method.mergekit:
        words = [f"`merge_method: {entry.name}` means `{method.name}`"]
        if entry.sets:
            sets = ", ".join(f"`{name}={in_yaml(value)}`" for name, value in entry.sets.items())
            words[0] += f" with {sets}, where the recipe does not say otherwise"
        words[0] += "."
        words += [BASES[entry.base]] if BASES[entry.base] else []
        text = " ".join(words)
        if entry.names:
            rows = [(code(name), meaning(name, ours)) for name, ours in entry.names.items()]
            text += "\n\n" + table(["its parameter", "here"], rows)
        if entry.rewrite is not None and (said := inspect.getdoc(entry.rewrite)):
            text += "\n\n" + " ".join(said.split())
        parts.append(text)
    return "\n\n".join(parts)


def meaning(theirs: str, ours: Any) -> str:
    if ours is None:
        return "no effect"
    if isinstance(ours, str):
        return "the same" if ours == theirs else code(ours)
    name, values = ours
    return ", ".join(f"{in_yaml(k)}: `{name}={in_yaml(v)}`" for k, v in values.items())


def in_yaml(value: object) -> str:
    """As a recipe writes it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def parameters_text(method: Method) -> str:
    """The table of a method's options, from the JSON schema that also checks them."""
    from zoo.parameters import per_expert

    return options_table(method.parameters, per_expert(method))


def options_table(options: type[BaseModel], many: Collection[str] = ()) -> str:
    """The table of a class of options.

    Args:
        many: those that have one value per expert.
    """
    schema = options.model_json_schema()
    rows = []
    for name, field in schema.get("properties", {}).items():
        required = name in schema.get("required", ())
        default = "required" if required else code(in_yaml(field.get("default")))
        per = "per expert, or one for all" if name in many else ""
        kind = "; ".join(part for part in (type_text(field, name in many), per) if part)
        rows.append((code(name), kind, default, field.get("description", "")))
    if not rows:
        return "None."
    return table(["name", "type", "default", "meaning"], rows)


def type_text(field: dict[str, Any], per_expert: bool = False) -> str:
    """A JSON schema type with its bounds: `number, 0 to 1`."""
    if "$ref" in field:
        return code(field["$ref"].rpartition("/")[2])
    if "anyOf" in field:
        kinds = [f for f in field["anyOf"] if not (per_expert and f.get("type") == "array")]
        return " or ".join(dict.fromkeys(type_text(f) for f in kinds))
    if "oneOf" in field:
        return " or ".join(dict.fromkeys(type_text(f) for f in field["oneOf"]))
    if "enum" in field:
        return " or ".join(code(v) for v in field["enum"])
    if "const" in field:
        return code(field["const"])
    kind = str(field.get("type", "any value"))
    if kind == "array":
        return "list of " + type_text(field.get("items", {}))
    if kind == "object" and isinstance(field.get("additionalProperties"), dict):
        return "mapping to " + type_text(field["additionalProperties"])
    if {"minimum", "maximum"} <= field.keys():
        return f"{kind}, {field['minimum']:g} to {field['maximum']:g}"
    words = {
        "minimum": "at least {}", "maximum": "at most {}",
        "exclusiveMinimum": "above {}", "exclusiveMaximum": "below {}",
        "minItems": "{} or more", "pattern": "matching `{}`",
    }  # fmt: skip
    return ", ".join([kind, *(w.format(field[k]) for k, w in words.items() if k in field)])
