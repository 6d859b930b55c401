"""What a checkpoint's own files say of it: its licence, and the models it was made from.

Nothing here is proved. It is kept as said, with the file that says it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from zoo.checkpoint import Opened


@dataclass(frozen=True, slots=True)
class DeclaredParent:
    """A model that a checkpoint says it came from."""

    model: str
    """As it is named there: a hub id, a path, a file's name."""
    role: str
    """`base`, `expert`, or `parent` where it is not said which."""
    evidence: str
    """The file and key that say so: `README.md base_model`."""
    digest: str | None = None
    """`sha256:` of the parent's file, where it is given."""
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class Declared:
    """All that a checkpoint says of itself."""

    license: str | None = None
    parents: tuple[DeclaredParent, ...] = ()
    facts: Mapping[str, Any] | None = None
    """What else is worth keeping, such as the recipe of a merge, as plain data."""

    @property
    def notes(self) -> dict[str, Any]:
        """For the version's notes; empty where nothing is declared."""
        found: dict[str, Any] = {}
        if self.parents:
            found["parents"] = [asdict(p) for p in self.parents]
        if self.facts:
            found["facts"] = dict(self.facts)
        return {"declared": found} if found else {}


def read_declared(opened: Opened) -> Declared:
    """What the files of a checkpoint declare. Never raises for what a stranger wrote there."""
    return Declared()
