"""Barriers on the straight lines between models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Annotated

from annotated_types import Ge

from zoo import Metric, MetricValue, Sample, Subject, hookimpl, metric

Points = Annotated[int, Ge(3), "positions on the line, both ends among them"]
NormExamples = Annotated[
    int, Ge(2), "training examples for BatchNorm's statistics at each position"
]


@metric(
    "barrier",
    version="1.0.0",
    arity=2,
    needs="data",
    gives={
        "barrier": "largest rise of the loss above the chord between the two, nats",
        "barrier_over_mean": "largest loss minus the mean of the two ends, nats",
        "barrier_over_worse": "largest loss minus that of the worse end, nats",
        "midpoint_barrier": "rise of the loss above the chord half way, nats",
        "barrier_position": "place of the largest rise, from the nearer end, 0 to 0.5; told where "
        "there is a barrier",
        "error_barrier": "largest rise of the share of wrong answers above its chord, 0 to 1",
        "midpoint_error_barrier": "rise of the share of wrong answers half way, -1 to 1",
    },
    passes=lambda p, models: p.points,
)
def barrier(
    models: Sequence[Subject],
    sample: Sample,
    *,
    points: Points = 11,
    norm_examples: NormExamples = 2048,
) -> Iterator[MetricValue]:
    """Loss barrier on the straight line between two models (linear mode connectivity).

        barrier = max over t of  L((1-t) A + t B) - ((1-t) L(A) + t L(B)),    at least 0

    The midpoint is told for an odd number of points only. BatchNorm's statistics are estimated
    anew at every position, ends too. Two models are held to be connected where the error barrier is
    below 0.02.

    Cost: `points` passes over the sample, forward only.
    Source: Frankle et al. 2020, arXiv:1912.05671, section 2; Entezari et al. 2022,
        arXiv:2110.06296; Ainsworth et al. 2023, arXiv:2209.04836 (`barrier_over_mean`).
    """
    from zoo.paths import profile as p
    from zoo.paths.states import opened_ends

    module, (a, b) = opened_ends(models, sample.device)
    norms = p.norm_sample(sample, norm_examples)
    found = p.line(module, (a, b), p.even_positions(points), sample, norms)
    middle = points // 2 if points % 2 else None
    loss = found.loss
    highest = p.barrier(found.at, loss, found.loss_parts)
    yield MetricValue("barrier", highest.height, stderr=highest.stderr)
    if highest.height:
        at = found.at[highest.index]
        yield MetricValue("barrier_position", min(at, 1 - at))
    yield MetricValue("barrier_over_mean", max(loss) - (loss[0] + loss[-1]) / 2)
    yield MetricValue("barrier_over_worse", max(loss) - max(loss[0], loss[-1]))
    if middle:
        yield MetricValue("midpoint_barrier", p.rises(found.at, loss)[middle])
    if found.error is not None:
        highest = p.barrier(found.at, found.error, found.error_parts)
        yield MetricValue("error_barrier", highest.height, stderr=highest.stderr)
        if middle:
            yield MetricValue("midpoint_error_barrier", p.rises(found.at, found.error)[middle])


@metric(
    "set_barrier",
    version="1.0.0",
    arity=None,
    needs="data",
    gives={
        "simplex_barrier": "loss of the mean of all models minus their mean loss, nats",
        "simplex_error_barrier": "the same of the share of wrong answers, -1 to 1",
        "largest_barrier": "largest barrier among all pairs, nats",
        "largest_error_barrier": "the same of the share of wrong answers, 0 to 1",
    },
    passes=lambda p, models: p.points * models * (models - 1) / 2 + models + 1,
)
def set_barrier(
    models: Sequence[Subject],
    sample: Sample,
    *,
    points: Points = 11,
    norm_examples: NormExamples = 2048,
) -> Iterator[MetricValue]:
    """Whether several models share one low region: barriers among all pairs, and at their mean.

        simplex_barrier = L(mean of the models) - mean of L(model)

    Where each model was aligned to one of them, the largest barrier tells whether one permutation
    for each model connects them all (strong linear connectivity).

    Cost: `points` passes over the sample for each pair, forward only.
    Memory: all models.
    Source: Sharma et al. 2024, arXiv:2404.06498, section 3 (strong linear connectivity).
    """
    from zoo.paths import profile as p
    from zoo.paths.states import mixed, opened_ends

    module, states = opened_ends(models, sample.device)
    norms = p.norm_sample(sample, norm_examples)
    n = len(states)
    # The models themselves, then their mean: a path of n + 1 stops.
    stops = [[float(i == j) for j in range(n)] for i in range(n)] + [[1 / n] * n]
    center = p.along(module, lambda i: mixed(states, stops[int(i)]), range(n + 1), sample, norms)
    weights = {n: 1.0} | dict.fromkeys(range(n), -1 / n)
    value = center.loss[n] - sum(center.loss[:n]) / n
    yield MetricValue("simplex_barrier", value, stderr=center.loss_parts.deviation(weights))
    if center.error is not None and center.error_parts is not None:
        value = center.error[n] - sum(center.error[:n]) / n
        spread = center.error_parts.deviation(weights)
        yield MetricValue("simplex_error_barrier", value, stderr=spread)
    at = p.even_positions(points)
    lines = [p.line(module, pair, at, sample, norms) for pair in combinations(states, 2)]
    yield MetricValue("largest_barrier", max(p.barrier(at, one.loss).height for one in lines))
    errors = [one.error for one in lines if one.error is not None]
    if errors:
        yield MetricValue("largest_error_barrier", max(p.barrier(at, e).height for e in errors))


@hookimpl
def zoo_register_metrics(register: Callable[[Metric], None]) -> None:
    register(barrier)
    register(set_barrier)
