"""Sharpness: how much the loss rises when the weights are moved a little."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval, Len

from zoo import Metric, MetricValue, Sample, Subject, hookimpl, metric

if TYPE_CHECKING:
    import torch

    from zoo.landscape.objective import Objective, Point
    from zoo.landscape.sharpness import Rise

Radius = Annotated[float, Interval(gt=0)]
Radii = Annotated[
    Radius | Annotated[list[Radius], Len(1)],
    "radius, dimensionless if adaptive, else in units of the weights. Of several, the first gives "
    "the value, and each is kept as `rho=...` too",
]
Adaptive = Annotated[bool, "move each weight in proportion to its size, |w|"]
Ball = Annotated[Literal["2", "inf"], "norm of the ball"]
Part = Annotated[
    Annotated[int, Interval(ge=1)] | None,
    "examples per batch that are perturbed on their own (m-sharpness); none: all together",
]
Centered = Annotated[bool, "centre each output and divide it by its norm before the loss"]
Precision = Annotated[Literal["float32", "float64"], "arithmetic; float64 for small radii"]


def _count(p: Any) -> int:
    return len(p.rho) if isinstance(p.rho, list) else 1


@metric(
    "sam_sharpness",
    version="1.0.0",
    needs="data",
    split="train",
    gives={
        "sam_sharpness": "rise of the loss after one step uphill to the edge of the ball, in the "
        "unit of the loss",
        "sam_sharpness_error": "rise of the share of wrong answers there",
    },
    passes=lambda p, models: 1.0 + _count(p),
)
def sam_sharpness(
    model: Subject,
    sample: Sample,
    *,
    rho: Radii = [0.05, 0.025, 0.1],  # noqa: B006  (pydantic copies it)
    norm: Ball = "2",
    adaptive: Adaptive = False,
    m: Part = None,
    center_logits: Centered = False,
    dtype: Precision = "float32",
) -> Iterator[MetricValue]:
    """Sharpness by one step: what SAM minimises, or ASAM with `adaptive` (use a rho of 0.5 to 2).

        L(w + delta) - L(w),   delta = rho c^2 g / |c g|   (norm 2),   rho c sign(g)   (norm inf)

    with c = 1, or |w| if adaptive.

    When: a cheap look at sharpness. Far from a minimum it is mostly the norm of the gradient.

    Cost: one pass, and one forward for each radius.
    Source: Foret et al. 2021, arXiv:2010.01412; Kwon et al. 2021, arXiv:2102.11600.
    """
    from zoo.landscape.objective import objectives
    from zoo.landscape.sharpness import one_step, rise

    def of(loss: Objective, from_: Point, scale: torch.Tensor, radius: float) -> list[Rise]:
        assert from_.gradient is not None
        return [rise(loss, from_, one_step(from_.gradient, scale, radius, norm))]

    parts = objectives(model, sample, m, dtype, center_logits=center_logits)
    return _measured("sam_sharpness", parts, of, rho, adaptive, sloped=True)


@metric(
    "average_sharpness",
    version="1.0.0",
    needs="data",
    split="train",
    gives={
        "average_sharpness": "mean rise of the loss under Gaussian perturbations of the weights, "
        "in the unit of the loss",
        "average_sharpness_error": "mean rise of the share of wrong answers under them",
    },
    passes=lambda p, models: 1.0 + _count(p) * p.draws,
)
def average_sharpness(
    model: Subject,
    sample: Sample,
    *,
    rho: Radii = [0.1, 0.05, 0.2],  # noqa: B006  (pydantic copies it)
    adaptive: Adaptive = True,
    draws: Annotated[int, Interval(ge=1), "perturbations of each batch"] = 10,
    m: Part = 128,
    center_logits: Centered = False,
    dtype: Precision = "float32",
) -> Iterator[MetricValue]:
    """Average-case sharpness.

        E[L(w + delta)] - L(w),   delta ~ N(0, rho^2 c^2),   c = 1, or |w| if adaptive

    At a small radius it is rho^2 / 2 * trace(H diag(c^2)).

    Cost: one pass, and one forward for each draw and radius.
    Source: Andriushchenko et al. 2023, arXiv:2302.07011, section 3.
    """
    from zoo.landscape import sharpness
    from zoo.landscape.objective import objectives

    generator = sample.generator()

    def of(loss: Objective, from_: Point, scale: torch.Tensor, radius: float) -> list[Rise]:
        return sharpness.average(loss, from_, scale, radius, draws, generator)

    parts = objectives(model, sample, m, dtype, center_logits=center_logits)
    return _measured("average_sharpness", parts, of, rho, adaptive, sloped=False)


@metric(
    "worst_sharpness",
    version="1.0.0",
    needs="data",
    split="train",
    gives={
        "worst_sharpness": "largest rise of the loss that was found within the ball, mean over "
        "batches, in the unit of the loss",
        "worst_sharpness_error": "rise of the share of wrong answers there",
    },
    passes=lambda p, models: 1.0 + _count(p) * (p.iterations + 2),
)
def worst_sharpness(
    model: Subject,
    sample: Sample,
    *,
    rho: Radii = [0.05, 0.025, 0.1],  # noqa: B006  (pydantic copies it)
    norm: Ball = "2",
    adaptive: Adaptive = False,
    iterations: Annotated[int, Interval(ge=1), "steps of Auto-PGD"] = 20,
    m: Part = 128,
    center_logits: Centered = False,
    dtype: Precision = "float32",
) -> Iterator[MetricValue]:
    """Worst-case sharpness, by Auto-PGD.

        max over |delta / c| <= rho of L(w + delta), - L(w),   c = 1, or |w| if adaptive

    on each batch of m examples by itself, then the mean. For the adaptive inf-norm use radii of
    1e-4 to 1e-2. Never negative, and never below `sam_sharpness` of the same batches.

    Cost: per radius, as many passes as iterations, and two.
    Source: Andriushchenko et al. 2023, arXiv:2302.07011, section 3; Croce and Hein 2020,
        arXiv:2003.01690.
    Departs: see `zoo.landscape.sharpness.worst`.
    """
    from zoo.landscape import sharpness
    from zoo.landscape.objective import objectives

    generator = sample.generator()

    def of(loss: Objective, from_: Point, scale: torch.Tensor, radius: float) -> list[Rise]:
        return [sharpness.worst(loss, from_, scale, radius, norm, iterations, generator)]

    parts = objectives(model, sample, m, dtype, center_logits=center_logits)
    return _measured("worst_sharpness", parts, of, rho, adaptive, sloped=True)


def _measured(
    name: str,
    parts: Iterable[tuple[Objective, int]],
    of: Callable[[Objective, Point, torch.Tensor, float], Sequence[Rise]],
    rho: float | list[float],
    adaptive: bool,
    *,
    sloped: bool,
) -> Iterator[MetricValue]:
    """Mean rises at each radius, of the loss and of the error.

    Args:
        parts: objectives of the batches, and the examples of each.
        of: (objective, its value at the weights, c, radius) -> rises.
        sloped: whether `of` needs the gradient there.
    """
    from zoo.landscape.estimate import Estimate, mean_of, value
    from zoo.landscape.sharpness import scale_of

    radii = list(dict.fromkeys(rho if isinstance(rho, list) else [rho]))
    found: dict[float, list[list[Rise]]] = {radius: [] for radius in radii}
    weights: list[int] = []
    for loss, examples in parts:
        here = loss.slope() if sloped else loss.at()
        scale = scale_of(loss, adaptive)
        for radius, rises in found.items():
            rises.append(list(of(loss, here, scale, radius)))
        weights.append(examples)

    def mean(batches: list[list[float]]) -> Estimate:
        """Over batches; of a single batch, over the perturbations it was given."""
        each = [mean_of(batch) for batch in batches]
        return each[0] if len(each) == 1 else mean_of([e.value for e in each], weights)

    for radius, batches in found.items():
        splits = [""] if radius == radii[0] else []
        splits += [f"rho={radius:g}"] if len(radii) > 1 else []
        height = mean([[r.loss for r in batch] for batch in batches])
        if not math.isfinite(height.value):
            continue  # a rise of the error alone would say that there is something to measure
        errors = [[r.error for r in batch if r.error is not None] for batch in batches]
        wrong = mean(errors) if errors[0] else None
        for split in splits:
            yield from value(name, height.value, split, height.stderr)
            if wrong is not None:
                yield from value(f"{name}_error", wrong.value, split, wrong.stderr)


@hookimpl
def zoo_register_metrics(register: Callable[[Metric], None]) -> None:
    register(sam_sharpness)
    register(average_sharpness)
    register(worst_sharpness)
