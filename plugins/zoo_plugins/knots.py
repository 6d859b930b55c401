"""KnOTS: bring the deltas to common directions by one decomposition, and merge them there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Interval

from zoo import Chunk, Fraction, Method, PerExpert, Statistic, hookimpl, method
from zoo.stages.magnitude import Magnitudes
from zoo.stages.magnitude import trim as cut_off
from zoo.stages.signs import add_up, elect, fuse, weigh
from zoo.stages.spectrum import left_vectors

if TYPE_CHECKING:
    import torch

    from zoo.random import Random


@dataclass(frozen=True, slots=True)
class Aligned:
    """The deltas of one tensor in the directions they share: delta_i = basis coordinates_i."""

    coordinates: torch.Tensor
    """Shape (e, k n), C order of (k, n)."""
    basis: torch.Tensor | None
    """Shape (m, k); None where the tensor is no matrix, and its own coordinates."""
    columns: int = 0
    """n."""

    def chunk(self, tensor: Chunk) -> Chunk:
        """The coordinates as one chunk."""
        size = self.coordinates.shape[1]
        return replace(tensor, shape=(size,), start=0, stop=size, index=0, count=1)

    def back(self, merged: torch.Tensor) -> torch.Tensor:
        """From merged coordinates, shape (k n,), the delta, (m, n) or (n,)."""
        if self.basis is None:
            return merged
        return self.basis @ merged.view(self.basis.shape[1], self.columns)


def align(deltas: torch.Tensor, concat: str, space: str, threshold: float) -> Aligned:
    """Write the deltas of one tensor in the left singular vectors of all of them side by side.

    Args:
        deltas: shape (e, *shape).
    """
    import torch

    if deltas.dim() < 3 or deltas.numel() == 0:
        return Aligned(deltas.reshape(len(deltas), -1), None)
    tasks = deltas.flatten(2)
    if concat == "outputs":
        tasks = tasks.transpose(1, 2)
    beside = tasks.transpose(0, 1).reshape(tasks.shape[1], -1)
    basis, values = left_vectors(beside, threshold)
    del beside
    inverse = basis
    if space == "v":
        inverse, basis = basis / values, basis * values
    coordinates = torch.matmul(inverse.T, tasks)
    return Aligned(coordinates.flatten(1), basis, tasks.shape[2])


class AlignedMagnitudes(Magnitudes):
    """The cut of every expert among the coordinates of all tensors."""

    def start(self, tensor: str, shape: tuple[int, ...], parameters: Any) -> Any:
        return _Seen(parameters, super().start(tensor, shape, parameters))

    def add(
        self,
        state: Any,
        models: torch.Tensor,
        base: torch.Tensor | None,
        chunk: Chunk,
        stats: Mapping[str, Any],
    ) -> None:
        p = state.parameters
        aligned = align(models, p.concat, p.space, p.sv_threshold)
        state.size = aligned.coordinates.shape[1]
        super().add(state.inner, aligned.coordinates, None, aligned.chunk(chunk), stats)

    def finish(self, states: Mapping[str, Any]) -> Any:
        # Known after the first look only: how many directions there are is for the data to say.
        self.elements = sum(state.size for state in states.values())
        return super().finish({name: state.inner for name, state in states.items()})


@dataclass(slots=True)
class _Seen:
    parameters: Any
    inner: Any
    size: int = 0


def _statistics(p: Any, experts: int) -> Sequence[Statistic]:
    if p.merge == "linear" or p.density == [1] * experts:
        return []
    inclusive = p.trim == "kth_value_inclusive"

    def count(density: float, n: int) -> int:
        return n if density >= 1 else int(density * n) + inclusive

    keep = [[partial(count, density)] for density in p.density]
    reads = ("density", "merge", "trim")
    return [AlignedMagnitudes(keep, "model", reads, inclusive=inclusive)]


def _trivial(p: Any, experts: int) -> int | None:
    if p.lambda_ == 0 or not any(p.weight):
        return -1
    whole = p.lambda_ == 1 and not p.drop and (p.merge == "linear" or p.density == [1])
    averaged = p.merge == "ties" and p.aggregate == "mean"
    return 0 if experts == 1 and whole and (averaged or p.weight == [1]) else None


def _dropped_whole(p: Any, experts: int) -> str | None:
    if p.drop and p.merge == "ties" and p.density != [1] * experts:
        return "drop and density both thin the deltas out; with drop, set density=1"
    return None


def _scratch(shape: tuple[int, ...], models: int, width: int) -> int:
    """The deltas side by side, their directions, and then their coordinates and what is fused."""
    elements = prod(shape)
    held = 2 * models * width * elements
    if len(shape) < 2 or not elements:
        return held
    short, long = sorted((shape[0], elements // shape[0]))
    side = min(long, models * short)
    return held + width * long * side + 40 * side * side


@method(
    "knots",
    version="1.0.0",
    needs="tensor",
    statistics=_statistics,
    scratch=_scratch,
    replay="platform",
    tolerance=1e-2,
    shortcut=_trivial,
    check=_dropped_whole,
)
def knots(
    deltas: torch.Tensor,
    *,
    merge: Annotated[Literal["ties", "linear"], "how aligned deltas are merged"] = "ties",
    density: Annotated[PerExpert[Fraction], "fraction of aligned entries kept"] = 0.2,
    weight: Annotated[PerExpert[float], "coefficient of each delta"] = 1.0,
    lambda_: Annotated[float, "scale of the merged delta, dimensionless"] = 0.6,
    aggregate: Annotated[
        Literal["mean", "sum", "max"], "how agreeing entries are fused, for merge=ties"
    ] = "mean",
    drop: Annotated[
        float, Interval(ge=0, lt=1), "share of aligned entries dropped at random, as DARE does"
    ] = 0.0,
    trim: Annotated[
        Literal["exact", "kth_value_inclusive"],
        "keep floor(K D) entries; the authors' code keeps one more",
    ] = "exact",
    space: Annotated[
        Literal["sigma_v", "v"], "merge S V_i, as the authors' code, or V_i, as the paper says"
    ] = "sigma_v",
    concat: Annotated[
        Literal["inputs", "outputs"], "side on which the deltas are put side by side"
    ] = "inputs",
    sv_threshold: Annotated[
        float, Ge(0), "singular values up to this fraction of the largest are left out"
    ] = 1e-6,
    stats: Mapping[str, Any],
    chunk: Chunk,
    random: Random,
) -> torch.Tensor:
    """Write the deltas in the directions they share, and merge what they do along these.

        [delta_1 ... delta_e] = U S [V_1 ... V_e]^T       for each matrix, singular values > 0
        X_i = S V_i^T                                     delta_i = U X_i, over all matrices
        X   = TIES of the X_i: keep the floor(K D) largest of each, elect signs, mean of agreeing
        merged = base + lambda * U X

    When: low-rank updates (LoRA merged into their base) of different tasks, which TIES finds
    little agreement between. With merge=linear it is task arithmetic, and decomposes nothing.

    Args:
        deltas: shape (e, *shape), overwritten.
    Returns:
        The merged delta, shape `shape`.
    Cost: O(m n e min(m, e n)) time for each matrix and pass: one pass at density=1, three below,
        since the deltas are trimmed over the whole model, and their coordinates, as large as
        they, are not kept. Memory for one tensor of each model, three times that and more for a
        large short side.
    Source: Stoica et al. 2025, arXiv:2410.19735, section 4.
    Departs: tensors of one axis are their own coordinates, convolutions are matrices
        (out, rest). A singular value is zero relative to the largest, not below 1e-5. An entry
        whose sum is exactly zero is elected positive. Scales of LoRA (alpha / r) are in the
        deltas already; the authors' code leaves them out.
    """
    weights: list[float] = weight  # type: ignore[assignment]
    if merge == "linear" and not drop:
        return add_up(weigh(deltas, weights)).mul_(lambda_)
    aligned = align(deltas, concat, space, sv_threshold)
    found = aligned.coordinates
    if drop:
        for i, row in enumerate(found):
            kept = random.uniform(i)[: len(row)] >= drop
            row.mul_(kept).div_(1 - drop)
    if "cut" in stats:
        cut_off(found, [cut for (cut,) in stats["cut"]], aligned.chunk(chunk))
    weigh(found, weights)
    summed = add_up(found)
    if merge == "ties":
        summed = fuse(found, elect(summed, 1.0), weights, aggregate)
    delta = aligned.back(summed)
    if concat == "outputs" and aligned.basis is not None:
        delta = delta.T
    return delta.mul_(lambda_).reshape(deltas.shape[1:])


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(knots)
