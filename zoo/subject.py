"""A model that is evaluated or measured: its lazy weights, its module, its base."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zoo.errors import PluginError, did_you_mean

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
    known: Sequence[str] = field(default=(), repr=False)
    """Names of the architectures that plugins offer, for what an error suggests."""

    def module(self, device: str = "cpu", dtype: torch.dtype | None = None) -> torch.nn.Module:
        """The runnable module with its weights, in eval mode; a new one at each call.

        Its weights and what it computes are float32, in whichever type they are stored: inputs are,
        and what is measured should not depend on the rounding of half precision.

        Args:
            dtype: another type; who asks for it casts the inputs too.
        Raises:
            PluginError: no plugin offers its architecture.
        """
        if self.make is None:
            raise unknown_architecture(self.label, self.config, known=self.known)
        module = self.make()
        return (module.float() if dtype is None else module.to(dtype)).to(device)

    def state(self) -> dict[str, torch.Tensor]:
        """Name -> tensor, on the CPU. Memory: the model."""
        from zoo.checkpoint import state_of

        return state_of(self.checkpoint)


def unknown_architecture(
    label: str, config: Mapping[str, Any], instead: str = "", known: Sequence[str] = ()
) -> PluginError:
    """Why a model cannot be run that no plugin knows, and how to make one known.

    Args:
        known: names of architectures, to suggest the nearest.
        instead: a sentence about what can be done without a module.
    """
    from zoo.storage.register import architecture_of

    name = architecture_of(config)
    if name is None:
        why = "its directory has no `config.json` that names an architecture in `model_type`."
        how = "Write one, and register it again: docs/how-to/add-an-architecture.md."
    else:
        why = f"no plugin offers the architecture `{name}`."
        near = did_you_mean(name, list(known))
        how = _package_for(config) or (
            (f"{near} Or add" if near.startswith("Did") else "Add")
            + " a plugin that builds it: docs/how-to/add-an-architecture.md."
        )
    how = f"{how} {instead}".rstrip()
    return PluginError(f"`{label}` cannot be run:", why, how, architecture=name)


def _package_for(config: Mapping[str, Any]) -> str:
    """What to install for a configuration in the layout of a library that is not there."""
    from importlib.util import find_spec

    listed = config.get("architectures")
    if isinstance(listed, list) and listed and find_spec("transformers") is None:
        return "Perhaps it is one of transformers: `pip install transformers`."
    if isinstance(config.get("architecture"), str) and find_spec("timm") is None:
        return "Perhaps it is one of timm: `pip install timm`."
    return ""
