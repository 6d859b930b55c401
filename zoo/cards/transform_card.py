"""The model card of what a transform made: of what, by which options, and how to check it.

As the card of a merge, it is a function of the recipe and the parents' names: no time, no machine,
and no name of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from zoo.cards.card import lineage_rows, verify_lines
from zoo.cards.front import card_parent, front_matter, library_of
from zoo.cards.text import as_yaml, code
from zoo.digest import json_digest
from zoo.engine.inputs import RECIPE_FILE
from zoo.transform import Parents, Transform, Transformed


def transform_card(
    made_by: Transform,
    made: Transformed,
    parents: Parents,
    lock: Mapping[str, Any],
    digest: str,
    licence: str | None,
) -> bytes:
    """A README.md.

    Args:
        lock: the resolved recipe.
        digest: weights digest of the result.
    """
    told = [card_parent(one, role) for role, those in parents.items() for one in those]
    adapter = made_by.makes == "adapter"
    bases = [one.model for one in told if one.role == "base"] if adapter else []
    front = front_matter(
        models=bases or [one.model for one in told],
        relation="adapter" if adapter else "merge",
        library="peft" if adapter else library_of(_config(made)),
        license=licence,
        tags=["adapter" if adapter else "merge", "zoo", made_by.name],
        zoo={
            "weights": digest,
            "recipe": json_digest(lock),
            "method": f"{made_by.name} {made_by.version}",
            "parents": [one.block for one in told],
        },
    )
    labels = list(dict.fromkeys(one.label for one in told))
    shown = ", ".join(code(label) for label in labels[:3])
    more = f" and {len(labels) - 3} more" if len(labels) > 3 else ""
    replayed = "any machine" if made_by.replay == "exact" else "the same platform"
    lines = [
        "",
        f"# {code(made_by.name)} of {shown}{more}",
        "",
        f"{made_by.summary} Made with zoo, by {code(made_by.name)} version {made_by.version}.",
        "",
        *_options(lock["parameters"]),
        f"`{RECIPE_FILE}` holds the whole recipe, with models by digest: the same bytes on",
        f"{replayed}.",
        "",
        "## Lineage",
        "",
        "| role | model | licence | weights digest |",
        "|---|---|---|---|",
        *lineage_rows(told),
        "",
        *verify_lines(digest, "makes it"),
    ]
    return f"---\n{as_yaml(front)}---\n{chr(10).join(lines)}".encode()


def _options(parameters: Mapping[str, Any]) -> list[str]:
    """A table of the options that are set; long ones are only in the recipe."""
    rows = []
    for name, value in parameters.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if value is not None and len(text) <= 200:
            rows.append(f"| {code(name)} | {code(text) if text else ''} |")
    return ["| option | value |", "|---|---|", *rows, ""] if rows else []


def _config(made: Transformed) -> Mapping[str, Any] | None:
    """The configuration of the result: the file beside it, or the one its checkpoint has."""
    content = made.files.get("config.json")
    if isinstance(content, bytes):
        found = json.loads(content)
        return found if isinstance(found, dict) else None
    return made.checkpoint.opened.config
