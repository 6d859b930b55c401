"""Which experts merge well together, how, and why: a pure function of what is measured.

    advise(experts, pairs)  ->  sets of experts, the most promising first

A set is as promising as its weakest pair. A pair's promise is a weighted mean of parts, each from 0
to 1, where a part that nobody measured counts as one half: what is known to be good goes before
what is unknown, and that before what is known to be bad.

    part        weight  from                                                    one half at
    connection       3  1 / (1 + r), r the error barrier / 0.02, else barrier / 0.1 nats     r = 1
    nearness         2  1 / (1 + d), d their distance over the length of the base            d = 1
    similarity       1  CKA                                                                    1/2
    phase            1  that of the worse: IV-B 1, IV-A 3/4, II 1/2, III 1/4, I 0               II
    skill            1  accuracy of the worse on its own task                                  1/2

The distance d follows from the lengths of the two task vectors and their cosine. Experts without a
common start are not near, whatever else they are, and are not merged unless no barrier lies between
them.
The method and its scale follow from a few rules, in `_rule`. docs/explanation/advice.md says where
each comes from, and benchmarks/results/advice.md how the advice fared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from math import prod, sqrt
from statistics import fmean
from typing import Any, Literal

from zoo.errors import InvalidRecipe, NotFound

CONNECTED_ERROR = 0.02
"""Error barrier, as a share, up to which two models are connected.

Source: Frankle et al. 2020, arXiv:1912.05671, section 3."""
CONNECTED_LOSS = 0.1
"""Loss barrier in nats up to which two models are called connected; ours."""
APART = 5
"""Times the threshold from which a barrier rules out averaging; ours."""
ALIGNED = 0.3
"""Cosine from which task vectors point the same way, and their sum goes too far; ours."""
OPPOSED = -0.05
"""Cosine below which they pull against each other; ours."""
CHANCE = 0.5
"""Share of equal signs of two task vectors that have nothing to do with each other."""
SHARED = 0.1
"""Overlap of subspaces above chance from which tasks get into each other's way; ours."""
MANY = 4
"""Experts from which it pays to untangle their tasks; ours."""
HIGHEST = 0.4
"""Coefficient of a sum of task vectors above which published sweeps rarely find their best."""
UNEQUAL = 2.0
"""Ratio of lengths from which the longer task vector drowns the shorter; ours."""

PHASES = {"IV-B": 1.0, "IV-A": 0.75, "II": 0.5, "III": 0.25, "I": 0.0}
"""What a phase promises. Source: Yang et al. 2021, arXiv:2107.11228, for the order; values ours."""

METRICS = {
    "connection": ("barrier",),
    "nearness": ("task_vector", "task_vectors"),
    "similarity": ("cka",),
}
"""Part -> the metrics that `zoo measure` computes for it; the others come from `zoo phases assign`
and `zoo evaluate`."""
_WEIGHTS = {"connection": 3.0, "nearness": 2.0, "similarity": 1.0, "phase": 1.0, "skill": 1.0}
_MOST_SETS = 20_000

Verdict = Literal["merge", "try", "do not merge"]


@dataclass(frozen=True, slots=True)
class Expert:
    """What the registry knows of one candidate."""

    ref: str
    architecture: str | None = None
    base: str | None = None
    """Reference of the base; None where it has none."""
    task: str | None = None
    phase: str | None = None
    accuracy: float | None = None
    """On its own task, 0 to 1."""
    length: float | None = None
    """Norm of its task vector over that of the base, dimensionless."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What is measured of two candidates; None where it was not."""

    cosine: float | None = None
    sign_agreement: float | None = None
    length_ratio: float | None = None
    """Of the longer task vector to the shorter, at least 1."""
    subspace_excess: float | None = None
    """Overlap of their subspaces above chance."""
    barrier: float | None = None
    """In nats; of several tasks, the highest."""
    error_barrier: float | None = None
    """Share of wrong answers, 0 to 1; of several tasks, the highest."""
    cka: float | None = None

    @property
    def rise(self) -> float | None:
        """The barrier in units of the threshold up to which models are connected."""
        if self.error_barrier is not None:
            return self.error_barrier / CONNECTED_ERROR
        return None if self.barrier is None else self.barrier / CONNECTED_LOSS


