"""Markdown from plain values and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; cells are escaped, `None` is an empty cell."""

    def line(cells: Iterable[object]) -> str:
        texts = ("" if c is None else str(c).replace("|", "\\|").replace("\n", " ") for c in cells)
        return "| " + " | ".join(texts) + " |"

    return "\n".join([line(headings), line("---" for _ in headings), *map(line, rows)])


def code(text: object) -> str:
    return f"`{text}`"


def fenced(text: str, language: str = "text") -> str:
    return f"```{language}\n{text.strip()}\n```"


def prose(docstring: str | None) -> str:
    """A docstring as Markdown: `Args:` blocks become lists, `Source: ...` lines stand alone."""
    out: list[str] = []
    block = None
    for line in inspect.cleandoc(docstring or "").splitlines():
        heading = re.fullmatch(r"(Args|Returns|Raises|Warns):", line)
        fact = re.match(r"(Cost|Source|Departs|Returns): +(.*)", line)
        if heading:
            block = heading[1]
            out += ["", f"**{block}**", ""]
        elif fact:
            block = fact[1]
            out += ["", f"**{block}**: {fact[2]}"]
        elif line and not line.startswith(" "):
            block = None
            out.append(line)
        elif block in ("Args", "Raises", "Warns") and re.match(r" {4}\S", line):
            out.append(item(line.strip()))
        elif block and line:
            out.append("  " + line.strip())
        else:
            out.append(line)
    return "\n".join(out).strip()


def item(text: str) -> str:
    name, colon, rest = text.partition(": ")
    return f"- {code(name)}: {rest}" if colon and re.fullmatch(r"[\w*, ]+", name) else f"- {text}"
