"""A task: a named data set with splits, a loss and a score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from zoo.records import MetricValue
    from zoo.sample import Sample

Batch = tuple["torch.Tensor", "torch.Tensor"]
"""Inputs (n, ...) and targets (n, ...)."""


class Task(ABC):
    """A named data set with splits, a loss and a score.

    A task of labels needs `labels`, `digest` and `batches`: its loss is cross-entropy, and it is
    scored by accuracy. Others say what their loss is, and how they are scored.
    """

    name: str
    splits: Sequence[str] = ("test",)
    """Parts of the data; `train` and `test` mean what they say."""
    labels: Sequence[str] = ()
    """Names of the classes, in order of a model's outputs; empty for a task of no classes."""
    license: str | None = None
    """SPDX identifier of the data's licence."""

    def digest(self, split: str) -> str:
        """Names the data of a split: `sha256:` + 64 hex digits. Empty where it is unknown; what is
        measured on it is then not known to be measured on the same data."""
        return ""

    def size(self, split: str) -> int | None:
        """Examples of a split; None where it is unknown."""
        return None

    @abstractmethod
    def batches(self, split: str, size: int = 256) -> Iterable[Batch]:
        """All examples of a split, always in one order, in batches of `size`."""

    def examples(self, split: str, indices: torch.Tensor) -> Batch | None:
        """Some examples, by their place in the split; None where the data has only one order."""
        return None

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean loss over a batch, differentiable, shape (); cross-entropy, in nats."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(outputs, targets)

    def evaluate(self, module: torch.nn.Module, sample: Sample) -> list[MetricValue]:
        """The scores of a module in eval mode: of a task of labels, accuracy, loss and calibration.

        A value's `split` names a part of the score, such as a class or a noise level.
        """
        from zoo.measuring.scores import scores_of_labels

        return scores_of_labels(self, module, sample)
