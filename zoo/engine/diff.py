"""Compare two versions, tensor by tensor: what they share, and how far apart the rest is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.checkpoint import Checkpoint
from zoo.checkpoints.dequantize import dequantized
from zoo.checkpoints.reading import Reader
from zoo.dtypes import DTYPES
from zoo.engine.opener import open_version
from zoo.progress import NoProgress, Progress
from zoo.records import Version

if TYPE_CHECKING:
    from zoo.registry import Registry


Sums = tuple[float, float, float, float, float]
"""<a, a>, <b, b>, <a, b>, <a - b, a - b> and the largest |a - b|, in float64."""

RUNNING_STATISTICS = ("running_mean", "running_var")
"""How the names of normalization's measurements end."""


@dataclass(frozen=True, slots=True)
class Distance:
    """How far a tensor of b lies from the same tensor of a. All but `tensor` in float64."""

    tensor: str
    distance_l2: float
    """|a - b|, in units of the weights."""
    relative: float | None
    """|a - b| / |a|, dimensionless; None where a is zero."""
    cosine: float | None
    """<a, b> / (|a| |b|), dimensionless; None where either is zero."""
    max_abs: float
    """Largest |a_i - b_i|, in units of the weights."""


@dataclass(frozen=True, slots=True)
class Diff:
    """How two versions differ. Shared tensors are those with equal digests."""

    a: str
    b: str
    shared: tuple[str, ...]
    changed: tuple[Distance, ...]
    """Tensors of one shape and other bytes, names ascending."""
    carried: tuple[str, ...]
    """Tensors that differ and do not merge (integers), so they have no distance."""
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    shape_differs: tuple[str, ...]
    total: Distance
    """Over all weights they have in common, shared ones included. Running statistics of
    normalization are left out: they describe data, and their norm would drown the weights."""

    def as_dict(self) -> dict[str, Any]:
        from dataclasses import asdict

        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def diff(
    registry: Registry,
    a: Version,
    b: Version,
    *,
    threads: int,
    progress: Progress | None = None,
) -> Diff:
    """Compare two stored versions, reading every floating tensor once, in bounded memory."""
    progress = progress or NoProgress()
    left = {t.name: t for t in registry.catalog.tensors(a.id)}
    right = {t.name: t for t in registry.catalog.tensors(b.id)}
    common = sorted(left.keys() & right.keys())
    shared = [n for n in common if left[n].digest == right[n].digest]
    reshaped = [n for n in common if left[n].shape != right[n].shape]
    floating = [n for n in common if n not in set(reshaped) and _floats(left[n], right[n])]
    with ExitStack() as stack:
        pair = [dequantized(open_version(registry, v, stack)) for v in (a, b)]
        floating = [n for n in floating if all(n in c.tensors for c in pair)]  # scales are gone
        sizes = {n: sum(c.tensors[n].nbytes for c in pair) for n in floating}
        progress.start(sum(sizes.values()), "compare")
        stack.callback(progress.done)
        reader = Reader(wide=True)
        pool = stack.enter_context(ThreadPoolExecutor(threads, "zoo-diff"))

        def measured(name: str) -> Sums:
            sums = _sums(reader, name, pair)
            progress.advance(sizes[name])
            return sums

        # Shared tensors are read too: the total cosine needs their norms.
        sums = dict(zip(floating, pool.map(measured, floating), strict=True))
    same = set(shared)
    weights = [s for n, s in sums.items() if not n.endswith(RUNNING_STATISTICS)]
    aa, bb, ab, dd = (math.fsum(s[i] for s in weights) for i in range(4))
    return Diff(
        a.ref,
        b.ref,
        tuple(shared),
        tuple(_distance(n, *sums[n]) for n in floating if n not in same),
        tuple(n for n in common if n not in {*same, *reshaped, *floating}),
        tuple(sorted(left.keys() - right.keys())),
        tuple(sorted(right.keys() - left.keys())),
        tuple(reshaped),
        _distance("", aa, bb, ab, dd, max((s[4] for s in weights), default=0.0)),
    )


def _floats(a: Any, b: Any) -> bool:
    return DTYPES[a.dtype].merges and DTYPES[b.dtype].merges


def _sums(reader: Reader, name: str, pair: Sequence[Checkpoint]) -> Sums:
    aa = bb = ab = dd = largest = 0.0
    for _, values in reader.chunks(name, pair):
        a, b = values
        aa += float(a.dot(a))
        bb += float(b.dot(b))
        ab += float(a.dot(b))
        a.sub_(b)
        dd += float(a.dot(a))
        largest = max(largest, float(a.abs().max()))
    return aa, bb, ab, dd, largest


def _distance(name: str, aa: float, bb: float, ab: float, dd: float, largest: float) -> Distance:
    cosine = (ab / math.sqrt(aa) / math.sqrt(bb) if dd else 1.0) if aa and bb else None
    relative = math.sqrt(dd) / math.sqrt(aa) if aa else None
    return Distance(name, math.sqrt(dd), relative, cosine, largest)
