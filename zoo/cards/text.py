"""Pieces of Markdown and YAML, whatever names are put into them."""

from __future__ import annotations

from typing import Any


def code(text: str) -> str:
    """Text as code on one line, in a table too, whatever is in it."""
    text = " ".join(text.split()).replace("|", "\\|")
    ticks = "`" * (_longest_ticks(text) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


def plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def fenced(text: str, language: str) -> str:
    fence = "`" * max(3, _longest_ticks(text) + 1)
    return f"{fence}{language}\n{text}{fence}"


def _longest_ticks(text: str) -> int:
    return max(
        (len(run) for run in "".join(c if c == "`" else " " for c in text).split()), default=0
    )


def inline(value: Any) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def as_yaml(content: Any) -> str:
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True  # a value that occurs twice is written twice

    def on_one_line(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        """Lines of a text stay on one: one of dashes would end a card's front matter."""
        style = '"' if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style)

    Dumper.add_representer(str, on_one_line)
    text: str = yaml.dump(
        content, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None
    )
    return text
