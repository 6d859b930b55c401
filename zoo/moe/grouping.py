"""Which experts of a layer go together.

    consecutive    as many that follow each other as come out even
    router         cores, and the others with the core whose router row is most like theirs
    weights        the same, by all weights of the experts

Cores are the experts used most; the others choose in decreasing usage. Likeness is the cosine.

Source: Li et al. 2024, arXiv:2310.01334 (M-SMoE), section 3; UNITES-Lab/MC-SMoE,
`mcsmoe/merging/grouping.py`, of which these are the bases `router-weight` and `weight`.
Departs: without frequencies all experts count as used alike, and the first are the cores. Grouping
by router logits on data, which the paper prefers, needs activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SMALLEST = 1e-8
"""No cosine is divided by less."""

Groups = tuple[tuple[int, ...], ...]


def consecutive(experts: int, groups: int) -> Groups:
    """Groups of neighbours, whose sizes differ by one at most, the larger first."""
    size, larger = divmod(experts, groups)
    ends = [i * size + min(i, larger) for i in range(groups + 1)]
    return tuple(tuple(range(a, b)) for a, b in pairwise(ends))


def by_cores(similarity: np.ndarray, usage: Sequence[float], groups: int) -> Groups:
    """Each expert with a core: one of those used most.

    Args:
        similarity: shape (experts, experts), larger is more alike.
        usage: of each expert, of any scale; equal ones count by index.
    Returns:
        For each core, in decreasing usage: its members, ascending.
    """
    order = sorted(range(len(usage)), key=lambda e: -usage[e])
    cores = order[:groups]
    members: dict[int, list[int]] = {c: [c] for c in cores}
    for e in order[groups:]:
        members[max(cores, key=lambda c: similarity[e, c])].append(e)
    return tuple(tuple(sorted(members[c])) for c in cores)


def cosines(gram: np.ndarray) -> np.ndarray:
    """From inner products to cosines mapped to [0, 1]; shape (n, n)."""
    import numpy as np

    lengths = np.maximum(np.sqrt(np.diag(gram)), SMALLEST)
    found: np.ndarray = (gram / lengths[:, None] / lengths[None, :] + 1) / 2
    return found
