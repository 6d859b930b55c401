"""What plugins offer besides methods and formats: architectures, tasks, metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from zoo.records import MetricValue


class Architecture(ABC):
    """From a version's directory to a runnable module."""

    name: str
    """What `config.json` calls it (`model_type`), and what `architecture` holds in the registry."""

    @abstractmethod
    def build(self, config: Mapping[str, Any]) -> torch.nn.Module:
        """An uninitialised module whose `state_dict` names are the checkpoint's names."""

    def load(self, directory: Path) -> torch.nn.Module:
        """The module with the version's weights, in eval mode, on the CPU."""
        import json

        from safetensors.torch import load_file

        config = json.loads((directory / "config.json").read_text())
        module = self.build(config)
        state: dict[str, torch.Tensor] = {}
        for file in sorted(directory.glob("*.safetensors")):
            state.update(load_file(file))
        module.load_state_dict(state)
        return module.eval()


class Task(ABC):
    """A named data set with a score."""

    name: str

    @abstractmethod
    def evaluate(self, module: torch.nn.Module) -> list[MetricValue]:
        """The scores of a runnable module; each names its split, data set and protocol."""

    def batches(self, split: str) -> Iterable[Any]:
        """Batches of a split, for methods that need data (`needs="data"`)."""
        raise NotImplementedError(f"task {self.name} offers no batches")


class Metric(ABC):
    """A number computed from one version, or from an unordered set of versions."""

    name: str
    arity: int | None = 1
    """Versions it takes; None for any number of two or more."""

    @abstractmethod
    def measure(self, directories: list[Path]) -> list[MetricValue]:
        """Measure versions given by their directories; order must not matter for sets."""