Pairs = Mapping[frozenset[str], Pair]
"""By the two references; a pair of which nothing is measured may be missing."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do with a set of experts, and why."""

    experts: tuple[str, ...]
    promise: float
    """0 to 1: the weakest pair's; for ranking, not a forecast of accuracy."""
    verdict: Verdict
    method: str | None
    """None where they should not be merged."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    """Plain sentences."""
    missing: tuple[str, ...] = ()
    """Parts of the promise that nobody measured for every pair."""
    base: str | None = None

    def merge_command(self) -> str | None:
        """What does it."""
        if self.method is None:
            return None
        words = [f"zoo merge --method {self.method}"]
        words += [f"--expert {ref}" for ref in self.experts]
        if self.base and self.method != "linear":
            words.append(f"--base {self.base}")
        words += [f'--set "{k}={v}"' if " " in str(v) else f"--set {k}={v}"
                  for k, v in self.parameters.items()]  # fmt: skip
        return " ".join([*words, "--as NAME"])

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "experts": list(self.experts),
            "promise": self.promise,
            "verdict": self.verdict,
            "method": self.method,
            "parameters": dict(self.parameters),
            "reasons": list(self.reasons),
            "missing": list(self.missing),
            "command": self.merge_command(),
        }


def advise(
    experts: Sequence[Expert], pairs: Pairs, *, tasks: Sequence[str] = (), most: int = 10
) -> list[Advice]:
    """The most promising sets of experts.

    Without tasks, all pairs, and the larger sets that grow from the best pair by the expert that
    fits best. With tasks, the sets that hold one expert for each.

    Args:
        most: sets to give.
    Raises:
        InvalidRecipe: fewer than two experts, or more sets than can be looked at.
        NotFound: a task has no expert.
    """
    if tasks:
        sets: Iterable[Sequence[Expert]] = _one_for_each(experts, tasks)
    elif len(experts) < 2:
        raise InvalidRecipe(
            f"{len(experts)} expert cannot be merged with another.", how="Widen the query."
        )
    else:
        sets = _pairs_and_grown(experts, pairs)
    # Ranked by their promise first; the sentences are for those that are shown.
    ranked = sorted(sets, key=lambda s: _rank(s, pairs))
    return [judge(s, pairs) for s in ranked[:most]]


def judge(experts: Sequence[Expert], pairs: Pairs) -> Advice:
    """What to do with this set of experts, and why."""
    refs = tuple(e.ref for e in experts)
    promise = min(_promise(a, b, _of(pairs, a, b)) for a, b in combinations(experts, 2))
    seen = _Seen(experts, [_of(pairs, a, b) for a, b in combinations(experts, 2)])
    verdict, method, parameters, reasons = _rule(seen)
    each = [parts(a, b, _of(pairs, a, b)) for a, b in combinations(experts, 2)]
    missing = tuple(name for name in _WEIGHTS if any(p[name] is None for p in each))
    if verdict == "merge" and "connection" in missing:
        verdict = "try"
        reasons = [*reasons, "No barrier was measured, so this is from the weights alone."]
    return Advice(refs, promise, verdict, method, parameters, tuple(reasons), missing, seen.base)


def scale_of(n: int, cosine: float) -> float:
    """A coefficient for the sum of n task vectors whose cosines are c in the mean.

        1 / sqrt(n (1 + (n - 1) c)), at most 0.4, at least 1/n

    The root makes the sum of n vectors of one length as long as one of them: 1/sqrt(n) where they
    are orthogonal, 1/n, the mean, where they are the same. Published sweeps end at 0.3 to 0.4 even
    where it would allow more.

    Source: Ilharco et al. 2023, arXiv:2212.04089, section 4, for the cap; the root is ours.
    """
    inside = n * (1 + (n - 1) * cosine)
    return max(1 / n, min(HIGHEST, 1 / sqrt(inside) if inside > 0 else 1.0))


@dataclass(frozen=True)
class _Seen:
    """A set in the terms that the rules use; the worst pair counts."""

    experts: Sequence[Expert]
    pairs: Sequence[Pair]

    @property
    def n(self) -> int:
        return len(self.experts)

    @property
    def base(self) -> str | None:
        """The base that all have in common."""
        bases = {e.base for e in self.experts}
        return bases.pop() if len(bases) == 1 else None

    @property
    def one_task(self) -> bool:
        return len({e.task for e in self.experts}) == 1 and self.experts[0].task is not None

    def known(self, name: str) -> list[float]:
        return [v for p in self.pairs if (v := getattr(p, name)) is not None]

    @property
    def rise(self) -> float | None:
        """The highest barrier; None unless each pair's is known."""
        found = self.known("rise")
        return max(found) if len(found) == len(self.pairs) else None


