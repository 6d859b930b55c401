"""Where a version's record says it came from, read: the model of a hub, and its revision."""

from __future__ import annotations

from dataclasses import dataclass

from zoo.errors import InvalidName
from zoo.hub.names import SCHEME, read_name


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model of a hub."""

    id: str
    """`org/model`."""
    revision: str | None
    """A commit, or whatever was asked for; None where nothing was."""

    @property
    def purl(self) -> str:
        """As a package URL: `pkg:huggingface/org/model@COMMIT`.

        Source: https://github.com/package-url/purl-spec, type `huggingface`.
        """
        return f"pkg:huggingface/{self.id}" + (f"@{self.revision.lower()}" if self.revision else "")


def hub_model(source: str) -> HubModel | None:
    """The model behind `hf://org/model@revision`; None for any other origin."""
    try:
        found = read_name(source)
    except InvalidName:
        return None
    if found is None:
        return None
    asked = "@" in source.removeprefix(SCHEME).removeprefix(found.repo)[:1]
    return HubModel(found.repo, found.revision if asked else None)


def as_hub_model(name: str) -> HubModel | None:
    """The model that a card means by `org/model`; None where a name has no owner, or is a path."""
    return hub_model(SCHEME + name) if name.count("/") == 1 and "@" not in name else None
