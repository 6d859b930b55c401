"""The pages on merge methods: a list, and one page each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from generator.markdown import code, fenced, prose, table

if TYPE_CHECKING:
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


def method_page(method: Method) -> str:
    tolerance = f", tolerance {method.tolerance:g} elsewhere" if method.replay != "exact" else ""
    facts = [
        ("version", method.version),
        ("base", method.base),
        ("experts", experts_of(method)),
        ("works on", "deltas (expert minus base)" if method.space == "delta" else "weights"),
        ("needs", method.needs),
        ("order of experts matters", "yes" if method.ordered else "no"),
        ("deterministic", "yes" if method.deterministic else "no"),
        ("replay", method.replay + tolerance),
        ("in a mergekit recipe", mergekit_text(method)),
    ]
    return "\n\n".join(
        [
            f"# {method.name}",
            prose(method.function.__doc__),
            "## Parameters",
            parameters_text(method),
            "## Contract",
            table(["property", "value"], facts),
        ]
    )


def mergekit_text(method: Method) -> str:
    if not method.mergekit:
        return "same parameters"
    return ", ".join(f"`{k}={v}`" for k, v in method.mergekit.items())


def parameters_text(method: Method) -> str:
    """The table of a method's options, from the JSON schema that also checks them."""
    from zoo.parameters import per_expert

    schema = method.parameters.model_json_schema()
    many = per_expert(method)
    rows = []
    for name, field in schema.get("properties", {}).items():
        required = name in schema.get("required", ())
        default = "required" if required else code(python_value(field.get("default")))
        per = "per expert, or one for all" if name in many else ""
        kind = "; ".join(part for part in (type_text(field, name in many), per) if part)
        rows.append((code(name), kind, default, field.get("description", "")))
    if not rows:
        return "None."
    return table(["name", "type", "default", "meaning"], rows)


def python_value(value: object) -> object:
    return "null" if value is None else value


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
