"""From arrays, as files have them, to inputs and targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Len

from zoo.errors import InvalidTask, did_you_mean
from zoo.tasks.examples import Examples

if TYPE_CHECKING:
    import numpy as np
    import torch

CHANNELS = (1, 3, 4)
"""What the channels of an image may be, where its layout is to be guessed."""


@dataclass(frozen=True)
class Where:
    """Two files of the directory."""

    inputs: str
    targets: str


@dataclass(frozen=True)
class ArrayOptions:
    """How arrays of any format become inputs."""

    shape: Annotated[tuple[Annotated[int, Ge(1)], ...], Len(1, 3)] | None = None
    """Shape of one example; as the array has it by default."""
    divide: Annotated[float, Gt(0)] | None = None
    """Inputs are divided by it; by default bytes by 255, and others not at all."""
    layout: Literal["channels_first", "channels_last"] | None = None
    """Of images of several channels; guessed where only one axis can be the channels."""


def examples(
    inputs: np.ndarray,
    targets: np.ndarray,
    options: ArrayOptions,
    labels: Sequence[str],
    path: Path,
) -> Examples:
    """Examples from two arrays.

    Args:
        inputs: shape (n, f), (n, h, w), (n, c, h, w) or (n, h, w, c), any number type.
        targets: shape (n,), whole numbers, or strings: the labels' names.
        path: what messages name.
    """
    return Examples(inputs_of(inputs, options, path), *targets_of(targets, labels, path))


def inputs_of(array: np.ndarray, options: ArrayOptions, path: Path) -> torch.Tensor:
    """float32; images of shape (n, c, h, w) in [0, 1].

    Raises:
        InvalidTask: they have another number of axes, or are not between 0 and 1.
    """
    import numpy as np
    import torch

    if array.dtype.kind not in "buif" or array.ndim < 2:
        raise _invalid(
            path,
            f"holds inputs of type {array.dtype}, shape {array.shape}",
            "Inputs are numbers, (n, features) or (n, height, width) with or without channels.",
        )
    if options.shape is not None:
        if prod(options.shape) != prod(array.shape[1:]):
            raise _invalid(
                path,
                f"holds examples of shape {array.shape[1:]}, which is not {options.shape}",
                "Correct `shape` in the declaration.",
            )
        array = array.reshape(len(array), *options.shape)
    divide = options.divide or (255.0 if array.dtype == np.uint8 else 1.0)
    # Copied, since torch takes no read-only memory; divided once, in float32.
    values = torch.from_numpy(array.astype(np.float32, order="C")).div_(divide)
    if values.ndim == 2:
        return values
    if values.ndim == 3:
        values = values.unsqueeze(1)
    elif values.ndim == 4:
        if _is_channels_last(values, options, path):
            values = values.permute(0, 3, 1, 2).contiguous()
    else:
        raise _invalid(
            path,
            f"holds inputs of shape {tuple(values.shape)}",
            "Images have two axes, or three with their channels; say `shape`.",
        )
    if values.numel() and not (values.min() >= 0 and values.max() <= 1):
        low, high = float(values.min()), float(values.max())
        raise _invalid(
            path,
            f"holds images with values from {low:g} to {high:g}",
            "Images are in [0, 1]: say what to `divide` by.",
        )
    return values


def _is_channels_last(values: torch.Tensor, options: ArrayOptions, path: Path) -> bool:
    if options.layout is not None:
        return options.layout == "channels_last"
    first, last = values.shape[1] in CHANNELS, values.shape[3] in CHANNELS
    if first == last:
        raise _invalid(
            path,
            f"holds images of shape {tuple(values.shape[1:])}, whose channels cannot be told",
            "Say `layout: channels_last` or `layout: channels_first`.",
        )
    return last


def targets_of(
    array: np.ndarray, labels: Sequence[str], path: Path
) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Targets, int64, shape (n,), and the labels: those given, else those found.

    Strings that are all numbers are numbers. Other strings are names of labels.

    Raises:
        InvalidTask: a target is no whole number, or is a name that is not among the labels.
    """
    import numpy as np
    import torch

    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise _invalid(
            path, f"holds targets of shape {array.shape}", "One number or name for each example."
        )
    if array.dtype.kind == "U":
        try:
            array = array.astype(np.int64)
        except (ValueError, OverflowError):
            return _named(array, labels, path)
    if array.dtype.kind not in "bui" and not (
        array.dtype.kind == "f"
        and (np.abs(array) < 2**53).all()
        and (array == np.trunc(array)).all()
    ):
        raise _invalid(path, "holds targets that are not whole numbers", "Classes are counted.")
    targets = torch.from_numpy(array.astype(np.int64))
    if not labels and len(targets):
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= 1 << 20:
            raise _invalid(path, f"holds targets from {low} to {high}", "Classes count from 0.")
        labels = [str(i) for i in range(high + 1)]
    return targets, tuple(labels)


def _named(
    names: np.ndarray, labels: Sequence[str], path: Path
) -> tuple[torch.Tensor, tuple[str, ...]]:
    import torch

    found = [str(name) for name in names]
    labels = tuple(labels) or tuple(sorted(set(found)))
    place = {label: i for i, label in enumerate(labels)}
    unknown = next((name for name in found if name not in place), None)
    if unknown is not None:
        raise _invalid(
            path, f"holds the target `{unknown}`, which is no label", did_you_mean(unknown, labels)
        )
    return torch.tensor([place[name] for name in found], dtype=torch.int64), tuple(labels)


def _invalid(path: Path, what: str, how: str) -> InvalidTask:
    return InvalidTask(f"`{path}` {what}.", how=how, path=str(path))
