"""Mode connectivity along a curve that is bent to avoid barriers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Annotated

from annotated_types import Ge, Gt, Interval

from zoo import Metric, MetricValue, Sample, Subject, hookimpl, metric

PERCENT = 100
"""The published values are errors in percent."""


@metric(
    "mode_connectivity",
    version="1.0.0",
    arity=2,
    needs="data",
    split="train",
    gives={
        "mode_connectivity": "mean error of the ends minus the error on the curve that lies "
        "farthest from it, percent; below 0 is a barrier, above 0 ends that can be improved",
        "loss_connectivity": "the same of the loss, nats",
        "curve_barrier": "largest rise of the loss on the curve above the chord, nats",
        "curve_error_barrier": "the same of the share of wrong answers, 0 to 1",
        "curve_loss": "mean loss along the curve by its length, nats",
        "curve_error": "mean share of wrong answers along the curve by its length, 0 to 1",
    },
    passes=lambda p, models: p.epochs + p.points,
)
def mode_connectivity(
    models: Sequence[Subject],
    sample: Sample,
    *,
    epochs: Annotated[int, Ge(0), "passes over the training examples"] = 10,
    lr: Annotated[float, Gt(0), "learning rate until half of the epochs"] = 0.05,
    weight_decay: Annotated[float, Ge(0), "half of it times |weights|^2 joins the loss"] = 5e-4,
    momentum: Annotated[float, Interval(ge=0, lt=1), "of SGD"] = 0.9,
    train_batch: Annotated[int, Ge(2), "examples per step"] = 128,
    bends: Annotated[int, Ge(3), "points that define the curve, both ends among them"] = 3,
    points: Annotated[int, Ge(3), "positions that are evaluated, both ends among them"] = 5,
    norm_examples: Annotated[
        int, Ge(2), "training examples for BatchNorm's statistics at each position"
    ] = 2048,
) -> Iterator[MetricValue]:
    """Signed mode connectivity along a trained Bezier curve.

        phi(t) = (1-t)^2 A + 2 t (1-t) P + t^2 B,    P trained to make the loss along phi low
        mc = (e(A) + e(B)) / 2 - e(phi(t*)),         t* where |.| is largest

    The curve is trained on the training split, with so many examples as the sample has, and
    evaluated on the sample.

    Cost: `epochs` passes forward and backward, `points` passes forward.
    Memory: two models and three times each inner point.
    Source: Garipov et al. 2018, arXiv:1802.10026 (the curve); Yang et al. 2021, arXiv:2107.11228
        (the signed value).
    Departs: the ends are no candidates for t*, see `zoo.paths.curve`; dropout is off in training.
    """
    from zoo.paths import profile as p
    from zoo.paths.curve import CurveTraining, length_mean, signed_connectivity, train_curve
    from zoo.paths.states import opened_ends

    module, (a, b) = opened_ends(models, sample.device)
    split = "train" if "train" in sample.task.splits else sample.split
    plan = CurveTraining(bends, epochs, lr, weight_decay, momentum, train_batch)
    curve = train_curve(module, (a, b), replace(sample, split=split), plan)
    at = p.even_positions(points)
    found = p.along(module, curve, at, sample, p.norm_sample(sample, norm_examples))
    states = [curve(t) for t in at]
    last = len(at) - 1
    losses = "loss_connectivity", "curve_barrier", "curve_loss"
    errors = "mode_connectivity", "curve_error_barrier", "curve_error"
    for names, unit, values, parts in (
        (losses, 1, found.loss, found.loss_parts),
        (errors, PERCENT, found.error, found.error_parts),
    ):
        if values is None or parts is None:
            continue
        value, index = signed_connectivity(values)
        spread = parts.deviation({0: 0.5, last: 0.5, index: -1})
        yield MetricValue(names[0], unit * value, stderr=None if spread is None else unit * spread)
        highest = p.barrier(at, values, parts)
        yield MetricValue(names[1], highest.height, stderr=highest.stderr)
        yield MetricValue(names[2], length_mean(states, values))


@hookimpl
def zoo_register_metrics(register: Callable[[Metric], None]) -> None:
    register(mode_connectivity)
