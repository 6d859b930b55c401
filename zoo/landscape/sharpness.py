"""How much the loss rises within a ball around the parameters: one step, on average, at worst.

A perturbation is delta = c * u, entry by entry, with |u| at most rho: c is 1, or |w| for adaptive
sharpness, or 0 outside of the layer that is looked at. All is computed in u, so that every ball is
plain, and adaptive values do not change when the layers of a ReLU network are rescaled.

Source: Foret et al. 2021, arXiv:2010.01412 (SAM); Kwon et al. 2021, arXiv:2102.11600 (ASAM);
Andriushchenko et al. 2023, arXiv:2302.07011, section 3 (average and worst case).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch

from zoo.landscape.objective import Objective, Point, dot

Norm = Literal["2", "inf"]
_TINY = 1e-12
"""Keeps a step from dividing by a gradient of zero."""
MOMENTUM = 0.75
"""Share of the new step; the rest is the step before."""
_PROGRESS = 0.75
"""Steps of a window that must have reached a new best, or the step size is halved."""


class Rise(NamedTuple):
    """How far a perturbed model is above the one that was perturbed."""

    loss: float
    error: float | None
    """Rise of the share of wrong answers; None for a task of no labels."""


def scale_of(
    objective: Objective, adaptive: bool, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """c, shape (p,): |w| or 1, and 0 where a mask is false."""
    start = objective.start
    scale = start.abs() if adaptive else torch.ones_like(start)
    return scale if mask is None else scale * mask


def one_step(gradient: torch.Tensor, scale: torch.Tensor, rho: float, norm: Norm) -> torch.Tensor:
    """The perturbation that a linear loss rises most by.

        norm 2:    delta = rho c^2 g / (|c g|_2 + 1e-12)
        norm inf:  delta = rho c sign(g)

    Returns:
        Shape (p,).
    """
    return scale * _steepest(gradient * scale, norm) * rho


def rise(objective: Objective, from_: Point, delta: torch.Tensor) -> Rise:
    """L(w + delta) - L(w). Cost: one pass, forward."""
    return _above(objective.at(delta), from_)


def average(
    objective: Objective,
    from_: Point,
    scale: torch.Tensor,
    rho: float,
    draws: int,
    generator: torch.Generator,
) -> list[Rise]:
    """L(w + delta) - L(w) of random perturbations, delta ~ N(0, rho^2 c^2).

    To second order their mean is rho^2 / 2 * trace(H diag(c^2)).

    Cost: one pass, forward, for each draw.
    """
    return [rise(objective, from_, rho * scale * _noise(scale, generator)) for _ in range(draws)]


def worst(
    objective: Objective,
    from_: Point,
    scale: torch.Tensor,
    rho: float,
    norm: Norm,
    iterations: int,
    generator: torch.Generator,
) -> Rise:
    """The largest rise found in the ball |delta / c| <= rho, by Auto-PGD.

        z = P(u + step * steepest);   u' = P(u + 0.75 (z - u) + 0.25 (u - u_before))

    from a random place in the ball; the step begins at 2 rho and is halved at checkpoints where too
    few steps reached a new best, and the search goes on from the best. The centre and the one-step
    perturbation count too, so that the rise is never negative nor below that of one step.

    Args:
        from_: with its gradient.
    Cost: `iterations` + 2 passes.
    Source: Croce and Hein 2020, arXiv:2003.01690; Andriushchenko et al. 2023, arXiv:2302.07011.
    Departs: the random start is projected into the ball (the authors' Gaussian one lies far
        outside), and the ellipsoid of the adaptive 2-norm is a ball in u, reached by rescaling.
    """
    assert from_.gradient is not None
    best = _above(from_, from_)
    sam = rise(objective, from_, one_step(from_.gradient, scale, rho, norm))
    overall = max(best, sam, key=_height)

    free = scale != 0
    u = _project(rho * _start(scale, norm, generator) * free, rho, norm)
    here = objective.slope(scale * u)
    best, best_u = _above(here, from_), u
    best_here = here
    before = u
    step, step_before = 2 * rho, 2 * rho
    level_before, ups, since = _height(best), 0, 0
    checks = checkpoints(iterations)
    for i in range(1, iterations + 1):
        assert here.gradient is not None
        z = _project(u + step * _steepest(scale * here.gradient, norm), rho, norm)
        share = 1.0 if i == 1 else MOMENTUM
        u, before = _project(u + share * (z - u) + (1 - share) * (u - before), rho, norm), u
        here = objective.slope(scale * u)
        found = _above(here, from_)
        if _height(found) > _height(best):
            best, best_u, best_here = found, u, here
            ups += 1
        if i in checks:
            stuck = step == step_before and _height(best) == level_before
            step_before, level_before = step, _height(best)
            if ups < _PROGRESS * (i - since) or stuck:
                step /= 2
                u, before, here = best_u, best_u, best_here
            ups, since = 0, i
    return max(overall, best, key=_height)


def checkpoints(iterations: int) -> set[int]:
    """Iterations after which the step size is looked at: fractions 0.22, then each time 0.03 less
    beyond the one before, but at least 0.06."""
    percent = [0, 22]  # whole numbers: 0.57 * 100 would be rounded up
    while percent[-1] < 100:
        percent.append(percent[-1] + max(percent[-1] - percent[-2] - 3, 6))
    return {math.ceil(p * iterations / 100) for p in percent[1:] if p < 100}


def _steepest(slope: torch.Tensor, norm: Norm) -> torch.Tensor:
    """The direction of norm 1 that rises most."""
    if norm == "inf":
        return slope.sign()
    return slope / (math.sqrt(dot(slope, slope)) + _TINY)


def _project(u: torch.Tensor, rho: float, norm: Norm) -> torch.Tensor:
    """The nearest place of the ball."""
    if norm == "inf":
        return u.clamp(-rho, rho)
    size = math.sqrt(dot(u, u))
    return u.mul(rho / size) if size > rho else u


def _start(like: torch.Tensor, norm: Norm, generator: torch.Generator) -> torch.Tensor:
    if norm == "2":
        return _noise(like, generator)
    drawn = torch.rand(like.shape, generator=generator, dtype=torch.float64)
    return (2 * drawn - 1).to(like)


def _noise(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    drawn = torch.randn(like.shape, generator=generator, dtype=torch.float64)
    return drawn.to(like)


def _above(point: Point, from_: Point) -> Rise:
    error = None
    if point.error is not None and from_.error is not None:
        error = point.error - from_.error
    return Rise(point.loss - from_.loss, error)


def _height(rise: Rise) -> float:
    return rise.loss if math.isfinite(rise.loss) else -math.inf
