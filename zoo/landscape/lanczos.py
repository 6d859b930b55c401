"""Lanczos iteration: a symmetric matrix seen through its products with vectors.

Source: Golub and Welsch 1969; Golub and Van Loan, Matrix Computations, section 10.1.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import NamedTuple

import torch

from zoo.errors import InvalidRecipe
from zoo.landscape.objective import dot

Product = Callable[[torch.Tensor], torch.Tensor]
"""v -> A v, shape (p,) to shape (p,), A symmetric."""

_BREAKDOWN = 1e-6
"""An off-diagonal entry below so much of the largest entry, in float32, is rounding: the Krylov
space is exhausted, and the Ritz values are eigenvalues. In float64 it is its square."""


class Ritz(NamedTuple):
    """What k steps of Lanczos say of the spectrum, values ascending."""

    values: torch.Tensor
    """Shape (k,), float64: approximate eigenvalues."""
    weights: torch.Tensor
    """Shape (k,), sum 1: share of the start's squared norm in each of their directions."""
    residuals: torch.Tensor
    """Shape (k,): norm of A x - value * x of the Ritz vector x; an eigenvalue of A is at most this
    far from each value."""


class Lanczos:
    """Steps of Lanczos from a start, with full re-orthogonalisation.

    Memory: one vector of shape (p,) per step.

    Raises:
        InvalidRecipe: by `step`, when they would take more than half of the machine's memory.
    """

    def __init__(self, product: Product, start: torch.Tensor) -> None:
        self._product = product
        self._basis = [start / dot(start, start) ** 0.5]
        self.alpha: list[float] = []
        """Diagonal."""
        self.beta: list[float] = []
        """Off the diagonal; the last one belongs to the step that comes next."""
        self.exhausted = False
        """Whether the Krylov space is the whole of what the start reaches; more steps add
        nothing."""

    def step(self) -> None:
        q = self._basis[-1]
        if q.device.type == "cpu" and len(self._basis) * q.nbytes > memory() / 2:
            raise InvalidRecipe(
                f"{len(self._basis)} vectors of {q.numel():,} parameters do not fit in half of the "
                "machine's memory.",
                "Lanczos keeps one for each step.",
                f"Take fewer steps than {len(self._basis)}; for leading eigenvalues, "
                "`solver=power` keeps two.",
            )
        w = self._product(q)
        self.alpha.append(dot(q, w))
        for _ in range(2):  # twice is enough (Parlett), and then rounding of the products is too
            for v in self._basis:
                w = w.sub(v, alpha=float(torch.dot(v, w)))
        beta = dot(w, w) ** 0.5
        scale = max(map(abs, [*self.alpha, *self.beta]))
        small = _BREAKDOWN if w.dtype == torch.float32 else _BREAKDOWN**2
        self.exhausted = not beta > small * scale or len(self._basis) == w.numel()
        self.beta.append(0.0 if self.exhausted else beta)
        if not self.exhausted:
            self._basis.append(w / beta)

    def ritz(self) -> Ritz:
        """
        Returns:
            Of as many values as there were steps; of none where a product was not finite.
        """
        if not math.isfinite(self.alpha[-1]):
            none = torch.empty(0, dtype=torch.float64)
            return Ritz(none, none, none)
        t = torch.diag(torch.tensor(self.alpha, dtype=torch.float64))
        off = torch.tensor(self.beta[:-1], dtype=torch.float64)
        values, vectors = torch.linalg.eigh(t + torch.diag(off, 1) + torch.diag(off, -1))
        return Ritz(values, vectors[0] ** 2, self.beta[-1] * vectors[-1].abs())


def memory() -> float:
    """Bytes of the machine's memory; infinite where the system does not say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return math.inf


def lanczos(product: Product, start: torch.Tensor, steps: int) -> Ritz:
    """Ritz values after `steps` steps, or fewer where the Krylov space is exhausted."""
    run = Lanczos(product, start)
    while len(run.alpha) < steps and not run.exhausted:
        run.step()
    return run.ritz()
