"""The four methods in float64 numpy, written from their papers and from none of zoo's code.

Slow and obvious: everything is flattened, sorted and indexed in memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

State = dict[str, np.ndarray]


def linear(
    experts: Sequence[State], base: State | None, *, weight: Sequence[float], normalize: bool = True
) -> State:
    """Wortsman et al. 2022: the weighted mean, or the weighted sum."""
    total = sum(weight) if normalize else 1.0
    return {
        name: sum(w * e[name] for w, e in zip(weight, experts, strict=True)) / total
        for name in experts[0]
    }


def slerp(
    experts: Sequence[State],
    base: State | None,
    *,
    t: float,
    dot_threshold: float = 0.9995,
    eps: float = 1e-8,
    extrapolate: bool = False,
) -> State:
    """Shoemake 1985, one angle per tensor, on the vectors themselves."""
    merged = {}
    for name, first in experts[0].items():
        x, y = first.ravel(), experts[1][name].ravel()
        norms = np.linalg.norm(x), np.linalg.norm(y)
        unit_x = x / norms[0] if norms[0] > eps else x
        unit_y = y / norms[1] if norms[1] > eps else y
        cosine = float(unit_x @ unit_y)
        if abs(cosine) > dot_threshold:
            result = (1 - t) * x + t * y
        else:
            theta = math.acos(cosine)
            result = (math.sin((1 - t) * theta) * x + math.sin(t * theta) * y) / math.sin(theta)
        merged[name] = result.reshape(first.shape)
    return merged


def task_arithmetic(
    experts: Sequence[State],
    base: State,
    *,
    weight: Sequence[float],
    lambda_: float = 1.0,
    normalize: bool = False,
) -> State:
    """Ilharco et al. 2023: the base plus the scaled sum of the task vectors."""
    total = sum(weight) if normalize and abs(sum(weight)) >= 1e-8 else 1.0
    return {
        name: start
        + lambda_ * sum(w * (e[name] - start) for w, e in zip(weight, experts, strict=True)) / total
        for name, start in base.items()
    }


def ties(
    experts: Sequence[State],
    base: State,
    *,
    density: Sequence[float],
    weight: Sequence[float],
    lambda_: float = 1.0,
    merge: str = "mean",
    scope: str = "global",
    trim: str = "exact",
    zero_sign: str = "majority",
) -> State:
    """Yadav et al. 2023, on the concatenation of all tensors, names ascending, C order."""
    names = sorted(base)
    start = _flat(base, names)
    ends = np.cumsum([base[n].size for n in names])
    parts = [slice(0, len(start))]
    if scope == "tensor":
        parts = [slice(int(b) - base[n].size, int(b)) for n, b in zip(names, ends, strict=True)]
    weighted = []
    for expert, kept, w in zip(experts, density, weight, strict=True):
        delta = _flat(expert, names) - start
        for part in parts:
            delta[part] = _trimmed(delta[part], kept, trim)
        weighted.append(w * delta)
    stack = np.array(weighted)
    sign = np.sign(stack.sum(axis=0))
    majority = (np.sign(sign.sum()) or 1.0) if zero_sign == "majority" else 1.0
    sign[sign == 0] = majority
    agree = np.sign(stack) == sign
    if merge == "max":
        fused = sign * np.where(agree, np.abs(stack), 0).max(axis=0)
    else:
        fused = np.where(agree, stack, 0).sum(axis=0)
    if merge == "mean":
        shares = np.where(agree, np.array(weight)[:, None], 0).sum(axis=0)
        fused /= np.where(shares == 0, 1, shares)
    flat = start + lambda_ * fused
    pieces = np.split(flat, ends[:-1])
    return {n: piece.reshape(base[n].shape) for n, piece in zip(names, pieces, strict=True)}


def _flat(state: State, names: Sequence[str]) -> np.ndarray:
    return np.concatenate([state[n].ravel() for n in names])


def _trimmed(delta: np.ndarray, density: float, how: str) -> np.ndarray:
    """The largest magnitudes; of equal ones the first."""
    n = delta.size
    keep = int(density * n)
    if density >= 1 or n == 0:
        return delta
    magnitude = np.abs(delta)
    if how == "kth_value_inclusive":
        kth = np.sort(magnitude)[n - min(n, keep + 1)]
        return np.where(magnitude >= kth, delta, 0)
    if how == "at_least_one":
        keep = max(1, keep)
    survivors = np.argsort(-magnitude, kind="stable")[:keep]
    kept = np.zeros_like(delta)
    kept[survivors] = delta[survivors]
    return kept
