"""The tail of a spectrum as a power law, p(x) ~ x^-alpha above xmin.

Source: Clauset, Shalizi, Newman 2009, arXiv:0706.1062; for the spectra of weights, Martin and
Mahoney 2021, JMLR 22(165), and the code of WeightWatcher.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

LEAST_EIGENVALUES = 10
"""Fewer say nothing of a tail."""
_NEGLIGIBLE = 1e-5
"""Eigenvalues below this share of the largest are taken for zero."""


class PowerLaw(NamedTuple):
    alpha: float
    """Exponent, above 1, dimensionless."""
    sigma: float
    """Its standard error, (alpha - 1) / sqrt(tail)."""
    xmin: float
    """Where the tail begins, in the unit of the eigenvalues."""
    distance: float
    """Kolmogorov-Smirnov distance between the tail and the law, from 0 to 1."""
    tail: int
    """Eigenvalues in the tail."""


def fit_tail(eigenvalues: np.ndarray) -> PowerLaw | None:
    """The power law whose tail, of all that begin at an eigenvalue, is nearest to it.

        alpha = 1 + n / sum ln(x / xmin)                     over the n eigenvalues x >= xmin
        D = max_j |1 - (x_j / xmin)^(1 - alpha) - j / n|     j = 0 ... n - 1, ascending

    for each xmin but the largest; the one of smallest D is taken.

    Args:
        eigenvalues: not negative, any order, shape (k,).
    Returns:
        None where fewer than ten eigenvalues are above 1e-5 of the largest, or none differ.
    Cost: O(k^2) time, O(k) memory.
    """
    x = np.sort(eigenvalues.astype(np.float64))
    x = x[x >= _NEGLIGIBLE * x[-1]] if len(x) and x[-1] > 0 else x[:0]
    if len(x) < LEAST_EIGENVALUES:
        return None
    logs = np.log(x)
    best: PowerLaw | None = None
    for i in range(len(x) - 1):
        if i and x[i] == x[i - 1]:
            continue  # the same tail again, less one of its members
        n = len(x) - i
        total = float(np.sum(logs[i:] - logs[i]))
        if not total > 0:
            continue
        alpha = 1 + n / total
        law = 1 - np.exp((1 - alpha) * (logs[i:] - logs[i]))
        distance = float(np.abs(law - np.arange(n) / n).max())
        if best is None or distance < best.distance:
            best = PowerLaw(alpha, (alpha - 1) / math.sqrt(n), float(x[i]), distance, n)
    return best
