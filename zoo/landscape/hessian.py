"""Leading eigenvalues, trace and spectral density of the Hessian of an objective.

Source: Yao, Gholami, Keutzer, Mahoney 2020, "PyHessian", arXiv:1912.07145, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch

from zoo.landscape.estimate import Estimate, mean_of
from zoo.landscape.lanczos import Lanczos, Product, Ritz, lanczos
from zoo.landscape.objective import Objective, dot

_TINY = 1e-6
"""Keeps quotients of norms and eigenvalues from dividing by zero, as in the source."""
_PROBE_BYTES = 128 << 20
"""Memory of the probes that share one pass over the examples."""
_LEAST_PROBES = 10
"""A standard error of fewer is too rough to stop by."""


class Eigenvalue(NamedTuple):
    """An eigenvalue of largest magnitude."""

    value: float
    """Signed."""
    residual: float
    """Norm of H x - value * x for the unit vector x found: a true eigenvalue is at most this far
    away."""
    iterations: int
    """Products with the Hessian that it took."""


class Spectrum(NamedTuple):
    """A spectral density as a few nodes and their weights."""

    values: torch.Tensor
    """Shape (k,), ascending: the Ritz values of all starts."""
    weights: torch.Tensor
    """Shape (k,), sum 1: share of the eigenvalues at each."""
    size: int
    """Eigenvalues there are: parameters."""


def power_iteration(
    product: Product,
    starts: Iterable[torch.Tensor],
    *,
    iterations: int = 100,
    tolerance: float = 1e-3,
) -> list[Eigenvalue]:
    """The eigenvalues of largest magnitude, one per start, by power iteration with deflation.

        v <- v without the vectors found, normalised;  mu <- v . H v;  v <- H v / (|H v| + 1e-6)

    until mu changes by less than `tolerance` of itself; the value is the mu before the last.

    Cost: at most `iterations` products for each start. Memory: two vectors, and one per start.
    """
    vectors: list[torch.Tensor] = []
    found: list[Eigenvalue] = []
    for v in starts:
        before: float | None = None
        residual, taken = math.nan, 0
        for taken in range(1, iterations + 1):  # noqa: B007  (told after the loop)
            for u in vectors:
                v = v.add(u, alpha=-dot(u, v))
            v = v / (dot(v, v) ** 0.5 + _TINY)
            h = product(v)
            now = dot(v, h)
            residual = max(dot(h, h) - now**2, 0.0) ** 0.5
            v = h / (dot(h, h) ** 0.5 + _TINY)
            if before is not None and abs(before - now) / (abs(before) + _TINY) < tolerance:
                break
            before = now
        vectors.append(v)
        found.append(Eigenvalue(math.nan if before is None else before, residual, taken))
    return found


def leading(
    product: Product,
    start: torch.Tensor,
    count: int = 1,
    *,
    steps: int = 100,
    tolerance: float = 1e-3,
) -> list[Eigenvalue]:
    """The `count` eigenvalues of largest magnitude, by Lanczos.

    Stops when the residual of each is at most `tolerance` times its magnitude; the error of the
    value is then smaller still, of the order of the residual's square over the gap. An eigenvalue
    that occurs several times is found once.

    Cost: at most `steps` products. Memory: one vector per step.
    """
    run = Lanczos(product, start)
    while True:
        run.step()
        ritz = run.ritz()
        top = ritz.values.abs().argsort(descending=True)[:count]
        close = ritz.residuals[top] <= tolerance * ritz.values[top].abs()
        enough = len(top) == count and bool(close.all())
        if enough or run.exhausted or len(run.alpha) == steps:
            break
    return [
        Eigenvalue(float(ritz.values[i]), float(ritz.residuals[i]), len(run.alpha)) for i in top
    ]


def trace(
    objective: Objective, probes: int, generator: torch.Generator, tolerance: float = 0.0
) -> Estimate:
    """Trace of the Hessian, by Hutchinson's estimator.

        tr H = E[v . H v],   v uniform over {-1, 1}^p;   variance 2 |H off its diagonal|_F^2

    Where there are no more parameters than probes, it is the sum of the diagonal, and exact.

    Args:
        tolerance: stop once the standard error is at most this share of the mean, after ten probes
            or more; 0 takes all of them.
    Cost: two passes for each probe.
    Source: Hutchinson 1990; Yao et al. 2020, arXiv:1912.07145.
    Departs: PyHessian stops when the running mean changes little, which happens by luck.
    """
    size = objective.size
    at_once = max(1, min(probes, _PROBE_BYTES // (size * objective.start.element_size())))
    if size <= probes:
        diagonal = 0.0
        for first in range(0, size, at_once):
            diagonal += sum(objective.curvatures(_units(objective, first, at_once)))
        return Estimate(diagonal, 0.0, size)
    if tolerance:
        at_once = min(at_once, _LEAST_PROBES)
    found: list[float] = []
    while len(found) < probes:
        count = min(at_once, probes - len(found))
        found += objective.curvatures(list(rademacher(objective, generator, count)))
        so_far = mean_of(found)
        if (
            tolerance
            and len(found) >= _LEAST_PROBES
            and so_far.stderr is not None
            and so_far.stderr <= tolerance * abs(so_far.value)
        ):
            break
    return mean_of(found)


def quadrature(
    objective: Objective, starts: int, steps: int, generator: torch.Generator
) -> list[Spectrum]:
    """The spectral density, once for each random start, by stochastic Lanczos quadrature.

    Starts whose products are not finite are left out.

    Cost: at most `steps` products for each start. Memory: `steps` vectors.
    Source: Ghorbani, Krishnan, Xiao 2019, arXiv:1901.10159; Yao et al. 2020, arXiv:1912.07145.
    """

    def of(ritz: Ritz) -> Spectrum:
        return Spectrum(ritz.values, ritz.weights, objective.size)

    vectors = rademacher(objective, generator, starts)
    found = (of(lanczos(objective.hvp, v, steps)) for v in vectors)
    return [spectrum for spectrum in found if len(spectrum.values)]


def joined(spectra: Sequence[Spectrum]) -> Spectrum:
    """The mean of several estimates of one density."""
    values = torch.cat([s.values for s in spectra])
    weights = torch.cat([s.weights for s in spectra]) / len(spectra)
    order = values.argsort()
    return Spectrum(values[order], weights[order], spectra[0].size)


def density(spectrum: Spectrum, points: int = 10_000) -> tuple[torch.Tensor, torch.Tensor]:
    """The spectral density as a curve, for a plot.

        rho(x) = sum_i w_i N(x; lambda_i, s^2),   s^2 = 1e-5 * max(1, lambda_max - lambda_min)

    Returns:
        x and rho(x), each of shape (points,), float64; x reaches 0.01 beyond the nodes, and rho
        integrates to 1 over it.
    """
    values, weights = spectrum.values, spectrum.weights
    low, high = float(values[0]), float(values[-1])
    variance = 1e-5 * max(1.0, high - low)
    x = torch.linspace(low - 0.01, high + 0.01, points, dtype=torch.float64)
    rho = torch.zeros_like(x)
    for value, weight in zip(values, weights, strict=True):
        rho += weight * torch.exp(-((x - value) ** 2) / (2 * variance))
    return x, rho / torch.trapezoid(rho, x)


def effective_dimension(spectrum: Spectrum, ridge: float) -> float:
    """Directions that the data determines: sum of lambda / (lambda + ridge) over lambda > 0.

    Dimensionless, at most the number of parameters.
    Source: MacKay 1992; Maddox, Benton, Wilson 2020, arXiv:2003.02139, section 3.
    """
    positive = spectrum.values.clamp_min(0)
    return spectrum.size * float((spectrum.weights * positive / (positive + ridge)).sum())


def negative_mass(spectrum: Spectrum, resolution: float = 1e-3) -> float:
    """Share of the eigenvalues below zero, from 0 to 1.

    Args:
        resolution: those within this share of the largest magnitude from zero cannot be told from
            it, and do not count.
    """
    below = -resolution * float(spectrum.values.abs().max())
    return float(spectrum.weights[spectrum.values < below].sum())


def _units(objective: Objective, first: int, count: int) -> list[torch.Tensor]:
    """The unit vectors of `count` parameters from one on, or of those there are."""
    rows = torch.zeros(min(count, objective.size - first), objective.size).to(objective.start)
    rows.diagonal(first).fill_(1)
    return list(rows)


def gaussian(objective: Objective, generator: torch.Generator) -> torch.Tensor:
    """A vector of independent standard normal entries, shape (p,)."""
    drawn = torch.randn(objective.size, generator=generator, dtype=torch.float64)
    return drawn.to(objective.start)


def rademacher(
    objective: Objective, generator: torch.Generator, count: int
) -> Iterator[torch.Tensor]:
    """`count` vectors of independent signs, each of shape (p,)."""
    for _ in range(count):
        bits = torch.randint(0, 2, (objective.size,), generator=generator, dtype=torch.int8)
        yield (2 * bits - 1).to(objective.start)
