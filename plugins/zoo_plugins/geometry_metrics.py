"""The geometry of task vectors: what fine-tuning changed, by tensor, from the weights alone."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Interval

from zoo import Metric, MetricValue, Subject, hookimpl, metric
from zoo.errors import IncompatibleModels, InvalidCheckpoint, InvalidRecipe

if TYPE_CHECKING:
    import torch

Parts = Annotated[
    Literal["whole", "layers", "tensors"], "whether layers or tensors are told one by one as well"
]
Exclude = Annotated[tuple[str, ...], "glob patterns of tensors to leave out"]
Share = Annotated[float, Interval(gt=0, le=1), "of the entries of a task vector, the largest"]
Energy = Annotated[
    float, Interval(gt=0, le=1), "part of the squared singular values a subspace holds"
]

_STATISTICS = ("*running_mean", "*running_var")
"""What BatchNorm counts; no fine-tuned weights."""


@metric(
    "task_vector",
    version="1.0.0",
    base=True,
    gives={
        "task_vector_norm": "length of expert minus base, in the unit of the weights",
        "task_vector_relative_norm": "the same over the length of the base, dimensionless",
        "task_vector_effective_rank": "exp of the entropy of the singular values over their sum, "
        "mean over the matrices",
        "task_vector_stable_rank": "squared length over the squared largest singular value, mean "
        "over the matrices",
    },
)
def task_vector(
    model: Subject, *, parts: Parts = "whole", exclude: Exclude = _STATISTICS
) -> Iterator[MetricValue]:
    """How far an expert is from its base, and in how many directions.

    Tensors of more than two axes are matrices of (first axis) x (rest); vectors have no rank.

    Cost: reads both models once; singular values of each matrix.
    Memory: three copies of the largest tensor, in float64.
    Source: Ilharco et al. 2023, arXiv:2212.04089; Roy & Vetterli 2007 (effective rank).
    """
    import torch

    group = _groups(model, parts)
    sums: dict[str, _Size] = defaultdict(_Size)
    for name in _names([model], exclude):
        base, (delta,) = _deltas([model], name)
        squares, beside = float(delta.square().sum()), float(base.square().sum())
        values = torch.linalg.svdvals(_matrix(delta)) if delta.ndim > 1 and squares else None
        for part in group(name):
            own = sums[part]
            own.squares += squares
            own.base += beside
            if values is not None:
                own.effective.append(effective_rank(values))
                own.stable.append(squares / float(values[0]) ** 2)
    for part, own in sums.items():
        yield MetricValue("task_vector_norm", math.sqrt(own.squares), part)
        if own.base:
            relative = math.sqrt(own.squares / own.base)
            yield MetricValue("task_vector_relative_norm", relative, part)
        if own.effective:
            yield MetricValue("task_vector_effective_rank", _mean(own.effective), part)
            yield MetricValue("task_vector_stable_rank", _mean(own.stable), part)


@dataclass
class _Size:
    squares: float = 0.0
    base: float = 0.0
    effective: list[float] = field(default_factory=list)
    stable: list[float] = field(default_factory=list)


@metric(
    "task_vectors",
    version="1.0.0",
    arity=2,
    base=True,
    gives={
        "task_vector_cosine": "cosine of the two task vectors, -1 to 1",
        "task_vector_norm_ratio": "length of the longer over that of the shorter, at least 1",
        "sign_agreement": "share of equal signs among entries that are nonzero in both, 0 to 1",
        "top_sign_agreement": "the same among the largest entries of both",
        "top_overlap": "largest entries of both over largest entries of either (Jaccard), 0 to 1",
        "sign_conflict": "share of the sum of |entry| whose sign is not that of the two's sum",
    },
)
def task_vectors(
    models: Sequence[Subject],
    *,
    top: Share = 0.2,
    parts: Parts = "whole",
    exclude: Exclude = _STATISTICS,
) -> Iterator[MetricValue]:
    """How the task vectors of two experts of one base lie to each other.

    The largest entries are the `top` share of all entries of a task vector by magnitude, those that
    are equal to the smallest of them included; zeros never are.

    Cost: reads both models and the base three times.
    Memory: five copies of the largest tensor, in float64.
    Source: Ilharco et al. 2023, arXiv:2212.04089 (cosine); Yadav et al. 2023, arXiv:2306.01708
        (signs); Wang et al. 2024, arXiv:2405.07813 (overlap of masks).
    """
    _check_one_base(models)
    group = _groups(models[0], parts)
    names = _names(models, exclude)
    cuts = [_largest(model, names, top) for model in models]
    sums: dict[str, _Both] = defaultdict(_Both)
    for name in names:
        _, (a, b) = _deltas(models, name)
        found = _compared(a, b, cuts[0], cuts[1])
        for part in group(name):
            sums[part].add(found)
    for part, own in sums.items():
        yield from own.values(part)


@dataclass
class _Both:
    """Sums over the entries of two task vectors."""

    product: float = 0.0
    a: float = 0.0
    b: float = 0.0
    nonzero: int = 0
    equal: int = 0
    top_nonzero: int = 0
    top_equal: int = 0
    top_either: int = 0
    mass: float = 0.0
    against: float = 0.0

    def add(self, other: _Both) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def values(self, part: str) -> Iterator[MetricValue]:
        if self.a and self.b:
            cosine = self.product / math.sqrt(self.a) / math.sqrt(self.b)
            yield MetricValue("task_vector_cosine", max(-1.0, min(1.0, cosine)), part)
            ratio = math.sqrt(max(self.a, self.b) / min(self.a, self.b))
            yield MetricValue("task_vector_norm_ratio", ratio, part)
        if self.nonzero:
            yield MetricValue("sign_agreement", self.equal / self.nonzero, part)
        if self.top_nonzero:
            yield MetricValue("top_sign_agreement", self.top_equal / self.top_nonzero, part)
        if self.top_either:
            yield MetricValue("top_overlap", self.top_nonzero / self.top_either, part)
        if self.mass:
            yield MetricValue("sign_conflict", self.against / self.mass, part)


def _compared(a: torch.Tensor, b: torch.Tensor, cut_a: float, cut_b: float) -> _Both:
    """The sums of one tensor.

    Args:
        cut_a, cut_b: magnitudes from which an entry is among the largest, in float32.
    """
    both = (a != 0) & (b != 0)
    same = both & (a.sign() == b.sign())
    top_a = (a != 0) & (a.abs().float() >= cut_a)
    top_b = (b != 0) & (b.abs().float() >= cut_b)
    elected = (a + b).sign()
    against = sum(float(t.abs()[t.sign() != elected].sum()) for t in (a, b))
    return _Both(
        float((a * b).sum()),
        float(a.square().sum()),
        float(b.square().sum()),
        int(both.sum()),
        int(same.sum()),
        int((top_a & top_b).sum()),
        int((top_a & top_b & same).sum()),
        int((top_a | top_b).sum()),
        float(a.abs().sum() + b.abs().sum()),
        against,
    )


@metric(
    "subspace_overlap",
    version="1.0.0",
    arity=2,
    base=True,
    gives={
        "subspace_overlap": "overlap of the spaces that hold most of both updates, mean over the "
        "tensors, 0 to 1",
        "subspace_overlap_chance": "what two random spaces of these sizes overlap by on average",
        "subspace_overlap_excess": "the overlap above chance, -1 to 1",
    },
)
def subspace_overlap(
    models: Sequence[Subject],
    *,
    energy: Energy = 0.9,
    parts: Parts = "whole",
    exclude: Exclude = _STATISTICS,
) -> Iterator[MetricValue]:
    """Overlap of the output directions that two experts of one base changed (MSO).

        MSO = |Q_a^T Q_b|^2 / min(k_a, k_b),    chance = max(k_a, k_b) / d

    Q holds the fewest left singular vectors of a tensor's update (d x rest, vectors as one column)
    whose squared singular values make up `energy` of the whole. Tensors that one of the two left as
    they were are left out.

    Cost: reads both models and the base once; a singular value decomposition of each update.
    Memory: about eight copies of the largest tensor, in float64.
    Source: Ponkshe et al. 2025, arXiv:2505.14185, section 3.
    """
    _check_one_base(models)
    group = _groups(models[0], parts)
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for name in _names(models, exclude):
        _, (a, b) = _deltas(models, name)
        if not (a.any() and b.any()):
            continue
        overlap = mode_subspace_overlap(_matrix(a), _matrix(b), energy)
        for part in group(name):
            found[part].append(overlap)
    for part, overlaps in found.items():
        value, chance = (_mean([o[i] for o in overlaps]) for i in (0, 1))
        yield MetricValue("subspace_overlap", value, part)
        yield MetricValue("subspace_overlap_chance", chance, part)
        yield MetricValue("subspace_overlap_excess", value - chance, part)


def mode_subspace_overlap(
    a: torch.Tensor, b: torch.Tensor, energy: float = 0.9
) -> tuple[float, float]:
    """(MSO, chance) of two matrices of shape (d, ...), neither of them zero."""
    import torch

    bases = []
    for matrix in (a, b):
        left, values, _ = torch.linalg.svd(matrix, full_matrices=False)
        shares = values.square().cumsum(0) / values.square().sum()
        # Rounding must not ask for one more direction.
        k = min(int((shares < energy - 1e-12).sum()) + 1, int((values > 0).sum()))
        bases.append(left[:, :k])
    sizes = [q.shape[1] for q in bases]
    overlap = float((bases[0].T @ bases[1]).square().sum()) / min(sizes)
    return min(1.0, overlap), max(sizes) / len(a)


def effective_rank(values: torch.Tensor) -> float:
    """exp(-sum p ln p) of singular values over their sum; 1 to their number."""
    import torch

    p = values / values.sum()
    return math.exp(float(-torch.special.xlogy(p, p).sum()))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _matrix(tensor: torch.Tensor) -> torch.Tensor:
    """Shape (first axis, rest); vectors and numbers as one column."""
    return tensor.reshape(len(tensor) if tensor.ndim else 1, -1)


def _deltas(models: Sequence[Subject], name: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The base's tensor, and each expert's minus it, in float64.

    Raises:
        InvalidCheckpoint: there are entries that are not finite.
    """
    from zoo.checkpoint import tensor_of

    assert models[0].base is not None
    kept = models[0].base.checkpoint
    base = tensor_of(kept, kept.tensors[name]).double()
    own = (tensor_of(m.checkpoint, m.checkpoint.tensors[name]) for m in models)
    deltas = [t.double().sub_(base) for t in own]
    for model, delta in zip(models, deltas, strict=True):
        if not bool(delta.isfinite().all()):
            raise InvalidCheckpoint(
                f"Tensor `{name}` of `{model.label}` or its base has entries that are not finite.",
                "There is no task vector.",
                "Leave the tensor out: `--set exclude=...`.",
                tensor=name,
            )
    return base, deltas


