"""Layers that hinder interpolation between a base and a fine-tuned model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

from annotated_types import Interval

from zoo import Metric, MetricValue, Sample, Subject, hookimpl, metric

_LAYERS = 24
"""Layers that the cost is told for; how many a model has is not known beforehand."""


def _passes(p: Any, models: int) -> float:
    per_layer = 2 * (p.points - 1) + 1
    return float(2 + _LAYERS * per_layer + p.points * (2 + _LAYERS / 8))


@metric(
    "layer_sharpness",
    version="1.0.0",
    needs="data",
    base=True,
    gives={
        "layer_sharpness": "rise of the loss after one step uphill within the layer, at the "
        "fine-tuned weights, in the unit of the loss; by layer",
        "layer_barrier": "most that accuracy falls below the straight line as the layer alone goes "
        "from the base to the fine-tuned weights, a share from 0 to 1; by layer",
        "layer_barrier_back": "the same as it alone goes back and all others are fine-tuned",
        "layer_loss_barrier": "most that the loss rises above the straight line on the way there, "
        "in the unit of the loss; by layer",
        "straggler": "1 for a layer whose barrier stands out, else 0; by layer",
        "stragglers": "layers that stand out",
        "straggler_correlation": "Spearman's correlation, along the path of all layers together, "
        "of the stragglers' mean sharpness with accuracy, from -1 to 1",
        "sharpness_correlation": "the same of the whole network's sharpness",
    },
    passes=_passes,
)
def layer_sharpness(
    model: Subject,
    sample: Sample,
    *,
    granularity: Annotated[
        Literal["layer", "tensor"], "what is moved at once: a layer or block, or one tensor"
    ] = "layer",
    points: Annotated[int, Interval(ge=3), "places on each path, ends included"] = 5,
    threshold: Annotated[
        float, Interval(ge=0), "barrier above which a layer is a straggler, share of accuracy"
    ] = 0.02,
    rho: Annotated[
        float, Interval(gt=0), "radius of the step; relative to each weight if adaptive"
    ] = 0.01,
    norm: Annotated[Literal["2", "inf"], "norm of the ball"] = "inf",
    adaptive: Annotated[bool, "move each weight in proportion to its size, |w|"] = True,
    dtype: Annotated[Literal["float32", "float64"], "arithmetic"] = "float32",
) -> Iterator[MetricValue]:
    """Layer-wise sharpness and barriers, and the straggler layers between base and fine-tuned.

    A layer is a straggler if its barrier is above the threshold, or above mean + 2 standard
    deviations over the layers. On a task without labels barriers are those of the loss, and only
    the second rule holds.

    When: averaging a fine-tuned model with its base (WiSE-FT) dips on some data; give that data.
        `zoo.landscape.stragglers.repaired` then sparsifies what fine-tuning did to these layers.

    Cost: per layer 2 (points - 1) + 1 passes, forward.
    Source: Abdollahpoorrostam 2024, arXiv:2410.16476; Adilova et al. 2024, arXiv:2307.06966.
    Departs: the paper's code is not public; thresholds and definitions are ours.
    """
    from zoo.landscape import stragglers as numerics
    from zoo.landscape.estimate import value
    from zoo.landscape.layers import layers_of

    between = numerics.Between(model, sample, dtype)
    layers = layers_of(model, between.names, granularity)
    loss = between.objective(1.0)
    tuned = loss.slope()
    ends = (between.at(0.0), tuned)
    if not all(math.isfinite(end.loss) for end in ends):
        return  # there is no line between them
    for name, layer in layers.items():
        if any(n in loss.shapes for n in layer):
            found = numerics.layer_rise(loss, tuned, layer, rho, norm, adaptive)
            yield from value("layer_sharpness", found.loss, name)

    curves = {n: numerics.curve(between, layer, points, ends) for n, layer in layers.items()}
    labelled = tuned.error is not None
    of_loss = {n: numerics.barrier([p.loss for p in there]) for n, (there, _) in curves.items()}
    barriers = of_loss
    if labelled:
        barriers = {
            n: numerics.barrier([p.error or 0.0 for p in there]) for n, (there, _) in curves.items()
        }
        for name, (_, back) in curves.items():
            yield from value("layer_barrier", barriers[name], name)
            height = numerics.barrier([p.error or 0.0 for p in back])
            yield from value("layer_barrier_back", height, name)
    for name, height in of_loss.items():
        yield from value("layer_loss_barrier", height, name)
    barriers = {n: height for n, height in barriers.items() if math.isfinite(height)}
    slow = numerics.stragglers(barriers, threshold if labelled else None)
    for name in barriers:
        yield from value("straggler", float(name in slow), name)
    yield from value("stragglers", len(slow))
    if not labelled:
        return

    accuracy, of_all, of_slow = [], [], []
    for k in range(points):
        loss = between.objective(k / (points - 1))
        here = loss.slope()
        accuracy.append(-(here.error or 0.0))
        of_all.append(numerics.layer_rise(loss, here, None, rho, norm, adaptive).loss)
        rises = [numerics.layer_rise(loss, here, layers[n], rho, norm, adaptive).loss for n in slow]
        of_slow.append(sum(rises) / len(rises) if rises else 0.0)
    yield from value("sharpness_correlation", numerics.rank_correlation(of_all, accuracy))
    if slow:
        yield from value("straggler_correlation", numerics.rank_correlation(of_slow, accuracy))


@hookimpl
def zoo_register_metrics(register: Callable[[Metric], None]) -> None:
    register(layer_sharpness)
