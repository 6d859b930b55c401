"""Where a version's record says it came from, read: the model of a hub, and its revision."""

from __future__ import annotations

import re
from dataclasses import dataclass

_HUB = re.compile(
    r"hf://(?:models/)?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*?)(?:@([^/@\s]+))?(?:/.*)?"
)


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model of the Hugging Face Hub."""

    id: str
    """`org/model`."""
    revision: str | None
    """A commit, or whatever was asked for."""

    @property
    def purl(self) -> str:
        """As a package URL: `pkg:huggingface/org/model@COMMIT`."""
        owner, name = self.id.split("/")
        return f"pkg:huggingface/{owner}/{name}" + (
            f"@{self.revision.lower()}" if self.revision else ""
        )


def hub_model(source: str) -> HubModel | None:
    """The model behind `hf://org/model@revision`; None for any other origin."""
    found = _HUB.fullmatch(source)
    return HubModel(found[1], found[2]) if found else None
