"""Loss and error of the models on a path, and how far they rise above its ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from zoo.errors import InvalidTask
from zoo.measuring.scores import check_outputs
from zoo.paths.norm_statistics import has_statistics, reestimate
from zoo.paths.states import mixed
from zoo.progress import NoProgress
from zoo.sample import Sample

if TYPE_CHECKING:
    import torch

    State = Mapping[str, torch.Tensor]

NORM_EXAMPLES = 2048
"""Training examples that BatchNorm's statistics are estimated on by default, at each point."""
IGNORED = -100
"""The target that torch's cross-entropy passes over."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a task makes of the models on a path, point by point."""

    at: tuple[float, ...]
    """Positions from 0 to 1, ascending, both ends among them."""
    loss: tuple[float, ...]
    """Mean loss, in the task's unit (nats where it has labels)."""
    error: tuple[float, ...] | None
    """Share of wrong answers, 0 to 1; None where targets are no labels."""
    loss_parts: Parts
    """What the losses are means of."""
    error_parts: Parts | None


@dataclass(frozen=True, slots=True)
class Parts:
    """Values of a path on parts of the sample: single answers, or else batches."""

    values: torch.Tensor
    """Mean over each part, shape (positions, parts), float64."""
    sizes: torch.Tensor
    """Answers or examples of each part, shape (parts,), float64."""

    def means(self) -> tuple[float, ...]:
        """Mean over the whole sample, by position."""
        return tuple((self.values @ self.sizes / self.sizes.sum()).tolist())

    def deviation(self, weights: Mapping[int, float]) -> float | None:
        """Standard error of sum_i weights_i v(i), i a position's index, paired over the parts.

        With w_b the share of part b of the sample, d_b its value of the sum, d their mean and
        B the number of parts:  sqrt( B / (B-1) * sum_b (w_b (d_b - d))^2 ).

        Returns:
            None with fewer than two parts.
        """
        import torch

        count = len(self.sizes)
        if count < 2:
            return None
        shares = self.sizes / self.sizes.sum()
        each = sum((w * self.values[i] for i, w in weights.items()), torch.zeros(count).double())
        spread = (shares * (each - each @ shares)).square().sum()
        return math.sqrt(count / (count - 1) * float(spread))


@dataclass(frozen=True, slots=True)
class Barrier:
    """How far a curve rises above its ends."""

    height: float
    """In the unit of the curve."""
    index: int
    """Which point rises most."""
    stderr: float | None = None
    """Of the rise at that point over samples of examples; None at an end, or where parts are not
    told."""


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
    losses: list[torch.Tensor] = []
    errors: list[torch.Tensor] = []
    is_known: bool | None = None  # the loss of each answer
    for t in at:
        module.load_state_dict(dict(path(t)))
        module.eval()
        if norms is not None and has_statistics(module):
            # The last batch may be of a few examples, which must not count as much as a full one.
            reestimate(module, (x for x, _ in norms.batches()), "sample_weighted")
        sizes, loss, error = [], [], []
        with torch.inference_mode():
            for x, y in sample.batches():
                outputs = module(x)
                if sample.task.labels and y.ndim == 1:
                    check_outputs(sample.task, outputs)
                sizes.append(len(x))
                mean = sample.loss(outputs, y)
                rows = answers(outputs, y)
                if rows is not None:
                    error.append(wrong(*rows).double().cpu())
                if is_known is None:
                    is_known = rows is not None and bool(_each(*rows).mean().isclose(mean))
                each = _each(*rows) if is_known and rows else mean.reshape(1)
                loss.append(each.double().cpu())
        if not sizes:
            raise InvalidTask(f"Split `{sample.split}` of `{sample.task.name}` has no examples.")
        losses.append(torch.cat(loss))
        errors += [torch.cat(error)] if error else []
    values = torch.stack(losses)
    loss_parts = Parts(
        values,
        values.new_ones(values.shape[1]) if is_known else torch.tensor(sizes).to(values),
    )
    error_parts = None
    if errors:
        each = torch.stack(errors)
        error_parts = Parts(each, each.new_ones(each.shape[1]))
    return Profile(
        tuple(at),
        loss_parts.means(),
        error_parts.means() if error_parts else None,
        loss_parts,
        error_parts,
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


def barrier(at: Sequence[float], values: Sequence[float], parts: Parts | None = None) -> Barrier:
    """The largest rise above the chord, max over t of v(t) - ((1-t) v(0) + t v(1)), at least 0;
    not a number where one of the values is none.

    Args:
        at: positions from 0 to 1, both ends among them.
        parts: what the values are means of, for the standard error.
    Source: Frankle et al. 2020, arXiv:1912.05671, section 2; Entezari et al. 2022,
        arXiv:2110.06296, section 2.
    """
    heights = rises(at, values)
    if not all(map(math.isfinite, values)):
        return Barrier(math.nan, 0)
    last = len(at) - 1
    index = max(range(len(at)), key=heights.__getitem__)
    t = at[index]
    spread = None
    if parts is not None and 0 < index < last:
        spread = parts.deviation({0: t - 1, last: -t, index: 1})
    return Barrier(max(0.0, heights[index]), index, spread)


def answers(
    outputs: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Logits (n, classes) and labels (n,) of a batch, one row for each answer: an example, or a
    token that is not ignored (-100). None where the targets are no labels."""
    if targets.is_floating_point() or outputs.ndim != targets.ndim + 1:
        return None
    rows, wanted = outputs.flatten(0, -2), targets.flatten()
    asked = wanted != IGNORED
    return (rows, wanted) if asked.all() else (rows[asked], wanted[asked])


def wrong(rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Which answers are wrong, shape (n,); those whose largest logit is no finite number are."""
    largest, answer = rows.max(1)
    return (answer != targets) | ~largest.isfinite()


def _each(rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    from torch.nn.functional import cross_entropy

    return cross_entropy(rows, targets, reduction="none")