def _rule(seen: _Seen) -> tuple[Verdict, str | None, dict[str, Any], list[str]]:
    """The first rule that fits: verdict, method, parameters, reasons."""
    n, rise = seen.n, seen.rise
    if len(kinds := {e.architecture for e in seen.experts}) > 1:
        names = " and ".join(f"`{k or 'unknown'}`" for k in sorted(kinds, key=str))
        return "do not merge", None, {}, [f"They are of different architectures, {names}."]
    if seen.base is None:
        if rise is not None and rise <= 1:
            why = "They have no common base on record, but no barrier lies between them"
            return "merge", "linear", {}, [f"{why} ({_height(seen)}): their mean is in one basin."]
        told = f"; a barrier of {_height(seen)} lies between them" if rise is not None else ""
        return "do not merge", None, {}, [
            f"They were not fine-tuned from one base{told}: their units are in different orders, "
            "and a mean of unrelated units is noise. Align them first."
        ]  # fmt: skip
    start = f"All are fine-tuned from `{seen.base}`."
    return _rule_of_one_base(seen, start, n, rise)


def _rule_of_one_base(
    seen: _Seen, start: str, n: int, rise: float | None
) -> tuple[Verdict, str | None, dict[str, Any], list[str]]:
    cosines, signs = seen.known("cosine"), seen.known("sign_agreement")
    cosine = fmean(cosines) if cosines else None
    said = [start]
    if rise is not None and rise > APART:
        said.append(
            f"A barrier of {_height(seen)} lies between them: half way, much of both is lost. No "
            "scale mends that; the best expert alone may do better."
        )
        return "try", "task_arithmetic", {"lambda": round(1 / n, 2)}, said + _lengths(seen)
    if rise is not None and rise <= 1:
        said.append(f"No barrier lies between them ({_height(seen)}): they are in one basin.")
    elif rise is not None:
        said.append(f"A low barrier lies between them ({_height(seen)}).")
    if seen.one_task:
        said.append("They are runs of one task, whose mean is flat and often beats each.")
        return "merge", "linear", {}, said
    if cosine is None:
        said.append("How their task vectors lie to each other was not measured; one scale is safe.")
        return "try", "task_arithmetic", {"lambda": round(1 / n, 2)}, said
    if min(cosines) < OPPOSED or (signs and min(signs) < CHANCE - 0.02):
        low = f"cosine down to {min(cosines):.2f}" + (
            f", {100 * min(signs):.0f} % equal signs" if signs else ""
        )
        said.append(f"Their changes contradict each other ({low}): let the majority elect signs.")
        return "merge", "ties", {"density": 0.2, "lambda": 1.0}, said + _lengths(seen)
    if cosine >= ALIGNED:
        said.append(
            f"Their task vectors point the same way (mean cosine {cosine:.2f}): a sum goes beyond "
            "each of them, their mean does not."
        )
        return "merge", "linear", {}, said + _lengths(seen)
    excess = seen.known("subspace_excess")
    if n >= MANY and excess and fmean(excess) > SHARED:
        said.append(
            f"They are {n}, and change the same directions (overlap {fmean(excess):.2f} above "
            "chance) in different ways: untangle these by their singular vectors."
        )
        return "merge", "tsv", {"lambda": 1.0}, said + _lengths(seen)
    scale = round(scale_of(n, cosine), 2)
    mean = ", which is their mean" if n * scale <= 1.01 else ""
    said.append(
        f"Their task vectors are nearly orthogonal (mean cosine {cosine:.2f}), so they can be "
        f"added, at a scale of {scale}{mean}."
    )
    return "merge", "task_arithmetic", {"lambda": scale}, said + _lengths(seen)


def _height(seen: _Seen) -> str:
    """The highest barrier in words."""
    errors = seen.known("error_barrier")
    if len(errors) == len(seen.pairs):
        return f"{100 * max(errors):.1f} points of error"
    return f"{max(seen.known('barrier')):.2g} nats"


