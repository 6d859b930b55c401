"""Loss and error of the models on a path, and how far they rise above its ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from zoo.errors import InvalidTask
from zoo.paths.norm_statistics import has_statistics, reestimate
from zoo.paths.states import mixed
from zoo.progress import NoProgress
from zoo.sample import Sample
from zoo.scores import check_outputs

if TYPE_CHECKING:
    import torch

    State = Mapping[str, torch.Tensor]

NORM_EXAMPLES = 2048
"""Training examples that BatchNorm's statistics are estimated on by default, at each point."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a task makes of the models on a path, point by point."""

    at: tuple[float, ...]
    """Positions from 0 to 1, ascending, both ends among them."""
    loss: tuple[float, ...]
    """Mean loss, in the task's unit (nats where it has labels)."""
    error: tuple[float, ...] | None
    """Share of wrong answers, 0 to 1; None for a task of no labels."""
    sizes: tuple[int, ...] = ()
    """Examples of each batch."""
    batch_loss: tuple[tuple[float, ...], ...] = ()
    """Mean loss of each batch, by point."""
    batch_error: tuple[tuple[float, ...], ...] = ()
    """The same of the error; empty for a task of no labels."""


@dataclass(frozen=True, slots=True)
class Barrier:
    """How far a curve rises above its ends."""

    height: float
    """In the unit of the curve."""
    index: int
    """Which point rises most."""
    stderr: float | None = None
    """Of the rise at that point over samples of examples; None at an end, or with fewer than two
    batches."""


def even_positions(points: int) -> list[float]:
    """`points` positions from 0 to 1 at equal distances, both ends among them."""
    return [i / (points - 1) for i in range(points)]


def along(
    module: torch.nn.Module,
    path: Callable[[float], State],
    at: Sequence[float],
    sample: Sample,
    norms: Sample | None = None,
) -> Profile:
    """Loss and error of the models on a path.

    Args:
        module: takes the weights of each point in turn; those of the last one stay.
        path: position -> weights.
        at: positions, ascending.
        norms: examples that BatchNorm's statistics are estimated on at every point; needed where
            the module has such layers, see `norm_sample`.
    Raises:
        IncompatibleModels: the module has not one output for each label.
        InvalidTask: the sample is empty.
    Cost: a pass over the sample for each position, forward only.
    Memory: one batch and one set of weights.
    Source: Frankle et al. 2020, arXiv:1912.05671, section 2.
    """
    import torch

    sizes: list[int] = []
    losses: list[tuple[float, ...]] = []
    errors: list[tuple[float, ...]] = []
    for t in at:
        module.load_state_dict(dict(path(t)))
        module.eval()
        if norms is not None and has_statistics(module):
            reestimate(module, (x for x, _ in norms.batches()))
        loss: list[float] = []
        error: list[float] = []
        sizes = []
        with torch.inference_mode():
            for x, y in sample.batches():
                outputs = module(x)
                if sample.task.labels:
                    check_outputs(sample.task, outputs)
                    error.append(float((outputs.argmax(1) != y).double().mean()))
                sizes.append(len(x))
                loss.append(float(sample.loss(outputs, y)))
        if not sizes:
            raise InvalidTask(f"Split `{sample.split}` of `{sample.task.name}` has no examples.")
        losses.append(tuple(loss))
        errors.append(tuple(error))
    return Profile(
        tuple(at),
        tuple(_mean(loss, sizes) for loss in losses),
        tuple(_mean(error, sizes) for error in errors) if sample.task.labels else None,
        tuple(sizes),
        tuple(losses),
        tuple(errors) if sample.task.labels else (),
    )


def line(
    module: torch.nn.Module,
    ends: tuple[State, State],
    at: Sequence[float],
    sample: Sample,
    norms: Sample | None = None,
) -> Profile:
    """`along` the straight line (1 - t) * ends[0] + t * ends[1]."""
    return along(module, lambda t: mixed(ends, (1 - t, t)), at, sample, norms)


def norm_sample(sample: Sample, examples: int = NORM_EXAMPLES) -> Sample:
    """What BatchNorm's statistics are estimated on: inputs of the training split where the task has
    one, else of the sample's own."""
    split = "train" if "train" in sample.task.splits else sample.split
    return replace(sample, split=split, count=examples, progress=NoProgress())


def rises(at: Sequence[float], values: Sequence[float]) -> list[float]:
    """How far each point lies above the chord between the ends: v(t) - (1-t) v(0) - t v(1)."""
    ends = zip(at, values, strict=True)
    return [v - ((1 - t) * values[0] + t * values[-1]) for t, v in ends]


def barrier(
    at: Sequence[float],
    values: Sequence[float],
    batches: Sequence[Sequence[float]] = (),
    sizes: Sequence[int] = (),
) -> Barrier:
    """The largest rise above the chord, max over t of v(t) - ((1-t) v(0) + t v(1)), at least 0.

    Args:
        at: positions from 0 to 1, both ends among them.
        batches, sizes: of a `Profile`, for the standard error.
    Source: Frankle et al. 2020, arXiv:1912.05671, section 2; Entezari et al. 2022,
        arXiv:2110.06296, section 2.
    """
    heights = rises(at, values)
    index = max(range(len(heights)), key=heights.__getitem__)
    t = at[index]
    spread = None
    if batches and 0 < index < len(at) - 1:
        spread = deviation(batches, sizes, {0: t - 1, len(at) - 1: -t}, index)
    return Barrier(max(0.0, heights[index]), index, spread)


def deviation(
    batches: Sequence[Sequence[float]],
    sizes: Sequence[int],
    weights: Mapping[int, float],
    index: int,
) -> float | None:
    """Standard error of v(index) + sum_i weights_i v(i), paired over the batches.

    With w_b the share of batch b among all examples, d_b its value of the sum, d their mean and B
    the number of batches:  sqrt( B / (B-1) * sum_b (w_b (d_b - d))^2 ).

    Returns:
        None with fewer than two batches.
    """
    if len(sizes) < 2:
        return None
    all_weights = dict(weights)
    all_weights[index] = all_weights.get(index, 0.0) + 1.0
    total = sum(sizes)
    each = [sum(w * batches[i][b] for i, w in all_weights.items()) for b in range(len(sizes))]
    mean = _mean(each, sizes)
    spread = sum((n / total * (d - mean)) ** 2 for d, n in zip(each, sizes, strict=True))
    return float((len(sizes) / (len(sizes) - 1) * spread) ** 0.5)


def _mean(values: Sequence[float], sizes: Sequence[int]) -> float:
    """Mean over examples, from the means of batches."""
    return sum(v * n for v, n in zip(values, sizes, strict=True)) / sum(sizes)
