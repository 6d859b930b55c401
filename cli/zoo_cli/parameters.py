"""The parameters of a method or metric as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from zoo_cli.output import Column, show_table

if TYPE_CHECKING:
    from zoo.contract import Method
    from zoo.metrics import Metric


def show_parameters(of: Method | Metric) -> None:
    """Print what `--set` takes: name, type, default and meaning; nothing where there is none."""
    fields = of.parameters.model_fields
    if not fields:
        return
    click.echo()
    show_table(
        [
            Column("--set", style="bold", whole=True),
            Column("type"),
            Column("default"),
            Column("meaning"),
        ],
        [
            [field.alias or name, *_type_and_default(of, name), field.description]
            for name, field in fields.items()
        ],
    )


def _type_and_default(of: Method | Metric, name: str) -> tuple[str, str]:
    field = of.parameters.model_fields[name]
    schema = of.parameters.model_json_schema()["properties"][field.alias or name]
    default = "required" if field.is_required() else _written(field.default)
    return _type(schema), default


def _written(value: Any) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value, default=str)


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words: `number in [0, 1]`, `a | b`, `number, or one per expert`."""
    if "anyOf" in schema:
        kinds = schema["anyOf"]
        single = [k for k in kinds if k.get("type") not in ("array", "null")]
        words = " or ".join(_type(k) for k in single)
        if any(k.get("type") == "array" for k in kinds):
            words += ", or one per expert"
        return words
    if "enum" in schema:
        return " | ".join(str(v) for v in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    kind = str(schema.get("type", "any"))
    if low is None and high is None:
        return kind
    if high is None:
        return f"{kind} {'>=' if 'minimum' in schema else '>'} {low:g}"
    if low is None:
        return f"{kind} {'<=' if 'maximum' in schema else '<'} {high:g}"
    left = "[" if "minimum" in schema else "("
    right = "]" if "maximum" in schema else ")"
    return f"{kind} in {left}{low:g}, {high:g}{right}"
