"""Weight, elect, fuse: from sparsified deltas to one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from zoo.stages.signs import add_up, elect, fuse, weigh

if TYPE_CHECKING:
    import torch

Elect = Literal["none", "mass", "count"]
Merge = Literal["mean", "sum", "max"]

_NEGLIGIBLE = 1e-8
"""mergekit's floor for the sum of weights, below which it does not normalize."""


def consensus(
    deltas: torch.Tensor,
    weights: Sequence[float],
    *,
    by: Elect,
    merge: Merge,
    of: Literal["weighted", "plain"] = "weighted",
) -> torch.Tensor:
    """Weigh the deltas, elect a sign for each entry, and fuse those that have it.

    Args:
        deltas: shape (e, n), overwritten.
        by: whose sign is elected: that of the sum of the deltas (`mass`) or of the sum of their
            signs (`count`), + where it is zero; `none` lets all deltas take part.
        merge: the sum, the sum over the weights of those that take part, or the largest.
        of: whether deltas vote with their weights or without.
    Returns:
        Shape (n,).
    """
    if by == "none":
        total = add_up(weigh(deltas, weights))
        share = math.fsum(weights)
        return total.div_(share) if merge == "mean" and abs(share) >= _NEGLIGIBLE else total
    if of == "weighted":
        deltas = weigh(deltas, weights)
    sign = elect(add_up(deltas.sign() if by == "count" else deltas), 1.0)
    if of == "plain":
        deltas = weigh(deltas, weights)
    return fuse(deltas, sign, weights, merge)


def trivial(p: Any, experts: int, *, whole: bool) -> int | None:
    """The model whose bytes are the exact answer: -1 the base, 0 the only expert; or None.

    Args:
        p: parameters with `weight`, `lambda_` and `merge`.
        whole: whether the sparsifier keeps all entries.
    """
    if p.lambda_ == 0 or not any(p.weight):
        return -1
    alone = experts == 1 and whole and p.lambda_ == 1
    return 0 if alone and (p.merge == "mean" or p.weight == [1]) else None


def contradiction(p: Any, experts: int) -> str | None:
    """A sentence when `elect` and `merge` of the parameters do not go together."""
    if p.elect == "none" and p.merge == "max":
        return (
            "merge=max takes the largest of the deltas that agree, and elect=none asks for no "
            "agreement; set elect=mass"
        )
    return None
