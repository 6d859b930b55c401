"""Directions on the unit sphere, known only by their cosines.

A point of the span is written in coefficients of the experts' directions `u_i = x_i / |x_i|`; inner
products go through the matrix of cosines. A direction that does not exist (of a zero tensor) is
zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

NEARLY_OPPOSITE = 1e-2
"""How far from opposite, as 1 + cosine or as squared length of a mean direction, the rounding of
float32 products is harmless."""
OPPOSITE = 1e-7
"""What is rounding, of float32 inputs and of float64 products, in the length of a mean of opposite
directions, and in their angle, in radians."""


def directions(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Norms, shape (e,), and cosines, shape (e, e), from inner products."""
    import numpy as np

    norms = np.sqrt(np.maximum(np.diag(gram), 0.0))
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    cosines = np.clip(gram * inverse * inverse[:, None], -1.0, 1.0)
    np.fill_diagonal(cosines, (norms > 0).astype(float))
    return norms, cosines


def length(point: np.ndarray, cosines: np.ndarray) -> float:
    """Norm of a combination of directions."""
    return float(max(point @ cosines @ point, 0.0) ** 0.5)


def is_nearly_opposite(point: np.ndarray, cosines: np.ndarray) -> bool:
    """Whether the arc from a unit point to some direction hangs on rounding."""
    return bool((cosines @ point < NEARLY_OPPOSITE - 1).any())


def tangent(
    point: np.ndarray, cosines: np.ndarray, shares: np.ndarray, tolerance: float
) -> np.ndarray:
    """The mean of the arcs from a unit point to the directions, as one tangent vector there.

        T = sum_i a_i phi_i/sin(phi_i) (u_i - cos(phi_i) p),    cos(phi_i) = <u_i, p>

    Directions closer than `tolerance`, in radians, pull nowhere; nor do opposite ones, to which no
    arc is the shortest.
    """
    import numpy as np

    cosine = np.clip(cosines @ point, -1.0, 1.0)
    angle = np.arccos(cosine)
    open_arc = (angle >= tolerance) & (np.pi - angle >= max(tolerance, OPPOSITE))
    pulls = open_arc & (np.diag(cosines) > 0)
    stretch = np.divide(angle, np.sin(angle), out=np.zeros_like(angle), where=pulls)
    pull = shares * stretch
    mean: np.ndarray = pull - float(pull @ cosine) * point
    return mean


def follow(point: np.ndarray, direction: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    """Where the arc from a unit point along a tangent vector ends (the exponential map)."""
    import numpy as np

    far = length(direction, cosines)
    end: np.ndarray = np.cos(far) * point + np.sinc(far / np.pi) * direction
    return end / length(end, cosines)