def _names(models: Sequence[Subject], exclude: Sequence[str]) -> list[str]:
    """Floating tensors that the experts and the base share, in one shape.

    A head of the expert's own has no counterpart in the base, and is left out.

    Raises:
        IncompatibleModels: there is none, or a base is missing.
    """
    from zoo.dtypes import DTYPES

    missing = [m.label for m in models if m.base is None]
    if missing:
        raise IncompatibleModels(
            f"`{missing[0]}` has no base.",
            "A task vector is an expert minus its base.",
            "Register it with `--base`.",
        )
    assert models[0].base is not None
    every = [m.checkpoint.tensors for m in (models[0].base, *models)]
    names = [
        name
        for name, info in every[0].items()
        if DTYPES[info.dtype].merges
        and info.elements
        and all(name in t and t[name].shape == info.shape for t in every)
        and not any(fnmatchcase(name, pattern) for pattern in exclude)
    ]
    if not names:
        raise IncompatibleModels(
            f"{_listed(models)} {'share' if len(models) > 1 else 'shares'} no tensor with the base "
            f"`{models[0].base.label}`.",
            "A task vector is taken tensor by tensor, of equal names and shapes.",
        )
    return names


def _check_one_base(models: Sequence[Subject]) -> None:
    bases = [m.base.digest if m.base else None for m in models]
    if len(set(bases)) > 1 or None in bases:
        told = ", ".join(
            f"`{m.label}`: {f'`{m.base.label}`' if m.base else 'none'}" for m in models
        )
        raise IncompatibleModels(
            f"{_listed(models)} were not fine-tuned from the same base ({told}).",
            "Task vectors can be compared only where they begin in one place.",
            "Pair versions of one base: `--within base`.",
            problems=[told],
        )


