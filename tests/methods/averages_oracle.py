"""Averages and interpolations in float64 numpy, on whole vectors, from their definitions alone.

Slow and obvious. Nothing here knows of inner products, chunks, or of zoo's code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

State = dict[str, np.ndarray]
Tensors = Callable[..., np.ndarray]


class NoMeanError(Exception):
    """Directions balance out."""


def by_tensor(
    merge: Tensors, experts: Sequence[State], base: State | None, **parameters: Any
) -> State:
    """Apply a rule to each tensor on its own."""
    return {
        name: merge(
            [e[name] for e in experts], None if base is None else base[name], **parameters
        ).reshape(experts[0][name].shape)
        for name in experts[0]
    }


def uniform_soup(x: list[np.ndarray], base: Any) -> np.ndarray:
    return np.mean(x, axis=0)


def sparse_soup(x: list[np.ndarray], base: Any, weight: Any, allow_union: bool) -> np.ndarray:
    return np.average(x, axis=0, weights=weight)


def wise_ft(
    x: list[np.ndarray], base: np.ndarray, alpha: float, allow_extrapolation: bool = False
) -> np.ndarray:
    return (1 - alpha) * base + alpha * x[0]


bang = wise_ft


def nearswap(x: list[np.ndarray], base: np.ndarray, t: float) -> np.ndarray:
    d = x[0] - base
    return base + np.clip(t / np.maximum(np.abs(d), 1e-6), 0, 1) * d


def magmax(x: list[np.ndarray], base: np.ndarray, lambda_: float) -> np.ndarray:
    best = np.zeros_like(base)
    for delta in (e - base for e in x):
        best = np.where(np.abs(delta) >= np.abs(best), delta, best)
    return base + lambda_ * best


def nuslerp(
    x: list[np.ndarray], base: np.ndarray | None, weight: Sequence[float], vectors: str = "flat"
) -> np.ndarray:
    total = weight[0] + weight[1]
    t = weight[1] / total if abs(total) >= 1e-6 else 0.5
    a, b = (e - (0 if base is None else base) for e in x)
    shape = a.shape
    if vectors == "flat" or a.ndim < 2:
        result = arc(a.ravel(), b.ravel(), t).reshape(shape)
    else:
        axis = -1 if vectors == "rows" else 0
        a, b = np.moveaxis(a, axis, -1), np.moveaxis(b, axis, -1)
        result = np.empty_like(a)
        for at in np.ndindex(a.shape[:-1]):
            result[at] = arc(a[at], b[at], t)
        result = np.moveaxis(result, -1, axis)
    return result if base is None else base + result


def arc(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    unit = [v / max(float(np.linalg.norm(v)), 1e-7) for v in (a, b)]
    cosine = min(1.0, max(-1.0, float(unit[0] @ unit[1])))
    if 1 - abs(cosine) < 1e-7:
        return (1 - t) * a + t * b
    theta = math.acos(cosine)
    return (math.sin((1 - t) * theta) * a + math.sin(t * theta) * b) / math.sin(theta)


def multislerp(
    x: list[np.ndarray],
    base: np.ndarray | None,
    weight: Sequence[float],
    normalize_weights: bool = True,
    log_map: bool = False,
) -> np.ndarray:
    origin = 0 if base is None else base
    if len(x) == 1:
        return x[0]
    w = np.array(weight, dtype=float)
    if normalize_weights:
        w = w / w.sum()
    moves = [e - origin for e in x]
    norms = [np.linalg.norm(v) for v in moves]
    units = [v / n if n else v for v, n in zip(moves, norms, strict=True)]
    mean = sum(c * u for c, u in zip(w, units, strict=True))
    length = np.linalg.norm(mean)
    if not any(norms):
        return x[0]
    if length < 1e-7 * np.abs(w).sum():
        if len(x) > 2:
            raise NoMeanError
        return origin + sum(c * v for c, v in zip(w, moves, strict=True))
    mean = mean / length
    if log_map:
        pull = np.zeros_like(mean)
        for c, u, n in zip(w, units, norms, strict=True):
            pull = pull + (c * logarithm(mean, u) if n else 0)
        mean = exponential(mean, pull)
    return origin + float(w @ norms) * mean


def logarithm(point: np.ndarray, target: np.ndarray) -> np.ndarray:
    cosine = min(1.0, max(-1.0, float((point * target).sum())))
    angle = math.acos(cosine)
    if angle < 1e-8 or math.pi - angle < 1e-7:
        return np.zeros_like(point)
    return angle / math.sin(angle) * (target - cosine * point)


def exponential(point: np.ndarray, pull: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(pull))
    if length == 0:
        return point
    end = math.cos(length) * point + math.sin(length) / length * pull
    return end / np.linalg.norm(end)


def karcher(
    x: list[np.ndarray],
    base: Any,
    weight: Sequence[float],
    max_iter: int = 10,
    tol: float = 1e-5,
) -> np.ndarray:
    alpha = np.array(weight, dtype=float) / sum(weight)
    norms = np.array([np.linalg.norm(v) for v in x])
    valid = [i for i in range(len(x)) if norms[i] > tol and alpha[i]]
    if not valid:
        return np.zeros_like(x[0])
    a = alpha[valid] / alpha[valid].sum()
    units = [x[i] / norms[i] for i in valid]
    mean = sum(c * u for c, u in zip(a, units, strict=True))
    length = np.linalg.norm(mean)
    point = units[0] if length < max(tol, 1e-7) else mean / length
    for _ in range(max_iter):
        pull = np.zeros_like(point)
        for c, u in zip(a, units, strict=True):
            angle = math.acos(min(1.0, max(-1.0, float((point * u).sum()))))
            if tol <= angle <= math.pi - max(tol, 1e-7):
                pull = pull + c * logarithm(point, u)
        if np.linalg.norm(pull) < tol:
            break
        point = exponential(point, pull)
    return float(alpha @ norms) * point


def model_stock(
    x: list[np.ndarray],
    base: np.ndarray,
    scope: str = "tensor",
    angle: str = "mean_cosine",
    on_negative: str = "keep",
    floor: float = 0.0,
) -> np.ndarray:
    deltas = np.stack([e - base for e in x])
    if scope == "row" and base.ndim > 1:
        rows = [
            stock(deltas[:, i].reshape(len(x), -1), angle, on_negative, floor)
            for i in range(base.shape[0])
        ]
        return base + np.stack(rows).reshape(base.shape) if rows else base
    return base + stock(deltas.reshape(len(x), -1), angle, on_negative, floor).reshape(base.shape)


def stock(deltas: np.ndarray, angle: str, on_negative: str, floor: float) -> np.ndarray:
    n = len(deltas)
    cosines = []
    for i in range(n):
        for j in range(i + 1, n):
            size = max(float(np.linalg.norm(deltas[i]) * np.linalg.norm(deltas[j])), floor)
            cosines.append(float(deltas[i] @ deltas[j]) / size if size else 0.0)
    cosines = [min(1.0, max(-1.0, c)) for c in cosines]
    if angle == "mean_angle":
        c = math.cos(sum(map(math.acos, cosines)) / len(cosines))
    else:
        c = sum(cosines) / len(cosines)
    t = n * c / (1 + (n - 1) * c) if abs(1 + (n - 1) * c) > 1e-6 else 0.0
    if on_negative == "clamp":
        t = min(1.0, max(0.0, t))
    return t * deltas.mean(0)


def arcee_fusion(
    x: list[np.ndarray], base: np.ndarray, iqr_factor: float = 1.5, eps: float = 1e-8
) -> np.ndarray:
    if base.size == 0:
        return base
    expert, origin = np.atleast_1d(x[0]), np.atleast_1d(base)
    p, q = softmax(expert) + eps, softmax(origin) + eps
    score = np.abs(expert - origin) * (p * np.log(p / q)).sum(-1, keepdims=True)
    ordered = np.sort(score, axis=None)
    low, median, high = (ordered[int(z * (ordered.size - 1))] for z in (0.25, 0.5, 0.75))
    return np.where(score >= median + iqr_factor * (high - low), expert, origin)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def ram(
    experts: Sequence[State],
    base: State,
    epsilon: float = 1e-5,
    variant: str = "ram",
    r: float = 0.1,
    alpha: float = 0.2,
    scope: str = "global",
) -> State:
    """Not tensor by tensor: RAM+ counts over the whole model unless told otherwise."""
    deltas = {n: np.stack([e[n] - base[n] for e in experts]) for n in base}
    active = {n: np.abs(d) > epsilon for n, d in deltas.items()}
    counts = {n: a.sum(0) for n, a in active.items()}

    def shared(i: int, names: Sequence[str]) -> int:
        return sum(int((active[n][i] & (counts[n] > 1)).sum()) for n in names)

    def unique(i: int, names: Sequence[str]) -> int:
        return sum(int((active[n][i] & (counts[n] == 1)).sum()) for n in names)

    merged = {}
    for name in base:
        names = [name] if scope == "tensor" else list(base)
        total = np.zeros_like(base[name])
        for i in range(len(experts)):
            alone = unique(i, names)
            ratio = shared(i, names) / alone if alone else 0.0  # there is nothing it would scale
            gain = 1 + r * min(max(ratio, 0), alpha) if variant == "ram_plus" else 1.0
            own = np.where(active[name][i], deltas[name][i], 0.0)
            total = total + own * np.where(counts[name] == 1, gain, 1 / np.maximum(counts[name], 1))
        merged[name] = base[name] + total
    return merged
