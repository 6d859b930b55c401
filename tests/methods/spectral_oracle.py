"""The spectral methods in plain numpy float64, from their definitions, one line after the other.

Everything here decomposes whole matrices directly and loops over experts; nothing is shared with
the plugins. Each function takes the deltas of one tensor and returns the merged delta.
"""

from __future__ import annotations

import numpy as np

RANK = 1e-9
"""Fraction of the largest singular value below which one is zero, in float64."""


def svd(matrix):
    """Thin: U, s, V, only the triples with s > 0."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    count = int(np.sum(values > RANK * values.max(initial=0)))
    return left[:, :count], values[:count], right[:count].T


def polar(matrix):
    left, _, right = svd(matrix)
    return left @ right.T


def as_matrices(deltas, convolutions):
    shape = deltas[0].shape
    if deltas[0].size == 0 or len(shape) < 2 or (len(shape) > 2 and convolutions == "mean"):
        return None
    return [d.reshape(shape[0], -1) for d in deltas]


def tsv(deltas, scale=1.0, rank_fraction=None, convolutions="mean"):
    tasks = as_matrices(deltas, convolutions)
    if tasks is None:
        return scale * sum(deltas) / len(deltas)
    short = min(tasks[0].shape)
    rank = short // len(tasks) if rank_fraction is None else int(rank_fraction * short)
    triples = [tuple(part[..., :rank] for part in svd(t)) for t in tasks]
    left = np.concatenate([u for u, _, _ in triples], axis=1)
    values = np.concatenate([s for _, s, _ in triples])
    right = np.concatenate([v for _, _, v in triples], axis=1)
    merged = np.zeros(tasks[0].shape)
    if values.size:
        merged = polar(left) @ np.diag(values) @ polar(right).T
    return scale * merged.reshape(deltas[0].shape)


def iso_c(deltas, scale=1.0, convolutions="mean"):
    tasks = as_matrices(deltas, convolutions)
    if tasks is None:
        return scale * sum(deltas) / len(deltas)
    left, values, right = svd(sum(tasks))
    if not values.size:
        return np.zeros(deltas[0].shape)
    return (scale * values.mean() * left @ right.T).reshape(deltas[0].shape)


def iso_cts(deltas, scale=1.0, fraction=0.8, convolutions="mean"):
    tasks = as_matrices(deltas, convolutions)
    if tasks is None:
        return scale * sum(deltas) / len(deltas)
    n = len(tasks)
    short = min(tasks[0].shape)
    specific = round((short - int(fraction * short)) / n) * n
    common = short - specific
    u, s, v = (part[..., :common] for part in svd(sum(tasks)))
    parts = []
    for task in tasks:
        parts.append(tuple(p[..., : specific // n] for p in svd(task - u @ u.T @ task)))
    parts.append((u, s, v))
    left, values, right = (np.concatenate(p, axis=-1) for p in zip(*parts, strict=True))
    if not values.size:
        return np.zeros(deltas[0].shape)
    merged = values.mean() * polar(left) @ polar(right).T
    return scale * merged.reshape(deltas[0].shape)


def interference(matrix, tasks):
    """WUDI's loss."""
    return sum(np.sum(((matrix - t) @ t.T) ** 2) / np.sum(t**2) for t in tasks if np.any(t))


def wudi(deltas, solver="adam", lr=1e-5, steps=300, convolutions="mean"):
    tasks = as_matrices(deltas, convolutions)
    if tasks is None:
        return sum(deltas) / len(deltas)
    start = sum(tasks)
    tasks = [t for t in tasks if np.any(t)]
    if solver == "closed_form":
        grams = [t.T @ t / np.sum(t**2) for t in tasks]
        if not grams:
            return start.reshape(deltas[0].shape)
        inverse = np.linalg.pinv(sum(grams), rcond=1e-9, hermitian=True)
        pulled = sum(t @ g for t, g in zip(tasks, grams, strict=True)) @ inverse
        kept = start @ (np.eye(start.shape[1]) - sum(grams) @ inverse)
        return (pulled + kept).reshape(deltas[0].shape)
    matrix, m, v = start.copy(), np.zeros(start.shape), np.zeros(start.shape)
    for step in range(1, steps + 1):
        slope = np.zeros(start.shape)
        for t in tasks:
            slope += 2 * (matrix - t) @ (t.T @ t) / np.sum(t**2)
        m = 0.9 * m + 0.1 * slope
        v = 0.999 * v + 0.001 * slope**2
        size = np.sqrt(v / (1 - 0.999**step)) + 1e-8
        matrix = matrix - lr * (m / (1 - 0.9**step)) / size
    return matrix.reshape(deltas[0].shape)


def knots(models, scale=0.6, density=0.2, space="sigma_v", concat="inputs"):
    """KnOTS with TIES over all tensors: takes and returns whole models, name -> delta."""
    names = sorted(models[0])
    bases, pieces = {}, [[] for _ in models]
    for name in names:
        deltas = [m[name] for m in models]
        if deltas[0].ndim < 2 or deltas[0].size == 0:
            bases[name] = None
            blocks = [d.reshape(-1) for d in deltas]
        else:
            flat = [d.reshape(d.shape[0], -1) for d in deltas]
            flat = [f.T for f in flat] if concat == "outputs" else flat
            left, values, right = svd(np.concatenate(flat, axis=1))
            blocks = np.split(right.T, len(models), axis=1)
            if space == "sigma_v":
                bases[name] = left
                blocks = [values[:, None] * b for b in blocks]
            else:
                bases[name] = left * values
        for piece, block in zip(pieces, blocks, strict=True):
            piece.append(block)
    shapes = [b.shape for b in pieces[0]]
    vectors = [np.concatenate([b.reshape(-1) for b in piece]) for piece in pieces]
    trimmed = []
    for vector in vectors:
        order = np.argsort(-np.abs(vector), kind="stable")
        kept = np.zeros_like(vector)
        top = order[: int(density * vector.size)]
        kept[top] = vector[top]
        trimmed.append(kept)
    sign = np.where(sum(trimmed) >= 0, 1.0, -1.0)
    agrees = [(t * sign > 0) for t in trimmed]
    count = sum(a.astype(float) for a in agrees)
    fused = sum(t * a for t, a in zip(trimmed, agrees, strict=True)) / np.maximum(count, 1)
    merged, at = {}, 0
    for name, shape in zip(names, shapes, strict=True):
        size = int(np.prod(shape))
        block = fused[at : at + size].reshape(shape)
        at += size
        if bases[name] is not None:
            block = bases[name] @ block
            block = block.T if concat == "outputs" else block
        merged[name] = scale * block.reshape(models[0][name].shape)
    return merged