def _listed(models: Sequence[Subject]) -> str:
    return " and ".join(f"`{m.label}`" for m in models)


def _groups(model: Subject, parts: str) -> Callable[[str], Sequence[str]]:
    """Tensor name -> the parts of the model that it counts for; the whole is ''.

    Raises:
        InvalidRecipe: layers are asked for, and the architecture does not know them.
    """
    if parts == "whole":
        return lambda name: ("",)
    if parts == "tensors":
        return lambda name: ("", name)
    layers = model.architecture.layers(model.config) if model.architecture else ()
    if not layers:
        raise InvalidRecipe(
            f"The layers of `{model.label}` are not known.",
            "Its architecture does not list them.",
            "Use `--set parts=tensors`.",
        )
    names = [patterns[0].removesuffix(".*") for patterns in layers]

    def of(name: str) -> Sequence[str]:
        for layer, patterns in zip(names, layers, strict=True):
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                return "", layer
        return ("",)

    return of


def _largest(model: Subject, names: Sequence[str], share: float) -> float:
    """The magnitude, in float32, from which an entry of a task vector is among its largest.

    Two passes: one counts magnitudes by the upper half of their bits, one by the lower half within
    the bin where the cut falls. As bits, floats above zero are in order.
    """
    import torch

    def bits() -> Iterator[torch.Tensor]:
        for name in names:
            _, (delta,) = _deltas([model], name)
            yield delta.abs().float().reshape(-1).view(torch.int32).long()

    upper = torch.zeros(1 << 16, dtype=torch.int64)
    for one in bits():
        upper += torch.bincount(one >> 16, minlength=1 << 16)
    wanted = max(1, round(share * int(upper.sum())))
    high, left = _bin(upper, wanted)
    lower = torch.zeros(1 << 16, dtype=torch.int64)
    for one in bits():
        lower += torch.bincount(one[one >> 16 == high] & 0xFFFF, minlength=1 << 16)
    low, _ = _bin(lower, left)
    return float(torch.tensor((high << 16) | low, dtype=torch.int32).view(torch.float32))


def _bin(counts: torch.Tensor, wanted: int) -> tuple[int, int]:
    """The bin that holds the `wanted`-th largest, and which of its members that is."""
    above = counts.flip(0).cumsum(0)
    place = int((above < wanted).sum())
    index = len(counts) - 1 - place
    return index, wanted - int(above[place] - counts[index])


@hookimpl
def zoo_register_metrics(register: Callable[[Metric], None]) -> None:
    register(task_vector)
    register(task_vectors)
    register(subspace_overlap)
