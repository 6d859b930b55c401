"""The task-vector methods in float64 numpy, written from their specifications, entry by entry.

Slow and obvious: everything is sorted in memory, a row at a time, and every random number is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray
State = dict[str, Array]
Keeps = Callable[[str, int, Array], Array]
"""(tensor, expert, chances) -> mask of the same shape."""


def draws(seed: int, tensor: str, digest: str, n: int) -> Array:
    """The numbers in [0, 1) that decide which entries of a tensor are kept."""

    def words(text: str, count: int) -> Array:
        key = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], "<u8")
        return np.random.Philox(key=key).random_raw(count)

    text = f"{seed}\0{tensor}\0{digest}"
    coarse = words(text + "\0keeps", -(-n // 4)).view("<u2")[:n]
    fine = (words(text, n) >> np.uint64(40)) / 2**24
    return (coarse + fine) / 2**16


def rows_of(values: Array) -> Array:
    """A matrix: one row per entry of the first axis; a vector is one row."""
    rows = values.shape[0] if values.ndim > 1 else 1
    return values.reshape(rows, values.size // max(1, rows))


def rising(row: Array) -> list[int]:
    """Positions by magnitude, smallest first; of equal ones the first is smaller."""
    return sorted(range(len(row)), key=lambda i: (abs(row[i]), i))


def falling(row: Array) -> list[int]:
    """Positions by magnitude, largest first; of equal ones the first is larger."""
    return sorted(range(len(row)), key=lambda i: (-abs(row[i]), i))


def chances(delta: Array, density: float, epsilon: float, ranking: str = "rank") -> Array:
    """DELLA: the chance of each entry to survive."""
    rows = delta.reshape(1, -1) if ranking == "layer" else rows_of(delta)
    found = np.full(rows.shape, density)
    for row, out in zip(rows, found, strict=True):
        if ranking == "magnitude" and len(row) and np.ptp(np.abs(row)):
            size = np.abs(row)
            out[:] = density - epsilon + 2 * epsilon * (size - size.min()) / np.ptp(size)
        elif ranking != "magnitude" and len(row) > 1:
            for rank, i in enumerate(rising(row)):
                out[i] = density - epsilon + 2 * epsilon * rank / (len(row) - 1)
    return found.reshape(delta.shape)


def row_band(delta: Array, density: float, gamma: float) -> Array:
    """Breadcrumbs of the authors: in each row drop the first, keep the next."""
    rows = rows_of(delta)
    mask = np.zeros(rows.shape)
    for row, out in zip(rows, mask, strict=True):
        first = int(gamma * len(row))
        out[falling(row)[first : first + int(density * len(row))]] = 1
    return mask.reshape(delta.shape)


def tensor_band(delta: Array, density: float, gamma: float) -> Array:
    """Breadcrumbs of mergekit, without its empty slice."""
    n = delta.size
    kept = int(density * n)
    top = int(gamma * n)
    bottom = n - kept - top
    if bottom < 0:
        top, bottom = top + bottom, 0
    mask = np.zeros(n)
    mask[rising(delta.ravel())[bottom : n - top] if density < 1 else slice(None)] = 1
    return mask.reshape(delta.shape)


def top_share(rows: Array, density: float) -> Array:
    """The floor(density c) largest of each row of c."""
    mask = np.zeros(rows.shape)
    for row, out in zip(rows, mask, strict=True):
        out[falling(row)[: int(density * len(row))]] = 1
    return mask


def blocks(values: Array, n: int, m: int, tail: str = "drop") -> Array:
    """The n largest of every m entries of a flat tensor."""
    mask = np.zeros(values.size)
    for start in range(0, values.size, m):
        block = values[start : start + m]
        count = n
        if len(block) < m:
            count = 0 if tail == "drop" else n * len(block) // m
        mask[[start + i for i in falling(block)[:count]]] = 1
    return mask


def cabs(
    deltas: Sequence[Array], n: int, m: int, tail: str = "drop", dense: bool = False
) -> list[Array]:
    """What each expert keeps."""
    pruned, free = [], np.ones(deltas[0].size)
    if tail == "drop":
        free[free.size - free.size % m :] = 0
    for i, delta in enumerate(deltas):
        flat = delta.ravel()
        if dense and i == 1:
            taken = flat * np.maximum(free, blocks(flat * (1 - free), m // 2, m, tail))
        else:
            mask = blocks(flat * free, n, m, tail)
            taken = flat * free * mask
            free = free * (1 - mask)
        pruned.append(taken.reshape(delta.shape))
    return pruned


def l1_ratio(before: Array, after: Array) -> float:
    a, b = np.abs(before).sum(), np.abs(after).sum()
    return 1.0 if a < 1e-7 or b < 1e-7 else a / b


def fuse(
    deltas: Sequence[Array],
    weight: Sequence[float],
    elect: str,
    merge: str,
    elect_of: str = "weighted",
) -> Array:
    """Weight, elect, fuse; entry by entry."""
    weighted = [w * d for w, d in zip(weight, deltas, strict=True)]
    shape = deltas[0].shape
    out = np.zeros(deltas[0].size)
    for p in range(out.size):
        entries = [float(d.ravel()[p]) for d in weighted]
        votes = entries if elect_of == "weighted" else [float(d.ravel()[p]) for d in deltas]
        if elect == "none":
            total = sum(weight)
            out[p] = sum(entries) / (total if merge == "mean" and abs(total) >= 1e-8 else 1)
            continue
        mass = sum(votes) if elect == "mass" else sum(np.sign(v) for v in votes)
        sign = 1.0 if mass >= 0 else -1.0
        agreeing = [(e, w) for e, w in zip(entries, weight, strict=True) if np.sign(e) == sign]
        if not agreeing:
            continue
        if merge == "max":
            out[p] = sign * max(abs(e) for e, _ in agreeing)
        else:
            share = sum(w for _, w in agreeing) if merge == "mean" else 1.0
            out[p] = sum(e for e, _ in agreeing) / (share or 1.0)
    return out.reshape(shape)


def each(value: float | Sequence[float], experts: int) -> list[float]:
    return list(value) if isinstance(value, Sequence) else [value] * experts


def task_vectors(
    experts: Sequence[State],
    base: State,
    *,
    masks: Callable[[str, int, Array], tuple[Array, Array]],
    rescale: str = "none",
    weight: float | Sequence[float] = 1.0,
    lambda_: float = 1.0,
    elect: str = "none",
    merge: str = "sum",
    elect_of: str = "weighted",
) -> State:
    """Any of the methods that sparsify each expert by itself.

    Args:
        masks: (tensor, expert, delta) -> mask, and the chance of each entry to be in it.
    """
    merged = {}
    for name, origin in base.items():
        left = []
        for i, expert in enumerate(experts):
            delta = expert[name] - origin
            mask, chance = masks(name, i, delta)
            kept = delta * mask
            if rescale == "probability":
                kept = np.divide(kept, chance, out=np.zeros_like(kept), where=chance > 0)
            elif rescale == "l1":
                kept = kept * l1_ratio(delta, kept)
            left.append(kept)
        weights = each(weight, len(experts))
        merged[name] = origin + lambda_ * fuse(left, weights, elect, merge, elect_of)
    return merged


def random_masks(density: float | Sequence[float], keeps: Keeps, experts: int) -> Any:
    """DARE."""

    def masks(tensor: str, expert: int, delta: Array) -> tuple[Array, Array]:
        chance = np.full(delta.shape, each(density, experts)[expert])
        return keeps(tensor, expert, chance), chance

    return masks


def rank_masks(
    density: float | Sequence[float],
    epsilon: float | Sequence[float],
    keeps: Keeps,
    experts: int,
    ranking: str = "rank",
) -> Any:
    """DELLA."""

    def masks(tensor: str, expert: int, delta: Array) -> tuple[Array, Array]:
        mean = each(density, experts)[expert]
        if mean in (0, 1):
            return np.full(delta.shape, mean), np.full(delta.shape, mean)
        chance = chances(delta, mean, each(epsilon, experts)[expert], ranking)
        return keeps(tensor, expert, chance), chance

    return masks


def band_masks(
    density: float | Sequence[float], gamma: float | Sequence[float], scope: str, experts: int
) -> Any:
    """Breadcrumbs."""

    def masks(tensor: str, expert: int, delta: Array) -> tuple[Array, Array]:
        band = row_band if scope == "row" else tensor_band
        mask = band(delta, each(density, experts)[expert], each(gamma, experts)[expert])
        return mask, np.ones(delta.shape)

    return masks


def sce(
    experts: Sequence[State],
    base: State,
    *,
    select_topk: float = 1.0,
    select_applies_to: str = "deltas",
    uniform_below: float = 0.0,
) -> tuple[State, Mapping[str, list[float]]]:
    """The merged model, and the coefficients of each tensor."""
    merged, coefficients = {}, {}
    for name, origin in base.items():
        deltas = [e[name] - origin for e in experts]
        selected = deltas
        if select_topk < 1:
            # Not numpy's var: of equal deltas, its mean may be off by a rounding.
            shifted = [d - deltas[0] for d in deltas]
            variance = sum(s * s for s in shifted) / len(deltas)
            variance = (variance - (sum(shifted) / len(deltas)) ** 2).ravel()
            variance[np.all([d.ravel() == deltas[0].ravel() for d in deltas], axis=0)] = 0
            count = int(select_topk * np.count_nonzero(variance))
            order = sorted(range(variance.size), key=lambda i: (-variance[i], i))
            mask = np.zeros(variance.size)
            mask[order[:count]] = 1
            selected = [d * mask.reshape(d.shape) for d in deltas]
        squares = [float((d * d).mean()) if d.size else 0.0 for d in selected]
        total = sum(squares)
        eta = [1 / len(squares)] * len(squares)
        if total > 0 and total >= uniform_below:
            eta = [q / total for q in squares]
        used = selected if select_applies_to == "deltas" else deltas
        merged[name] = origin + fuse(used, eta, "mass", "mean", "plain")
        coefficients[name] = eta
    return merged, coefficients
