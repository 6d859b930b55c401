"""The page on `import zoo`."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

from generator.markdown import fenced, prose
from generator.source import class_text, signature

EXAMPLE = """
import zoo

with zoo.open("registry.db") as registry:
    best = registry.select(where="kind = 'expert' and task = 'math' and accuracy > 0.5")
    merged = registry.merge(method="ties", experts=[v.ref for v in best], name="math-ties")
"""


def python_api() -> str:
    """The names of `zoo.__all__`, and the methods of `Registry`."""
    import zoo

    parts = [
        "# Python",
        "`import zoo` costs nothing: each name is loaded on first use.",
        fenced(EXAMPLE, "python"),
    ]
    for name in zoo.__all__:
        value = getattr(zoo, name)
        parts.append(f"## zoo.{name}")
        elsewhere = inspect.isclass(value) and name in (
            "Architecture",
            "Chunk",
            "Method",
            "Metric",
            "Statistic",
            "Task",
        )
        if elsewhere:
            parts.append(f"{_first_line(value)} See [](extensions.md).")
        elif name == "hookimpl":
            parts.append(
                "Marks a function of a plugin as the implementation of a [hook](hooks.md)."
            )
        elif name == "ZooError":
            parts.append("The root of every error: [](errors.md).")
        elif inspect.isclass(value):
            parts.append(class_text(value).partition("\n\n")[2].replace("\n### ", "\n### "))
        elif inspect.isfunction(value):
            parts += [signature(value, f"zoo.{name}"), prose(value.__doc__)]
        else:
            parts.append(_string_below(name))
    return "\n\n".join(parts)


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _string_below(name: str) -> str:
    """The string literal under a module-level assignment, for constants and type aliases."""
    import zoo

    source = inspect.getsource(sys.modules[zoo._HOMES[name]])
    found = re.search(rf'^{name} = .*\n"""((?:.|\n)*?)"""', source, re.MULTILINE)
    return " ".join(found[1].split()) if found else f"`{getattr(zoo, name)}`"
