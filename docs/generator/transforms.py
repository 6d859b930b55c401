"""The page on transforms: what each bundled one makes, of which parents, and by which options."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING

from generator.docstring import take_apart
from generator.markdown import code, table
from generator.methods import options_table

if TYPE_CHECKING:
    from zoo.transform import Transform

COMMANDS = {
    "extract_lora": "zoo extract-lora",
    "merge_experts": "zoo moe merge-experts",
    "upcycle": "zoo moe build",
}
REPLAY = {
    "exact": "the same bytes anywhere",
    "platform": "the same bytes on one platform, nearly the same on another",
}


def transforms_page() -> str:
    from zoo.plugins import load_plugins

    found = load_plugins().transforms
    bundled = [found[n] for n in sorted(found) if type(found[n]).__module__.startswith("zoo_plug")]
    return "\n\n".join(
        [
            "# Transforms",
            "Transforms make a model of another form from others. Each has a command; in Python it "
            "is `registry.transform(NAME, [(ROLE, REF), ...], {OPTION: VALUE}, name=...)`. What "
            "they make has lineage, and `zoo verify --replay` makes it again, as for merges. "
            "Plugins add their own: [](extensions.md).",
            table(
                ["transform", "command", "what it makes"],
                [(f"[{t.name}](#{t.name})", code(COMMANDS[t.name]), t.summary) for t in bundled],
            ),
            *(section(t) for t in bundled),
        ]
    )


def section(transform: Transform) -> str:
    module = inspect.cleandoc(sys.modules[type(transform).__module__].__doc__ or "")
    doc = take_apart(module)
    facts = [
        ("version", transform.version),
        *((f"role {code(role)}", parents(*many)) for role, many in transform.roles.items()),
        ("makes", f"a version of kind {code(transform.makes)}"),
        ("replay", REPLAY[transform.replay]),
    ]
    parts = [f"## {transform.name}", doc.summary, *([doc.text] if doc.text else [])]
    parts += [table(["property", "value"], facts), options_table(transform.parameters())]
    for heading in ("Source", "Departs"):
        if heading in doc.sections:
            parts.append(f"**{heading}**: {' '.join(doc.sections[heading].split())}")
    return "\n\n".join(parts)


def parents(fewest: int, most: int | None) -> str:
    if fewest == most:
        return "one model" if fewest == 1 else f"{fewest} models"
    return "any number of models" if not fewest else f"{fewest} models or more"
