"""Whether experts were fine-tuned from the base they are to be merged with, whatever is declared.

By what they share: tensors that training left alone are the base's, byte for byte, and the catalog
knows their digests. By distance: a fine-tune stays near its base, another model does not. Of two
matrices of n numbers that were drawn independently, the cosine is about 1 / sqrt(n), and the
relative distance about sqrt(2); fine-tuning moves weights by a small part of their norm. A few rows
of a few matrices tell the two apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from zoo.checkpoint import Checkpoint, TensorInfo
from zoo.compatibility.problem import Problem
from zoo.compatibility.wording import together
from zoo.dtypes import DTYPES
from zoo.errors import InvalidCheckpoint
from zoo.source import HeadersOnly

if TYPE_CHECKING:
    import numpy as np

    from zoo.engine.inputs import Input

FAR = 0.3
"""Cosine of weights below which a model did not begin where the other did. Dimensionless. Of 83
published networks, fine-tunes with their base and with each other measured 0.63 to 0.99, and 0.53
where pre-training went on for long; networks of other starts 0.08 at most. See
`docs/how-to/check-models.md`."""
MATRICES = 6
"""Matrices that are sampled, spread over the names."""
STRETCHES = 4
"""Stretches of a matrix that are read, spread over it."""
STRETCH = 16 << 10
"""Bytes of each: in all, 400 kB of a model are read."""
SMALLEST = 64
"""Elements below which a matrix says nothing about where it came from."""
SHARED = 0.05
"""Share of a model's matrices, by bytes, that two models of one origin may have in common by
chance: none, but for matrices that were never trained."""


def doubts_of_origin(experts: Sequence[Input], base: Input | None) -> list[Problem]:
    """Experts whose weights did not begin as the base's did; or as each other's, without a base.

    Weights are read only where they are on this machine, and never of a model that is worked out.
    """
    if base is None:
        return _far(experts[0], experts[1:]) if len(experts) > 1 else []
    return [*_far(base, experts), *_others_base(experts, base)]


def _far(origin: Input, experts: Sequence[Input]) -> list[Problem]:
    found = {}
    for expert in experts:
        cosine = closeness(origin.model.checkpoint, expert.model.checkpoint)
        if cosine is not None and cosine < FAR:
            found[expert.model.label] = cosine
    if not found:
        return []
    nearest = max(0.0, *found.values())
    return [
        Problem(
            "origin",
            "warning",
            f"the weights of {together(list(found))} are not near those of "
            f"`{origin.model.label}` (cosine {nearest:.2f} at most, where fine-tunes of one model "
            f"have more than {FAR})",
            "weights that did not begin alike do not average to anything",
            "Merge fine-tunes of one base; `zoo diff` compares every tensor.",
            (origin.model.label, *found),
        )
    ]


def closeness(a: Checkpoint, b: Checkpoint) -> float | None:
    """Cosine of the weights of two models, the median over some matrices; None if none is to hand.

    Cost: reads `MATRICES * STRETCHES * STRETCH` bytes of each at most.
    """
    if not (_is_here(a) and _is_here(b)):
        return None
    cosines = []
    for name in _sampled(a.tensors, b.tensors):
        try:
            x, y = _values(a, a.tensors[name]), _values(b, b.tensors[name])
        except InvalidCheckpoint:
            return None  # cut short since its header was read: whoever merges is told
        norms = float((x @ x) * (y @ y)) ** 0.5
        if norms > 0:
            cosines.append(float(x @ y) / norms)
    return median(cosines) if cosines else None


def _is_here(checkpoint: Checkpoint) -> bool:
    """Whether reading is a matter of bytes on this machine: views work theirs out."""
    from zoo.checkpoints.safetensors import SafetensorsCheckpoint

    return isinstance(checkpoint, SafetensorsCheckpoint) and not isinstance(checkpoint, HeadersOnly)


def _sampled(a: Mapping[str, TensorInfo], b: Mapping[str, TensorInfo]) -> list[str]:
    """Matrices that both have alike, spread over the names."""
    names = [
        n
        for n in sorted(a.keys() & b.keys())
        if a[n].shape == b[n].shape
        and len(a[n].shape) > 1
        and a[n].elements >= SMALLEST
        and a[n].dtype in _WIDTHS
        and b[n].dtype in _WIDTHS
    ]
    step = max(1, len(names) // MATRICES)
    return names[step // 2 :: step][:MATRICES]


_WIDTHS = {name: DTYPES[name].bits // 8 for name in ("F16", "BF16", "F32", "F64")}


def _values(checkpoint: Checkpoint, info: TensorInfo) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The sampled numbers of a matrix: the same places whatever its type."""
    import numpy as np

    count = STRETCH // 4  # of the common type, so that both models give the same elements
    total = info.elements
    starts = {(total - min(count, total)) * i // (STRETCHES - 1) for i in range(STRETCHES)}
    parts = [_read(checkpoint, info, start, min(count, total - start)) for start in sorted(starts)]
    found = np.concatenate(parts)
    return np.where(np.isfinite(found), found, 0.0)


def _read(
    checkpoint: Checkpoint, info: TensorInfo, start: int, count: int
) -> np.ndarray[Any, np.dtype[np.float64]]:
    import numpy as np

    width = _WIDTHS[info.dtype]
    data = bytearray(count * width)
    checkpoint.read_into(info.name, start * width, memoryview(data))
    if info.dtype == "BF16":  # the upper half of a float32
        wide = np.frombuffer(data, dtype="<u2").astype("<u4") << 16
        return wide.view("<f4").astype(np.float64)
    kind = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[info.dtype]
    return np.frombuffer(data, dtype=kind).astype(np.float64)


def _others_base(experts: Sequence[Input], base: Input) -> list[Problem]:
    """Experts that share matrices with each other, and none with the base."""
    problems = []
    for expert in experts:
        if shared(expert, base) > 0 or not expert.model.digests or not base.model.digests:
            continue
        kin = [e.model.label for e in experts if e is not expert and shared(expert, e) > SHARED]
        if kin:
            problems.append(
                Problem(
                    "origin",
                    "warning",
                    f"`{expert.model.label}` has matrices that {together(kin)} has too, and none "
                    f"of `{base.model.label}`",
                    "what training left alone is the base's, byte for byte: this is not its base",
                    "Name the base that they have: `--base REF`.",
                    (expert.model.label, base.model.label),
                )
            )
    return problems


def shared(a: Input, b: Input) -> float:
    """Share of a model's matrices, by bytes, that another has too; 0 where none is known."""
    ours = a.model.checkpoint.tensors
    sizes = {
        digest: ours[n].nbytes
        for n, digest in a.model.digests.items()
        if n in ours and len(ours[n].shape) > 1
    }
    theirs = set(b.model.digests.values())
    whole = sum(sizes.values())
    return sum(size for d, size in sizes.items() if d in theirs) / whole if whole else 0.0
