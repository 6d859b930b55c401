"""A Bezier curve between two models, bent so that the loss along it is low.

    phi(t) = sum_k  C(n, k) (1-t)^(n-k) t^k  P_k,      n = bends - 1

P_0 and P_n are the models; the points between are trained. With three bends
phi(t) = (1-t)^2 A + 2 t (1-t) P + t^2 B.

Source: Garipov et al. 2018, arXiv:1802.10026, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from zoo.errors import GateFailed
from zoo.paths.norm_statistics import batch_statistics, has_statistics
from zoo.paths.states import mixed

if TYPE_CHECKING:
    import torch

    from zoo.sample import Sample
    from zoo.task import Batch

    State = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class CurveTraining:
    """How the inner points of a curve are trained: SGD with momentum."""

    bends: int = 3
    """Points that define the curve, its two ends among them; 2 is the straight line."""
    epochs: int = 10
    """Passes over the sample; 0 leaves the straight line."""
    lr: float = 0.05
    """Learning rate until half of the epochs; then it falls linearly to 1 % of it at 90 %."""
    weight_decay: float = 5e-4
    """Adds half of it times |phi(t)|^2 to the loss."""
    momentum: float = 0.9
    batch: int = 128


def bernstein(points: int, t: float) -> list[float]:
    """The weight of each point of a curve at t; they sum to 1."""
    n = points - 1
    return [math.comb(n, k) * (1 - t) ** (n - k) * t**k for k in range(points)]


class Curve:
    """A path from position to weights; trained parameters bend, all else goes straight."""

    def __init__(self, ends: tuple[State, State], inner: Sequence[State]) -> None:
        self.ends = ends
        self.inner = tuple(inner)
        """Points between the ends: the trained tensors of each."""

    def __call__(self, t: float) -> dict[str, torch.Tensor]:
        """The weights at a position from 0 to 1; at the ends those of the two models."""
        found = mixed(self.ends, (1 - t, t))
        bent = self.inner[0].keys() if self.inner else ()
        points = [{n: p[n] for n in bent} for p in (self.ends[0], *self.inner, self.ends[1])]
        return found | mixed(points, bernstein(len(points), t))


def train_curve(
    module: torch.nn.Module,
    ends: tuple[State, State],
    sample: Sample,
    plan: CurveTraining,
) -> Curve:
    """Bend the line between two models; all randomness comes from the sample's seed.

    For each batch t is drawn evenly from 0 to 1, and the inner points take a step of SGD on
    loss(phi(t)) + weight_decay / 2 * |phi(t)|^2. They start on the straight line. BatchNorm looks
    at each batch; dropout is off.

    Args:
        module: of the architecture of both; its weights stay as they are.
        sample: training examples; drawn in a new order in each epoch, where the task can.
    Raises:
        GateFailed: the loss is not finite.
    Cost: forward and backward once for each example and epoch.
    Memory: the two ends, and three times each inner point.
    Source: Garipov et al. 2018, arXiv:1802.10026, sections 3 and 4.
    Departs: dropout is off in training too, so that the curve depends on the seed alone.
    """
    import torch
    from torch.func import functional_call

    names, same = _trained(module)
    if plan.bends < 3 or not plan.epochs or not names:
        return Curve(ends, ())
    steps = range(1, plan.bends - 1)
    inner = [mixed([{n: end[n] for n in names} for end in ends], _line(i, plan)) for i in steps]
    points = [{n: _wide(p).requires_grad_() for n, p in one.items()} for one in inner]
    generator = sample.generator()
    optimizer = torch.optim.SGD(
        [p for one in points for p in one.values()], lr=plan.lr, momentum=plan.momentum
    )
    least = 2 if has_statistics(module) else 1
    with batch_statistics(module):
        for epoch in range(plan.epochs):
            for group in optimizer.param_groups:
                group["lr"] = plan.lr * rate(epoch / plan.epochs)
            for x, y in _shuffled(replace(sample, batch=plan.batch), generator):
                if len(x) < least:
                    continue
                weights = bernstein(plan.bends, float(torch.rand((), generator=generator)))
                stops = (ends[0], *points, ends[1])
                at = {n: _sum(weights, [stop[n] for stop in stops]) for n in names}
                buffers = {n: b.clone() for n, b in module.named_buffers()}
                cast = {n: p.to(ends[0][n].dtype) for n, p in at.items()}
                outputs = functional_call(module, (cast, buffers), (x,))
                loss = sample.loss(outputs, y)
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise GateFailed(
                        f"The loss along the curve is {value}, in epoch {epoch + 1}.",
                        "The curve cannot be trained so.",
                        "Use a smaller learning rate: `--set lr=0.01`.",
                    )
                decay = sum((p.square().sum() for p in at.values()), loss.new_zeros(()))
                optimizer.zero_grad()
                (loss + plan.weight_decay / 2 * decay).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    return Curve(ends, [{n: p[c].detach() for n, c in same.items()} for p in points])


def rate(done: float) -> float:
    """The learning rate's factor when a share of the epochs is done: 1 to half, 1 % from 90 %."""
    if done <= 0.5:
        return 1.0
    if done <= 0.9:
        return 1 - 0.99 * (done - 0.5) / 0.4
    return 0.01


