"""Output gates: what a merge must satisfy before anything of it is published."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from zoo.checkpoint import TensorInfo
from zoo.dtypes import torch_dtype
from zoo.errors import GateFailed

if TYPE_CHECKING:
    import torch

    from zoo.engine.plan import Task


class Gate:
    """Checks on one tensor: finite inputs, a result that its type can hold, a norm in bounds.

    <x, x> is not finite if any entry is not, and not below the square of any entry, so one product
    serves all checks; it is summed in the type of the values and never part of the result.
    """

    def __init__(self, info: TensorInfo, labels: Sequence[str], bound: float) -> None:
        self._info = info
        self._labels = labels
        self._bound = bound
        self._largest = _largest(info.dtype)
        self._inputs = [0.0] * len(labels)
        self._output = 0.0

    def inputs(self, values: torch.Tensor) -> None:
        for i, row in enumerate(values):
            square = float(row.dot(row))
            if not math.isfinite(square):
                self._refuse_if_not_finite(row, f"`{self._labels[i]}` has")
                square = float(row.double().dot(row.double()))
            self._inputs[i] += square

    def output(self, values: torch.Tensor) -> None:
        flat = values.reshape(-1)
        square = float(flat.dot(flat))
        if not math.isfinite(square):
            self._refuse_if_not_finite(flat, "The merge made")
            square = float(flat.double().dot(flat.double()))
        if square >= self._largest * self._largest:
            self._refuse_overflow(flat)
        self._output += square

    def close(self) -> None:
        largest = max(self._inputs, default=0.0)
        if self._output > self._bound**2 * largest and largest > 0:
            raise GateFailed(
                f"The norm of tensor `{self._info.name}` ran away:",
                f"{math.sqrt(self._output):.3g}, where the largest input has "
                f"{math.sqrt(largest):.3g}.",
                "Lower the scale, or set `max_norm_drift` in the recipe if this is meant.",
                tensor=self._info.name,
            )

    def _refuse_overflow(self, values: torch.Tensor) -> None:
        import torch

        # A conversion to E4M3 has no infinity to go to, and stops at the largest value.
        top = float(values.abs().max())
        stored = values.to(torch_dtype(self._info.dtype)).float()
        if not bool(torch.isfinite(stored).all()) or (
            self._info.dtype == "F8_E4M3" and top > self._largest
        ):
            raise GateFailed(
                f"Tensor `{self._info.name}` does not fit in {self._info.dtype}:",
                f"its largest magnitude is {top:g}.",
                "Choose a wider type, for example `dtype: float32`.",
                tensor=self._info.name,
            )

    def _refuse_if_not_finite(self, values: torch.Tensor, who: str) -> None:
        import torch

        bad = int((~torch.isfinite(values)).sum())
        if bad:
            raise GateFailed(
                f"{who} {bad} {'value that is' if bad == 1 else 'values that are'} not finite "
                f"(NaN or infinite) in tensor `{self._info.name}`.",
                "A merge of them would be worthless.",
                "Find out where they come from; nothing was published.",
                tensor=self._info.name,
                count=bad,
            )


def refuse_untied(tasks: Sequence[Task], digests: Mapping[str, str]) -> None:
    """Raise GateFailed if two tensors that are one by the configuration came out as two.

    Args:
        digests: of all tensors of the result.
    """
    made = {t.info.name: t.info for t in tasks}
    for task in tasks:
        info, other = task.info, made.get(task.alias_of or "")
        if other is None or (info.dtype, info.shape) != (other.dtype, other.shape):
            continue
        if digests[info.name] != digests[other.name]:
            raise GateFailed(
                f"Tensors `{info.name}` and `{other.name}` came out different.",
                "They are tied: whoever loads the result uses one for both.",
                "Set `tie_word_embeddings` to false in the models' config.json if their heads are "
                "their own.",
                tensor=info.name,
            )


def _largest(dtype: str) -> float:
    import torch

    return float(torch.finfo(torch_dtype(dtype)).max)
