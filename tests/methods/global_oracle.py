"""The methods that look at whole models, in float64 numpy, written from their definitions alone.

Models are lists of arrays, or mappings; everything is flattened, names ascending.
"""

from __future__ import annotations

import numpy as np


def flat(state):
    return np.concatenate([np.zeros(0), *(np.ravel(state[k]) for k in sorted(state))])


def unflat(vector, like):
    out, at = {}, 0
    for name in sorted(like):
        n = int(np.prod(np.shape(like[name])))
        out[name] = vector[at : at + n].reshape(np.shape(like[name]))
        at += n
    return out


def deltas(experts, base):
    return np.stack([flat(e) - flat(base) for e in experts])


def minmax(x):
    return (x - x.min()) / (x.max() - x.min())


def metagpt(experts, base):
    d = deltas(experts, base)
    squares = (d**2).sum(1)
    shares = squares / squares.sum() if squares.sum() > 0 else squares
    return unflat(flat(base) + shares @ d, base)


def ties_vector(d, density, weights):
    """TIES without its corner cases: global trim, election by sum, mean of those that agree."""
    t = np.zeros_like(d)
    for i, row in enumerate(d):
        keep = int(density * row.size)
        order = np.argsort(-np.abs(row), kind="stable")[:keep]
        t[i, order] = row[order] * weights[i]
    sign = np.sign(t.sum(0))
    agree = (t * sign > 0) * np.asarray(weights)[:, None]
    total = np.where(t * sign > 0, t, 0).sum(0)
    return total / np.where(agree.sum(0) > 0, agree.sum(0), 1)


def lines(experts, base, *, beta, layers, alpha="auto", merge="task_arithmetic", density=0.2):
    """`layers`: tensor -> (layer, layers) for those of a block."""
    d = deltas(experts, base)
    ones = [1.0] * len(d)
    merged = d.sum(0) if merge == "task_arithmetic" else ties_vector(d, density, ones)
    if alpha == "auto":
        size = np.abs(merged).sum()
        alpha = np.abs(d.sum(0)).sum() / size / len(d) if size else 0.0
    vector = unflat(merged, base)
    out = {}
    for name in sorted(base):
        layer, count = layers.get(name, (0, 1))
        scale = alpha + (beta * layer / (count - 1) if count > 1 else 0.0)
        out[name] = base[name] + scale * vector[name]
    return out


def redundant_vector(d, *, alpha, lr, steps):
    """Plain descent on the vector itself, not on coefficients."""
    e = len(d)
    r = np.zeros(d.shape[1])
    used = [i for i in range(e) if np.linalg.norm(d[i]) > 0]
    if len(used) < 2:
        return r
    for _ in range(steps):
        v = d - r
        n = np.linalg.norm(v, axis=1)
        if any(n[i] <= 1e-9 * np.linalg.norm(d[i]) for i in used):
            break
        g = np.zeros_like(r)
        for i in used:
            for j in used:
                if i != j:
                    c = v[i] @ v[j] / n[i] / n[j]
                    turn = (v[i] + v[j]) / (n[i] * n[j]) - c * (v[i] / n[i] ** 2 + v[j] / n[j] ** 2)
                    g += np.sign(c) * -turn / (e * (e - 1))
        if np.linalg.norm(r) > 0:
            g += alpha * r / np.linalg.norm(r)
        r = r - lr * g
    return r


def awd(experts, base, *, alpha=0.1, lr=0.01, steps=300, lambda_=1.0, merge="task_arithmetic",
        density=0.2):  # fmt: skip
    d = deltas(experts, base)
    v = d - redundant_vector(d, alpha=alpha, lr=lr, steps=steps)
    merged = v.sum(0) if merge == "task_arithmetic" else ties_vector(v, density, [1.0] * len(v))
    return unflat(flat(base) + lambda_ * merged, base)


