"""An architecture: from a version's directory to a runnable module, and what its layers are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Architecture(ABC):
    """From a version's directory to a runnable module, and back.

    Only `name` and `build` are needed to run, evaluate and measure a model; what else is known
    serves what asks for it, and says so where it is missing.
    """

    name: str
    """What `config.json` calls it (`model_type`), and what `architecture` holds in the registry."""

    @abstractmethod
    def build(self, config: Mapping[str, Any]) -> torch.nn.Module:
        """An uninitialised module whose `state_dict` names are the checkpoint's names.

        Raises:
            InvalidCheckpoint: the configuration lacks what is needed, or contradicts itself.
        """

    def knows(self, config: Mapping[str, Any]) -> bool:
        """Whether this builds a model that no architecture is named after: a library's front door
        says so for all that the library has. Asked in order of registration."""
        return False

    def load(self, directory: Path) -> torch.nn.Module:
        """The module with the weights of a version's directory, in eval mode, on the CPU.

        Raises:
            InvalidCheckpoint: the weights are not those of the module that the configuration asks
                for; lists the tensors that are missing, left over, or of another shape.
        """
        from zoo.networks.modules import load_module

        return load_module(self, directory)

    def layers(self, config: Mapping[str, Any]) -> Sequence[Sequence[str]]:
        """The tensors of each layer, from the input to the output; a pattern (`conv1.*`) stands for
        all names that it fits. Empty where the order is unknown."""
        return ()

    def head(self, config: Mapping[str, Any]) -> str | None:
        """Name of the module that makes the outputs, a `torch.nn.Linear` whose input are the
        features and whose rows are the classes; None where there is none."""
        return None

    def axes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[str | None]]:
        """Permutation groups: for each tensor, the group that acts on each of its axes, or None.

        Permuting the units of one group in all its axes at once leaves the function as it is. An
        axis that is longer than its group holds a block of entries for each unit; a group has as
        many units as its shortest axis is long, if `units` does not say. Empty where unknown.

        Source: Ainsworth et al. 2023, arXiv:2209.04836, section 3 (the specification of axes).
        """
        return {}

    def units(self, config: Mapping[str, Any]) -> Mapping[str, int]:
        """Units of those permutation groups whose every axis holds blocks, such as the heads of an
        attention."""
        return {}
