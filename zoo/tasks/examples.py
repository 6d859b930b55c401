"""Examples of a split, as tensors: what readers give, what derivations change."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from zoo.digest import tensor_digest, weights_digest
from zoo.errors import InvalidTask

if TYPE_CHECKING:
    import torch


class Examples(NamedTuple):
    """Inputs, targets and the names of the classes.

    Images are float32, shape (n, c, h, w), in [0, 1]; features float32, shape (n, f); tokens
    int64, shape (n, t). Targets are int64, shape (n,); of tokens, shape (n, t).
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    labels: tuple[str, ...] = ()
    """In order of the targets' numbers; empty where the data does not say."""

    def checked(self, where: str) -> Examples:
        """Themselves, when they are examples of a task.

        Args:
            where: what they are called in messages.
        Raises:
            InvalidTask: none, or not as many inputs as targets; a target that has no label, labels
                without names of their own, or an input that is not a number.
        """
        import torch

        inputs, targets, labels = self
        what = ""
        if len(inputs) != len(targets):
            what = f"has {len(inputs)} inputs and {len(targets)} targets"
        elif not len(inputs):
            what = "has no examples"
        elif targets.dtype != torch.int64:
            what = f"has targets of type {targets.dtype}, and they must be whole numbers"
        elif int(targets.min()) < 0 or (labels and int(targets.max()) >= len(labels)):
            low, high = int(targets.min()), int(targets.max())
            what = f"has targets from {low} to {high}, and {len(labels)} labels"
        elif len(set(labels)) < len(labels) or "" in labels:
            what = f"has labels without names of their own: {list(labels)[:8]}"
        elif inputs.is_floating_point() and not bool(inputs.isfinite().all()):
            what = "has inputs that are not finite numbers"
        if what:
            raise InvalidTask(f"{where} {what}.", how="Mend its data or its declaration.")
        return self

    @property
    def digest(self) -> str:
        """`sha256:` + 64 hex digits over type, shape and bytes of inputs and targets."""
        return weights_digest(
            (name, _digest(values)) for name, values in zip(self._fields, self[:2], strict=False)
        )


def _digest(values: torch.Tensor) -> str:
    import torch

    names = {torch.float32: "F32", torch.int64: "I64", torch.float64: "F64", torch.uint8: "U8"}
    raw = memoryview(values.contiguous().view(-1).view(torch.uint8).numpy().data)
    return tensor_digest(names[values.dtype], values.shape, raw)