def _lengths(seen: _Seen) -> list[str]:
    ratios = seen.known("length_ratio")
    if not ratios or max(ratios) < UNEQUAL:
        return []
    lengths = [e.length for e in seen.experts if e.length]
    told = ""
    if len(lengths) == seen.n:
        shortest = min(lengths)
        weights = [round(shortest / length, 2) for length in lengths]
        told = f" Weights that make them equal: weight={weights}."
    return [
        f"One task vector is {max(ratios):.1f} times as long as another, and will drown it.{told}"
    ]


def parts(a: Expert, b: Expert, pair: Pair) -> dict[str, float | None]:
    """The parts of a pair's promise, 0 to 1; None where nothing is known."""
    rise, apart = pair.rise, _distance(a, b, pair)
    nearness = None if apart is None else 1 / (1 + apart)
    return {
        "connection": None if rise is None else 1 / (1 + max(0.0, rise)),
        "nearness": nearness if _related(a, b) else 0.0,
        "similarity": None if pair.cka is None else min(1.0, max(0.0, pair.cka)),
        "phase": _least([PHASES.get(e.phase) if e.phase else None for e in (a, b)]),
        "skill": _least([e.accuracy for e in (a, b)]),
    }


def _related(a: Expert, b: Expert) -> bool:
    return a.base is not None and a.base == b.base


def _distance(a: Expert, b: Expert, pair: Pair) -> float | None:
    """|a - b| over the length of the base: sqrt(|t_a|^2 + |t_b|^2 - 2 c |t_a| |t_b|)."""
    if a.length is None or b.length is None or pair.cosine is None:
        return None
    square = a.length**2 + b.length**2 - 2 * pair.cosine * a.length * b.length
    return sqrt(max(0.0, square))


def _promise(a: Expert, b: Expert, pair: Pair) -> float:
    """The weighted mean of the parts; 0 for what is of no kin as far as is known."""
    if a.architecture != b.architecture:
        return 0.0
    if not _related(a, b) and pair.rise is None:
        return 0.0
    known = {name: 0.5 if value is None else value for name, value in parts(a, b, pair).items()}
    return sum(_WEIGHTS[n] * v for n, v in known.items()) / sum(_WEIGHTS.values())


def _least(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return min(known) if len(known) == len(values) else None


def _of(pairs: Pairs, a: Expert, b: Expert) -> Pair:
    return pairs.get(frozenset((a.ref, b.ref)), Pair())


def _rank(experts: Sequence[Expert], pairs: Pairs) -> tuple[float, float, int, tuple[str, ...]]:
    """Sorts the most promising first: by the weakest pair, the mean pair, the larger set, names."""
    each = [_promise(a, b, _of(pairs, a, b)) for a, b in combinations(experts, 2)]
    return -min(each), -fmean(each), -len(experts), tuple(e.ref for e in experts)


def _pairs_and_grown(experts: Sequence[Expert], pairs: Pairs) -> Iterator[Sequence[Expert]]:
    every = sorted(combinations(experts, 2), key=lambda s: _rank(s, pairs))
    yield from every
    grown: tuple[Expert, ...] = every[0]
    while len(grown) < len(experts):
        left = [e for e in experts if e not in grown]
        grown = (*grown, min(left, key=lambda e: _rank((*grown, e), pairs)))
        yield grown


def _one_for_each(experts: Sequence[Expert], tasks: Sequence[str]) -> Iterator[Sequence[Expert]]:
    choices = [[e for e in experts if e.task == task] for task in dict.fromkeys(tasks)]
    for task, those in zip(dict.fromkeys(tasks), choices, strict=True):
        if not those:
            known = ", ".join(sorted({f"`{e.task}`" for e in experts if e.task})) or "none"
            raise NotFound(
                f"No expert that is selected was made for task `{task}`.",
                f"There are experts for: {known}.",
                task=task,
            )
    if len(choices) < 2:
        raise InvalidRecipe("One task needs no merge.", how="Name two tasks or more.")
    count = prod(map(len, choices))
    if count > _MOST_SETS:
        raise InvalidRecipe(
            f"There are {count:,} ways to take one expert for each of {len(choices)} tasks.",
            f"At most {_MOST_SETS:,} are looked at.",
            "Narrow the query, such as `accuracy > 0.9`.",
        )
    yield from product(*choices)
