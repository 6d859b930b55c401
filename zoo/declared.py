"""What a checkpoint's own files say of it: its licence, and the models it was made from.

Nothing here is proved. It is kept as said, with the file that says it. Each convention has a
reader in `zoo.declarations`; the first that names parents is believed for them, and all are kept
as facts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from zoo.checkpoint import Opened
from zoo.declarations import hub_card, kohya, mergekit, modelspec, peft, webui, zoo_lineage
from zoo.declarations.files import Files
from zoo.declarations.records import Declared as Declared
from zoo.declarations.records import DeclaredParent as DeclaredParent

READERS: Mapping[str, Callable[[Files], Declared]] = {
    "zoo": zoo_lineage.read,
    "mergekit": mergekit.read,
    "peft": peft.read,
    "card": hub_card.read,
    "webui": webui.read,
    "modelspec": modelspec.read,
    "kohya": kohya.read,
}
"""By what their facts are called; the most exact about parents first."""
MOST_PARENTS = 64
LARGEST_FACTS = 64_000
"""Characters of JSON kept of one convention; what is longer is left out."""


def read_declared(opened: Opened) -> Declared:
    """What the files of a checkpoint declare. Never raises for what a stranger wrote there."""
    files = Files(opened)
    license: str | None = None
    parents: tuple[DeclaredParent, ...] = ()
    facts: dict[str, Any] = {}
    for convention, read in READERS.items():
        found = read(files)
        license = license or found.license
        parents = parents or found.parents[:MOST_PARENTS]
        if found.facts and len(json.dumps(found.facts)) <= LARGEST_FACTS:
            facts[convention] = dict(found.facts)
    return Declared(license, parents, facts or None)