def pcb(experts, base, *, density=0.1, lambda_=1.0, clip=1e-4, variant="authors"):
    f = deltas(experts, base)
    e, n = f.shape
    if n == 0:
        return {k: np.asarray(base[k], float) for k in sorted(base)}
    if variant == "paper":
        return unflat(flat(base) + lambda_ * _pcb_paper(f, density), base)
    a, unit = np.abs(f), np.zeros_like(f)
    for i in range(e):
        s = np.sort(a[i])
        low, high = s[min(int(n * clip), n - 1)], s[max(int(n * (1 - clip) - 1), 0)]
        a[i] = np.minimum(np.maximum(a[i], low), high)
        if high > low:
            unit[i] = (a[i] - low) / (high - low)
    signed = np.sign(f) * unit
    if variant == "authors":
        between = np.tanh(f * f.sum(0))
    elif variant == "vision":
        between = np.tanh(f * signed.sum(0))
    else:
        between = np.stack(
            [sum(np.tanh(signed[i] * signed[j]) for j in range(e)) for i in range(e)]
        )
    score = np.exp(e * unit**2) * between
    shares = np.zeros_like(f)
    for i in range(e):
        if a[i].max() == a[i].min():
            continue
        least = np.sort(score[i])[min(int(n * (1 - density)), n - 1)]
        if score[i].max() > least:
            shares[i] = minmax(np.clip(score[i], least, score[i].max()))
    tau = (shares * np.sign(f) * a).sum(0) / np.maximum(shares.sum(0), 1e-12)
    return unflat(flat(base) + lambda_ * tau, base)


def _pcb_paper(f, density):
    e, n = f.shape

    def softmax(x):
        powers = np.exp(x - x.max())
        return powers / powers.sum()

    def norm(x):
        return (x - x.min()) / (x.max() - x.min()) if x.max() > x.min() else x * 0

    shares = np.zeros_like(f)
    for i in range(e):
        if not f[i].any():
            continue
        score = softmax(e * norm(f[i] ** 2)) * sum(softmax(norm(f[i] * f[j])) for j in range(e))
        least = np.sort(score)[min(int((1 - density) * n), n - 1)]
        shares[i] = np.where(score >= least, score, 0)
    total = shares.sum(0)
    return (shares * f).sum(0) / np.where(total > 0, total, 1)


def rank_one(v):
    """The rank-1 matrix with the row and column sums of `v`; other shapes as they are."""
    if np.ndim(v) != 2 or v.sum() == 0:
        return v
    return np.outer(v.sum(1), v.sum(0)) / v.sum()


def ota(experts, base, moments, *, power=0.5, epsilon=1e-26, density=1.0, saliency_threshold=0.0,
        weight=1.0, normalize="none", compress="none", fallback="base"):  # fmt: skip
    """`moments`: one state per expert; tensors that one of them lacks are averaged."""
    e = len(experts)
    weights = np.broadcast_to(weight, e)
    least = list(np.broadcast_to(saliency_threshold, e))
    here = [k for k in sorted(experts[0]) if all(k in m for m in moments)]
    if compress == "rank1":
        moments = [{k: rank_one(m[k]) for k in m} for m in moments]

    def saliency(i, k):
        return moments[i][k] * ((experts[i][k] - base[k]) ** 2 if base is not None else 1)

    masked = False
    if np.min(density) < 1:
        masked = True
        for i, share in enumerate(np.broadcast_to(density, e)):
            scores = np.sort(flat({k: saliency(i, k) for k in here}))[::-1]
            keep = int(share * scores.size)
            least[i] = np.inf if keep == 0 else scores[min(keep, scores.size) - 1]
    out = {}
    for k in sorted(experts[0]):
        thetas = np.stack([np.asarray(m[k], float) for m in experts])
        if k not in here:
            out[k] = thetas.mean(0)
            continue
        share = np.zeros_like(thetas)
        for i in range(e):
            powers = moments[i][k] ** power
            if normalize == "mean" and powers.size and powers.mean() > 0:
                powers = powers / powers.mean()
            keep = saliency(i, k) >= least[i] if masked or least[i] else 1
            share[i] = (powers * weights[i] + epsilon) * keep
        total = share.sum(0)
        nobody = total == 0
        mean = (share * thetas).sum(0) / np.where(nobody, 1, total)
        rest = base[k] if base is not None and fallback == "base" else thetas.mean(0)
        out[k] = np.where(nobody, rest, mean)
    return out
