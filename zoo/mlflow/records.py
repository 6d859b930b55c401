"""What an MLflow registry says of a model version, whichever store it is kept in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class MlflowMetric:
    """The last value that was logged of a metric."""

    name: str
    value: float
    """Finite."""
    step: int
    dataset: str = ""


@dataclass(frozen=True, slots=True)
class MlflowVersion:
    """One version of a registered model."""

    model: str
    number: int
    created: int
    """Milliseconds since 1970, UTC. Tells a version from one that had its number before."""
    source: str
    location: str
    """Where the store keeps it, if it says so; `source` otherwise."""
    run: str
    """Id of the run that made it, or empty."""
    stage: str
    """`Production`, `Staging`, `Archived`; empty for none."""
    status: str
    """`READY`, or why not."""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Those of the model under those of the version."""
    aliases: tuple[str, ...] = ()
    metrics: tuple[MlflowMetric, ...] = ()
    params: Mapping[str, str] = field(default_factory=dict)


class MlflowStore(ABC):
    """A registry of MLflow, to be read."""

    @abstractmethod
    def versions(self) -> list[MlflowVersion]:
        """All versions of all models, by name and number; deleted ones are not among them."""

    @abstractmethod
    def run_artifacts(self, run: str) -> str | None:
        """The directory of a run's artifacts, as a URI; None for an unknown run."""

    @abstractmethod
    def logged_model(self, model_id: str) -> str | None:
        """The directory of a logged model, as a URI; None for an unknown one."""

    @abstractmethod
    def logged_by(self, run: str, name: str) -> str | None:
        """The directory of the model that a run logged under a name, as a URI; None if none."""
