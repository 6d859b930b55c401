"""Methods that keep parts per task, in float64 numpy, from their papers' formulas.

A model is a dict of arrays; statistics of the whole model run over names in ascending order.
"""

from __future__ import annotations

import numpy as np

Model = dict[str, np.ndarray]


def deltas(experts: list[Model], base: Model) -> list[Model]:
    return [{n: e[n] - base[n] for n in base} for e in experts]


def ties_sum(taus: list[Model], density: list[float]) -> Model:
    """Trim over the whole model, elect, add what agrees."""
    names = sorted(taus[0])
    flat = np.array([np.concatenate([t[n].reshape(-1) for n in names]) for t in taus])
    for row, share in zip(flat, density, strict=True):
        keep = int(share * row.size)
        # A stable sort of the negated magnitudes: of equal ones the lower index goes first.
        row[np.argsort(-np.abs(row), kind="stable")[keep:]] = 0
    total = flat.sum(0)
    sign = np.sign(total)
    sign[sign == 0] = 1.0 if sign.sum() >= 0 else -1.0
    fused = np.where(np.sign(flat) == sign, flat, 0).sum(0)
    ends = np.cumsum([taus[0][n].size for n in names])[:-1]
    return {
        n: part.reshape(taus[0][n].shape)
        for n, part in zip(names, np.split(fused, ends), strict=True)
    }


def multi_task(taus: list[Model], kind: str, density: list[float]) -> Model:
    if kind == "ties_sum":
        return ties_sum(taus, density)
    return {n: np.sum([t[n] for t in taus], axis=0) for n in taus[0]}


def task_masks(taus: list[Model], total: Model, limits: list[float]) -> list[Model]:
    return [
        {n: np.abs(t[n]) > limit * np.abs(total[n] - t[n]) for n in t}
        for t, limit in zip(taus, limits, strict=True)
    ]


def tall(
    experts: list[Model],
    base: Model,
    limits: list[float],
    kind: str = "sum",
    density: list[float] | None = None,
) -> list[Model]:
    """Each task's model."""
    taus = deltas(experts, base)
    total = multi_task(taus, kind, density or [0.2] * len(taus))
    return [{n: base[n] + m[n] * total[n] for n in base} for m in task_masks(taus, total, limits)]


def consensus(
    experts: list[Model],
    base: Model,
    limits: list[float],
    k: int,
    scale: float,
    kind: str = "sum",
    density: list[float] | None = None,
) -> Model:
    taus = deltas(experts, base)
    total = multi_task(taus, kind, density or [0.2] * len(taus))
    masks = task_masks(taus, total, limits)
    return {
        n: base[n] + scale * total[n] * (np.sum([m[n] for m in masks], axis=0) >= k) for n in base
    }


def emr(experts: list[Model], base: Model, by_tensor: bool = False) -> tuple[Model, list[Model]]:
    """The trunk and each task's model."""
    taus = deltas(experts, base)
    unified, masks = {}, [{} for _ in taus]
    for n in base:
        gamma = np.where(np.sum([t[n] for t in taus], axis=0) > 0, 1.0, -1.0)
        for mask, tau in zip(masks, taus, strict=True):
            mask[n] = tau[n] * gamma > 0
        agreeing = [np.abs(m[n] * t[n]) for m, t in zip(masks, taus, strict=True)]
        unified[n] = gamma * np.max(agreeing, axis=0)

    def size(model: Model) -> float:
        return sum(
            float(np.abs(v).sum()) / (v.size if by_tensor else 1) for v in model.values() if v.size
        )

    models = []
    for mask, tau in zip(masks, taus, strict=True):
        kept = {n: mask[n] * unified[n] for n in base}
        scale = size(tau) / size(kept) if size(kept) else 0.0
        models.append({n: base[n] + scale * kept[n] for n in base})
    return {n: base[n] + unified[n] for n in base}, models


def truncated(matrix: np.ndarray, rank: int) -> np.ndarray:
    u, s, vt = np.linalg.svd(matrix.reshape(matrix.shape[0], -1), full_matrices=False)
    return ((u[:, :rank] * s[:rank]) @ vt[:rank]).reshape(matrix.shape)


def twin(
    experts: list[Model], base: Model, scale: float, fraction: float
) -> tuple[Model, list[Model]]:
    shared = {n: base[n] + scale * np.sum([e[n] - base[n] for e in experts], axis=0) for n in base}

    def own(n: str, value: np.ndarray) -> np.ndarray:
        if value.ndim < 2 or not value.size:
            return value
        rank = int(fraction * min(value.shape[0], value.size // value.shape[0]))
        return shared[n] + truncated(value - shared[n], rank)

    return shared, [{n: own(n, e[n]) for n in base} for e in experts]


def tsv_compress(
    experts: list[Model], base: Model, fraction: float | None, convolutions: bool = False
) -> list[Model]:
    def own(n: str, value: np.ndarray) -> np.ndarray:
        if value.ndim < 2 or not value.size or (value.ndim > 2 and not convolutions):
            return value
        short = min(value.shape[0], value.size // value.shape[0])
        rank = short // len(experts) if fraction is None else int(fraction * short)
        return base[n] + truncated(value - base[n], rank)

    return [{n: own(n, e[n]) for n in base} for e in experts]