def signed_connectivity(values: Sequence[float]) -> tuple[float, int]:
    """(mc, index): the mean of the ends minus the value between them that lies farthest from it.

    Negative where the curve rises over a barrier, positive where it passes below its ends.

    Source: Yang et al. 2021, arXiv:2107.11228, section 2.
    Departs: the ends, which both lie equally far from their mean, are no candidates: where they are
        farthest, rounding would choose the sign.
    """
    middle = (values[0] + values[-1]) / 2
    index = max(range(1, len(values) - 1), key=lambda i: abs(middle - values[i]))
    return middle - values[index], index


def length_mean(states: Sequence[State], values: Sequence[float]) -> float:
    """Mean of a value along a path by its length: trapezoids, each as long as the step in weights.

    Args:
        states: weights at each point, two or more.
    Returns:
        The plain mean where the path has no length.
    """
    lengths = [_distance(a, b) for a, b in pairwise(states)]
    total = sum(lengths)
    if not total:
        return sum(values) / len(values)
    means = [(a + b) / 2 for a, b in pairwise(values)]
    return sum(m * d for m, d in zip(means, lengths, strict=True)) / total


def _distance(a: State, b: State) -> float:
    squares = [
        float((t.double() - b[n].double()).square().sum())
        for n, t in a.items()
        if t.is_floating_point()
    ]
    return math.sqrt(sum(squares))


def _sum(weights: Sequence[float], tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    total = weights[0] * _wide(tensors[0])
    for weight, tensor in zip(weights[1:], tensors[1:], strict=True):
        total = total + weight * _wide(tensor)
    return total


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """In float32, or its own wider type."""
    import torch

    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _line(step: int, plan: CurveTraining) -> tuple[float, float]:
    t = step / (plan.bends - 1)
    return 1 - t, t


def _trained(module: torch.nn.Module) -> tuple[list[str], dict[str, str]]:
    """Names of the parameters that bend, each once, and name -> that name for tied ones too."""
    first: dict[int, str] = {}
    same: dict[str, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if parameter.is_floating_point():
            same[name] = first.setdefault(id(parameter), name)
    return list(first.values()), same


def _shuffled(sample: Sample, generator: torch.Generator) -> Iterator[Batch]:
    """The sample's examples in a new order; as they come where the task has only one."""
    import torch

    size = sample.task.size(sample.split)
    if size is None or sample.task.examples(sample.split, torch.arange(min(size, 1))) is None:
        yield from sample.batches()
        return
    chosen = torch.arange(size)
    if sample.count is not None and sample.count < size:
        chosen = torch.randperm(size, generator=sample.generator())[: sample.count]
    order = chosen[torch.randperm(len(chosen), generator=generator)]
    for start in range(0, len(order), sample.batch):
        part = order[start : start + sample.batch]
        found = sample.task.examples(sample.split, part)
        assert found is not None
        sample.progress.advance(len(part))
        yield found[0].to(sample.device), found[1].to(sample.device)
