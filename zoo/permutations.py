"""Permutations of a network's units: their groups, checked, and applied to its tensors.

A permutation is a vector P of the group's size, applied as `take(W, P, axis)`: place i gets what
was unit P[i]. On an axis that is b times as long as the group, unit i is the entries b i to
b i + b - 1.

Source: Ainsworth et al. 2023, arXiv:2209.04836, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from zoo.errors import PluginError

if TYPE_CHECKING:
    import torch

Axes = Mapping[str, Sequence[str | None]]
"""For each tensor, the group of each of its axes; of `Architecture.axes`."""


def group_sizes(
    axes: Axes, shapes: Mapping[str, Sequence[int]], units: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Units of each group, names ascending.

    Args:
        axes: as of `Architecture.axes`.
        shapes: of the checkpoint's tensors.
        units: as of `Architecture.units`; of other groups the shortest axis tells.
    Raises:
        PluginError: the groups do not fit the tensors; all problems are told.
    """
    lengths: dict[str, list[tuple[int, str]]] = {}
    problems = []
    for name, groups in axes.items():
        if name not in shapes:
            problems.append(f"there is no tensor `{name}`")
            continue
        if len(groups) != len(shapes[name]):
            problems.append(
                f"`{name}` has {len(shapes[name])} axes, and {len(groups)} are described"
            )
            continue
        for group, length in zip(groups, shapes[name], strict=True):
            if group is not None:
                lengths.setdefault(group, []).append((length, name))
    sizes = {g: min(n for n, _ in found) for g, found in sorted(lengths.items())}
    for group, count in (units or {}).items():
        if group not in sizes:
            problems.append(f"no axis has the group `{group}`")
        else:
            sizes[group] = count
    problems += [
        f"an axis of `{name}` has {length} entries, no multiple of the {sizes[group]} units of "
        f"`{group}`"
        for group, found in lengths.items()
        for length, name in found
        if sizes[group] < 1 or length % sizes[group]
    ]
    if problems:
        raise PluginError(
            "The permutation groups do not fit the tensors:",
            "; ".join(problems) + ".",
            "Correct `axes` or `units` of the architecture.",
            problems=problems,
        )
    return sizes


def permuted(
    state: Mapping[str, torch.Tensor], axes: Axes, permutations: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The tensors with the units of some groups reordered; new where they changed.

    Args:
        permutations: group -> integers, shape (units,); groups that are not there stay.
    """
    found = {}
    for name, tensor in state.items():
        for axis, group in enumerate(axes.get(name, ())):
            if group is not None and group in permutations:
                tensor = _permuted(tensor, axis, permutations[group])
        found[name] = tensor
    return found


def _permuted(tensor: torch.Tensor, axis: int, order: torch.Tensor) -> torch.Tensor:
    before, length, after = tensor.shape[:axis], tensor.shape[axis], tensor.shape[axis + 1 :]
    units = tensor.reshape(*before, len(order), length // len(order), *after)
    return units.index_select(axis, order).reshape(tensor.shape)
