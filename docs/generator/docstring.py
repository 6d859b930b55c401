"""A method's docstring, taken apart into the sections that its page shows."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field

HEADINGS = ("When", "Args", "Returns", "Cost", "Source", "Departs")


@dataclass
class Docstring:
    summary: str = ""
    text: str = ""
    """What stands between the summary and the first section: the formula, and words on it."""
    sections: dict[str, str] = field(default_factory=dict)
    """Heading -> text, the lines of a paragraph joined."""


def take_apart(docstring: str | None) -> Docstring:
    """Sections begin with `When: ...` and the like at the margin, and end where, after an empty
    line, something else does. A line break within a summary is a blank of it.
    """
    paragraphs = inspect.cleandoc(docstring or "").split("\n\n", 1)
    found = Docstring(summary=" ".join(paragraphs[0].split()))
    text: list[str] = []
    current: list[str] | None = None
    sections: dict[str, list[str]] = {}
    ended = False
    for line in "".join(paragraphs[1:]).splitlines():
        heading = re.match(rf"({'|'.join(HEADINGS)}):\s*(.*)", line)
        if heading:
            current = sections.setdefault(heading[1], [])
            current.append(heading[2])
        elif current is None or (ended and line and not line.startswith(" ")):
            current = None
            text.append(line)
        else:
            current.append(line.strip())
        ended = not line
    found.text = "\n".join(text).strip("\n")
    found.sections = {name: " ".join(" ".join(lines).split()) for name, lines in sections.items()}
    return found
