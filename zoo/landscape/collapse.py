"""Neural collapse: how the features before the head gather around the means of their classes.

Notation, for features h_i of class y_i, i = 1 ... N, of C classes that are present:

    mu_c   mean of class c;   mu_G  mean of the mu_c;   m_c = mu_c - mu_G, the columns of M
    S_W    (1/N) sum_i (h_i - mu_{y_i}) (h_i - mu_{y_i})^T
    S_B    (1/C) M M^T
    w_c    row c of the head's weight W

All of it in float64. The scatters are never formed: M = U S V^T gives what is needed of S_B.

Source: Papyan, Han, Donoho 2020, arXiv:2008.08186; their notebook neuralcollapse/neuralcollapse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from zoo.landscape.estimate import Estimate

Features = Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]
"""() -> (features (n, d), answers (n,), labels (n,)) batch by batch, the same at each call."""

_RANK = 1e-10
"""Eigenvalues of S_B below this share of the largest are taken for zero."""


def collapse(features: Features, weight: torch.Tensor) -> dict[str, Estimate]:
    """The measures NC1 to NC4, all zero at full collapse.

        nc1              tr(S_W S_B^+);   nc1_over_c  the same / C
        nc2_equinorm     sample standard deviation of |m_c| over c / their mean
        nc2_equiangular  sum over c != c' of |cos(m_c, m_c') + 1 / (C - 1)| / (C (C - 1))
        nc3              | W^T / |W|_F - M / |M|_F |_F^2
        nc4              share of i whose answer is not the class of the nearest mu_c

    Both of NC2 for the means (`_means`) and for the rows of the head (`_head`), which are not
    centred. What is not defined is left out: all with fewer than two classes or features
    that are not finite, cosines of a zero vector.

    Args:
        weight: of the head, shape (classes, d); rows of classes that are absent are not used.
    Cost: two passes over the features. Memory: (C, d), and one batch.
    """
    sums, counts = _sums(features, weight)
    present = torch.nonzero(counts).squeeze(1)
    if len(present) < 2:
        return {}
    means = sums[present] / counts[present, None]
    if not bool(means.isfinite().all()):
        return {}
    m = means - means.mean(0)
    w = weight.double().to(m.device)[present]
    found: dict[str, Estimate] = {}
    for name, rows in (("means", m), ("head", w)):
        norms = rows.norm(dim=1)
        if norms.mean() > 0:
            found[f"nc2_equinorm_{name}"] = _exactly(norms.std() / norms.mean())
        if norms.min() > 0:
            found[f"nc2_equiangular_{name}"] = _exactly(_angles(rows / norms[:, None]))
    if w.norm() > 0 and m.norm() > 0:
        found["nc3"] = _exactly((w / w.norm() - m / m.norm()).norm() ** 2)
    return found | _scatter(features, means, present)


def _sums(features: Features, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums (classes, d) and counts (classes,) of the features of each class."""
    classes, width = weight.shape
    sums = torch.zeros(classes, width, dtype=torch.float64, device=weight.device)
    counts = torch.zeros(classes, dtype=torch.float64, device=weight.device)
    for h, _, y in features():
        sums.index_add_(0, y, h.double())
        counts += y.bincount(minlength=classes)
    return sums, counts


def _angles(directions: torch.Tensor) -> torch.Tensor:
    """Mean distance of the cosines between unit rows from those of a simplex."""
    classes = len(directions)
    off = (directions @ directions.T + 1 / (classes - 1)).abs()
    return (off.sum() - off.diagonal().sum()) / (classes * (classes - 1))


def _scatter(features: Features, means: torch.Tensor, present: torch.Tensor) -> dict[str, Estimate]:
    """NC1 and NC4, in a second pass.

    tr(S_W S_B^+) is the mean over the examples of C sum_k (u_k . (h_i - mu_{y_i}))^2 / s_k^2 over
    the singular values s_k of M that are not zero. It has no standard error: most of what is
    uncertain about it is the inverse of S_B.
    """
    classes = len(means)
    m = means - means.mean(0)
    _, s, directions = torch.linalg.svd(m, full_matrices=False)
    keep = (s**2 > _RANK * s[0] ** 2)[: classes - 1].nonzero().squeeze(1)
    axes = directions[keep] * (classes**0.5 / s[keep, None])
    place = torch.full((int(present.max()) + 1,), -1, device=means.device)
    place[present] = torch.arange(classes, device=means.device)
    spread, wrong, total = 0.0, 0, 0
    for h, answers, y in features():
        h = h.double()
        spread += float(((h - means[place[y]]) @ axes.T).square().sum())
        nearest = present[torch.cdist(h, means).argmin(1)]
        wrong += int((nearest != answers).sum())
        total += len(h)
    share = wrong / total
    found = {"nc4": Estimate(share, (share * (1 - share) / total) ** 0.5, total)}
    if len(keep):
        found["nc1"] = Estimate(spread / total, None, total)
        found["nc1_over_c"] = Estimate(spread / total / classes, None, total)
    return found


def _exactly(number: torch.Tensor) -> Estimate:
    return Estimate(float(number), None, 1)
