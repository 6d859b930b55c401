"""Names that tensors had in other versions, and what transformers calls them now."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo.families.templates import Template


@dataclass(frozen=True, slots=True)
class Groups:
    """Tensors that are one here and several there."""

    wholes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    targets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Renames:
    """Rules from other names to those of now."""

    rules: Sequence[Any] = ()
    ignored: tuple[re.Pattern[str], ...] = ()
    unneeded: tuple[re.Pattern[str], ...] = ()

    def canonical(
        self, names: Collection[str], templates: Mapping[str, Template]
    ) -> dict[str, str]:
        return {n: n for n in names}

    def groups(self, called: Mapping[str, str], templates: Mapping[str, Template]) -> Groups:
        return Groups()

    def ignores(self, name: str) -> bool:
        return any(p.search(name) for p in self.ignored)

    def needless(self, name: str) -> bool:
        return any(p.search(name) for p in self.unneeded)
