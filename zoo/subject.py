"""A model that is evaluated or measured: its lazy weights, its module, its base."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from zoo.architecture import Architecture
    from zoo.checkpoint import Checkpoint
    from zoo.records import Version


@dataclass(frozen=True, slots=True)
class Subject:
    """A model as metrics see it."""

    label: str
    """What it is called in messages: a reference, or a path."""
    digest: str
    """Weights digest."""
    checkpoint: Checkpoint = field(repr=False)
    """Its tensors, read when asked for."""
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Its `config.json`; empty where it has none."""
    architecture: Architecture | None = None
    """None where no plugin knows it; `module` then raises."""
    version: Version | None = None
    """None for a path that was not registered."""
    base: Subject | None = None
    make: Callable[[], torch.nn.Module] | None = field(default=None, repr=False)
    """Builds the module; of `module`."""

    def module(self, device: str = "cpu") -> torch.nn.Module:
        """The runnable module with its weights, in eval mode; a new one at each call.

        Raises:
            PluginError: no plugin offers its architecture.
        """
        from zoo.errors import PluginError

        if self.make is None:
            name = self.config.get("model_type")
            raise PluginError(
                f"`{self.label}` cannot be run:",
                f"no plugin offers the architecture `{name}`."
                if name
                else "its directory has no `config.json` with a `model_type`.",
                "See docs/how-to/add-an-architecture.md.",
                architecture=name,
            )
        return self.make().to(device)

    def state(self) -> dict[str, torch.Tensor]:
        """Name -> tensor, on the CPU. Memory: the model."""
        from zoo.checkpoint import state_of

        return state_of(self.checkpoint)
