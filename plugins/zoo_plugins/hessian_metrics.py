"""Curvature of the loss: leading eigenvalues and trace of the Hessian, and its spectral density."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval

from zoo import Fraction, Metric, MetricValue, Sample, Subject, hookimpl, metric

if TYPE_CHECKING:
    from zoo.landscape.hessian import Spectrum

_PRODUCT = 2
"""Passes that a product with the Hessian costs; `zoo.landscape.objective.HESSIAN_PRODUCT`."""


def _hessian_passes(p: Any, models: int) -> float:
    starts = p.top if p.solver == "power" else 1
    return float(_PRODUCT * (p.probes + starts * p.iterations))


@metric(
    "hessian",
    version="1.0.0",
    needs="data",
    split="train",
    gives={
        "hessian_top": "eigenvalue of the Hessian of largest magnitude, signed: below zero, the "
        "model is not at a minimum; loss per squared parameter. Split by rank from the 2nd on",
        "hessian_residual": "|H v - top v| of the unit vector v found: an eigenvalue is at most "
        "this far from the value given; loss per squared parameter",
        "hessian_trace": "trace of the Hessian, by Hutchinson's estimator; loss per squared "
        "parameter",
        "hessian_mean": "mean eigenvalue, trace / parameters; loss per squared parameter",
    },
    passes=_hessian_passes,
)
def hessian(
    model: Subject,
    sample: Sample,
    *,
    top: Annotated[int, Interval(ge=1), "leading eigenvalues"] = 1,
    solver: Annotated[
        Literal["lanczos", "power"],
        "lanczos: until the residual is small; power: power iteration with deflation, as PyHessian",
    ] = "lanczos",
    iterations: Annotated[
        int, Interval(ge=2), "products with the Hessian at most, per eigenvalue with `power`"
    ] = 100,
    tolerance: Annotated[
        float, Interval(ge=0), "of an eigenvalue, relative: its residual, or with `power` a change"
    ] = 1e-3,
    probes: Annotated[
        int, Interval(ge=1), "random vectors for the trace; as many as there are parameters: exact"
    ] = 50,
    trace_tolerance: Annotated[
        Fraction, "stop once the trace's standard error is below this share of it; 0: all probes"
    ] = 0.0,
    dtype: Annotated[
        Literal["float32", "float64"], "arithmetic; float64 for small networks"
    ] = "float32",
) -> Iterator[MetricValue]:
    """Leading eigenvalues and trace of the Hessian of the mean loss, in eval mode.

        H = d^2 L / d theta^2,   L = mean loss over the sample,   theta = all trainable parameters

    When: to tell sharp from flat minima of one architecture. Not invariant to rescaling layers of a
        ReLU network (W1 a, W2 / a): compare models that were trained alike.

    Cost: two passes for each product; Lanczos keeps one vector per step.
    Source: Yao, Gholami, Keutzer, Mahoney 2020, arXiv:1912.07145; code amirgholami/PyHessian.
    Departs: Lanczos by default, which stops by a bound on the error; a fixed number of probes, or a
        stop by their standard error.
    """
    from zoo.landscape import hessian as numerics
    from zoo.landscape.estimate import value
    from zoo.landscape.objective import objective

    loss = objective(model, sample, dtype)
    generator = sample.generator()
    if solver == "lanczos":
        start = numerics.gaussian(loss, generator)
        found = numerics.leading(loss.hvp, start, top, steps=iterations, tolerance=tolerance)
    else:
        starts = (numerics.gaussian(loss, generator) for _ in range(top))
        found = numerics.power_iteration(
            loss.hvp, starts, iterations=iterations, tolerance=tolerance
        )
    for rank, one in enumerate(found, 1):
        split = str(rank) if rank > 1 else ""
        yield from value("hessian_top", one.value, split)
        yield from value("hessian_residual", one.residual, split)
    trace = numerics.trace(loss, probes, sample.generator(), trace_tolerance)
    share = None if trace.stderr is None else trace.stderr / loss.size
    yield from value("hessian_trace", trace.value, stderr=trace.stderr)
    yield from value("hessian_mean", trace.value / loss.size, stderr=share)


@metric(
    "hessian_density",
    version="1.0.0",
    needs="data",
    split="train",
    gives={
        "hessian_largest": "largest eigenvalue that the quadrature saw; loss per squared parameter",
        "hessian_smallest": "smallest one, negative away from a minimum; loss per squared "
        "parameter",
        "hessian_negative_mass": "share of the eigenvalues below zero, from 0 to 1",
        "hessian_effective_dimension": "sum of l / (l + ridge) over the eigenvalues l > 0, "
        "dimensionless",
    },
    passes=lambda p, models: float(_PRODUCT * p.starts * p.steps),
)
def hessian_density(
    model: Subject,
    sample: Sample,
    *,
    starts: Annotated[int, Interval(ge=1), "random starts; two or more give standard errors"] = 3,
    steps: Annotated[int, Interval(ge=1), "Lanczos steps from each, at most"] = 100,
    ridge: Annotated[
        float, Interval(gt=0), "curvature that counts as half a direction, loss per parameter^2"
    ] = 1.0,
    dtype: Annotated[
        Literal["float32", "float64"], "arithmetic; float64 for small networks"
    ] = "float32",
) -> Iterator[MetricValue]:
    """The spectral density of the Hessian, by stochastic Lanczos quadrature, in a few numbers.

    The curve itself, for a plot: `zoo.landscape.hessian.quadrature`, `joined` and `density`.

    Cost: two passes for each step of each start; memory of one vector per step.
    Source: Ghorbani, Krishnan, Xiao 2019, arXiv:1901.10159; Yao et al. 2020, arXiv:1912.07145.
        Effective dimension: Maddox, Benton, Wilson 2020, arXiv:2003.02139.
    Departs: three starts, not one, so that there is a standard error; eigenvalues within 1e-3 of
        the largest magnitude from zero are not counted as negative.
    """
    from zoo.landscape import hessian as numerics
    from zoo.landscape.estimate import mean_of, value
    from zoo.landscape.objective import objective

    loss = objective(model, sample, dtype)
    spectra = numerics.quadrature(loss, starts, steps, sample.generator())
    if not spectra:
        return
    both = numerics.joined(spectra)
    yield from value("hessian_largest", float(both.values[-1]))
    yield from value("hessian_smallest", float(both.values[0]))

    def dimension(spectrum: Spectrum) -> float:
        return numerics.effective_dimension(spectrum, ridge)

    derived: dict[str, Callable[[Spectrum], float]] = {
        "hessian_negative_mass": numerics.negative_mass,
        "hessian_effective_dimension": dimension,
    }
    for name, number in derived.items():
        mean = mean_of([number(s) for s in spectra])
        yield from value(name, mean.value, stderr=mean.stderr)


@hookimpl
def zoo_register_metrics(register: Callable[[Metric], None]) -> None:
    register(hessian)
    register(hessian_density)
