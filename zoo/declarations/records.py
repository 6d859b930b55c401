"""What a checkpoint says of itself, as values. Said, not proved: each parent names its evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class DeclaredParent:
    """A model that a checkpoint says it came from."""

    model: str
    """As it is named there: a hub id, a path, a file's name, a version of some zoo."""
    role: str
    """`base`, `expert`, or `parent` where it is not said which."""
    evidence: str
    """The file and key that say so: `README.md base_model`."""
    digest: str | None = None
    """`sha256:` of the parent's file, where it is given."""
    weights: str | None = None
    """`sha256:` weights digest of the parent, where a zoo wrote it."""
    weight: float | None = None
    source: str | None = None
    """Where it can be had, if that is said beside its name: `hf://org/model`."""
    revision: str | None = None
    parents: tuple[DeclaredParent, ...] = ()
    """What that model came from, where this checkpoint says that too."""

    @property
    def plain(self) -> dict[str, Any]:
        """For JSON, without what is not said."""
        found = {k: getattr(self, k) for k in self.__slots__ if k != "parents"}
        found["parents"] = [one.plain for one in self.parents] or None
        return {k: v for k, v in found.items() if v is not None}


@dataclass(frozen=True, slots=True)
class Declared:
    """All that a checkpoint says of itself, or one convention of it."""

    license: str | None = None
    parents: tuple[DeclaredParent, ...] = ()
    facts: Mapping[str, Any] | None = None
    """What else is worth keeping, such as the recipe of a merge, as plain data."""

    @property
    def notes(self) -> dict[str, Any]:
        """For the version's notes; empty where nothing is declared."""
        found: dict[str, Any] = {}
        if self.parents:
            found["parents"] = [one.plain for one in self.parents]
        if self.facts:
            found["facts"] = dict(self.facts)
        return {"declared": found} if found else {}
