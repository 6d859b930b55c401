"""The parents of a merge, opened: what stands behind each name of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zoo.checkpoints.components import is_index
from zoo.engine.plan import Model
from zoo.overlays.overlay import FOLDER, task_names
from zoo.records import FileRecord, RunInput, Version

RECIPE_FILE = "zoo_recipe.json"
"""The resolved recipe, in every merged version's directory: an exported model says what made it."""


@dataclass(frozen=True, slots=True)
class Input:
    """One parent of a merge."""

    model: Model
    version: Version | None
    """None for a path that is merged without being registered."""
    beside: Mapping[FileRecord, Path]
    """Files a merge takes over from its donor, and where they are now: configuration, tokenizer,
    code. Not the card, which describes another model."""
    artifacts: Mapping[str, Input] = field(default_factory=dict)
    """What the method needs beside an expert, by name."""
    applied: Applied | None = None
    """For an adapter: what it was applied to."""

    @property
    def config(self) -> str | None:
        """Object key of its configuration."""
        return next((f.object for f in self.beside if f.path == "config.json"), None)

    def with_artifacts(self, found: Mapping[str, Input]) -> Input:
        """The same, with these artifacts as well."""
        kept = {**self.artifacts, **found}
        models = {role: one.model for role, one in kept.items()}
        return replace(self, model=replace(self.model, artifacts=models), artifacts=kept)


@dataclass(frozen=True, slots=True)
class Applied:
    """How an adapter became a model that a merge can take; see `zoo.adapters.inputs`."""

    base: Input
    """The model it was applied to."""
    factors: str
    """Weights digest of the adapter itself. The model's digest is of factors, configuration and
    base together: with another of either, other weights come out."""
    config: str | None
    """Object key of `adapter_config.json`."""
    source: str
    """Reference or path of the adapter alone."""


Made = str | Path | Input
"""What an earlier stage made: a version's reference, a directory, or what it will be."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """All parents of a merge, opened."""

    experts: tuple[Input, ...]
    base: Input | None
    selection: dict[str, Any] | None
    """The query as asked, and the versions it gave, frozen."""
    giver: Input | None = None
    """The donor, where the recipe names one."""
    speaker: Input | None = None
    """Whose tokenizer the result has, where that model is not merged."""

    @property
    def donor(self) -> Input:
        """Whose configuration, tokenizer and other files the result carries."""
        return self.giver or self.base or self.experts[0]

    @property
    def tasks(self) -> list[str]:
        """What each expert's task is called: as it is registered, or else, and where two experts
        have one task, as the entry is."""
        own = [e.version.task if e.version else None for e in self.experts]
        entries = [e.version.name if e.version else Path(e.model.label).stem for e in self.experts]
        return task_names(
            [t if t and own.count(t) == 1 else n for t, n in zip(own, entries, strict=True)]
        )

    def records(self, parameters: dict[str, Any]) -> tuple[RunInput, ...]:
        """The parents as a run remembers them."""
        weights = parameters.get("weight")
        found = []
        if self.base and self.base.version:
            found.append(RunInput(self.base.version.id, self.base.model.digest, "base", 0, None))
        known = {i.version for i in found}
        for i, expert in enumerate(self.experts):
            if expert.version is None:
                continue
            weight = weights[i] if isinstance(weights, list) else None
            found.append(
                RunInput(
                    expert.version.id,
                    expert.model.digest,
                    "expert",
                    i,
                    float(weight) if isinstance(weight, (int, float)) else None,
                )
            )
            applied = expert.applied
            if applied and applied.base.version and applied.base.version.id not in known:
                known.add(applied.base.version.id)
                digest = applied.base.model.digest
                found.append(RunInput(applied.base.version.id, digest, "adapted", i, None))
            for role, artifact in expert.artifacts.items():
                if artifact.version is not None:
                    digest = artifact.model.digest
                    found.append(RunInput(artifact.version.id, digest, role, i, None))
        if self.giver and self.giver.version:
            digest = self.giver.model.digest
            if self.giver.version.id not in [i.version for i in found]:
                found.append(RunInput(self.giver.version.id, digest, "donor", 0, None))
        if self.speaker and self.speaker.version:
            digest = self.speaker.model.digest
            found.append(RunInput(self.speaker.version.id, digest, "tokenizer", 0, None))
        return tuple(found)


def is_carried(path: str) -> bool:
    """Whether a file beside the weights describes the architecture, not how the weights came."""
    if path in (RECIPE_FILE, "mergekit_config.yml") or is_index(path):
        return False
    return not path.endswith(".safetensors") and not path.startswith(("README", FOLDER))
