"""Phases of training, told from what was measured: the rule, as a pure function.

    phase   mean train loss   seeds joined by a curve     outputs of seeds
    I       high              over a barrier              -
    II      high              without one                 -
    III     low               over a barrier              -
    IV-A    low               without one                 differ
    IV-B    low               without one                 are alike

A phase belongs to a configuration (model size, data, noise of training), not to one checkpoint: it
needs members that differ only in their seed. No thresholds are published; phases were read off
maps. Ours are a rule that is stored with a number, so that a label can be told again.

Source: Yang et al. 2021, arXiv:2107.11228; Schürholt et al. 2025, arXiv:2504.18072.
Departs: numeric thresholds, a confidence, and no label close to a threshold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from zoo.errors import InvalidRecipe, did_you_mean

PHASES = ("I", "II", "III", "IV-A", "IV-B")
UNASSIGNED = "unassigned"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a rule of phases consists of.

    Raises:
        InvalidRecipe: a value that leaves no room for a phase.
    """

    loss: float = 0.1
    """Mean train loss above which it is high; in the task's unit, nats where it has labels."""
    connectivity: float = 1.0
    """Height of a barrier below which there is none; in points of train error, 0 to 100."""
    cka: float = 0.6
    """CKA of outputs from which seeds are alike, dimensionless."""
    log_trace: float = 4.0
    """Natural logarithm of the Hessian's trace above which the loss is rugged. It confirms a
    label or not, and decides none."""
    margin: float = 0.1
    """Distance from a threshold, as a share of it, within which there is no label."""
    seeds: float = 2
    """Members a configuration needs."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value):
                raise _unfit(field.name, value, "a finite number")
        for name in ("loss", "connectivity", "cka"):
            if getattr(self, name) <= 0:
                raise _unfit(name, getattr(self, name), "above 0: margins are shares of it")
        if not 0 <= self.margin < 1:
            raise _unfit("margin", self.margin, "from 0 to below 1")
        if self.seeds < 2 or self.seeds != int(self.seeds):
            raise _unfit("seeds", self.seeds, "a whole number, 2 or more: one seed has no pair")

    @classmethod
    def of(cls, values: Mapping[str, float]) -> Thresholds:
        """From names and numbers, as they are stored; what is not named has its default.

        Raises:
            InvalidRecipe: an unknown name, or what is no number.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise InvalidRecipe(
                    f"A rule of phases has no threshold `{name}`.",
                    how=did_you_mean(name, known),
                    threshold=name,
                )
            if isinstance(values[name], bool) or not isinstance(values[name], int | float):
                raise InvalidRecipe(
                    f"Threshold `{name}` is {values[name]!r}; it must be a number.", threshold=name
                )
        return cls(**{name: float(value) for name, value in values.items()})

    def as_dict(self) -> dict[str, float]:
        """Name -> number, to be stored."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Measures:
    """What is known of a configuration: means over its seeds, and over pairs of them."""

    members: int
    train_loss: float | None = None
    """In the task's unit."""
    connectivity: float | None = None
    """Mean of the pairs, in points of train error: below 0 over a barrier, above 0 where the curve
    finds less error than its ends."""
    cka: float | None = None
    """Of outputs, mean of the pairs, dimensionless."""
    log_trace: float | None = None
    """Natural logarithm of the mean trace of the Hessian."""


@dataclass(frozen=True, slots=True)
class Label:
    """A phase, how sure it is, and why."""

    phase: str
    """One of `PHASES`, or `unassigned`."""
    confidence: float
    """Least distance from a threshold that was asked, as a share of it; 0 to 1, 0 where something
    is missing."""
    why: tuple[str, ...]
    """Short clauses, in the order in which the rule asks."""
    is_confirmed: bool | None = None
    """Whether the Hessian is that of the phase; None where it was not measured."""


def label(measures: Measures, thresholds: Thresholds) -> Label:
    """The phase of a configuration.

    1. The loss is high where it is above `loss`. Then barrier (< 0): I; none: II.
    2. Else barrier (< -connectivity): III.
    3. Else CKA at least `cka`: IV-B; below: IV-A.

    `unassigned` where the number of seeds or a measure that the rule asks for is missing, and where
    one lies within `margin` of its threshold. The margin of connectivity at 0 counts in units of
    `connectivity`.
    """
    m, t = measures, thresholds
    if m.members < t.seeds:
        short = f"{m.members} of {t.seeds:g} seeds"
        return Label(UNASSIGNED, 0.0, (short,))
    if m.train_loss is None:
        return Label(UNASSIGNED, 0.0, ("train loss is not known",))
    is_high = m.train_loss > t.loss
    margins = [abs(m.train_loss - t.loss) / t.loss]
    why = [f"train loss {m.train_loss:.3g} {'>' if is_high else '<='} {t.loss:g}"]
    if m.connectivity is None:
        return Label(UNASSIGNED, 0.0, (*why, "mode connectivity is not known"))
    lowest = 0.0 if is_high else -t.connectivity
    is_apart = m.connectivity < lowest
    margins.append(abs(m.connectivity - lowest) / t.connectivity)
    why.append(f"connectivity {m.connectivity:.3g} {'<' if is_apart else '>='} {lowest:g}")
    if is_high:
        phase = "I" if is_apart else "II"
    elif is_apart:
        phase = "III"
    elif m.cka is None:
        return Label(UNASSIGNED, 0.0, (*why, "CKA is not known"))
    else:
        is_alike = m.cka >= t.cka
        margins.append(abs(m.cka - t.cka) / t.cka)
        why.append(f"CKA {m.cka:.3g} {'>=' if is_alike else '<'} {t.cka:g}")
        phase = "IV-B" if is_alike else "IV-A"
    confidence = min(1.0, *margins)
    if confidence < t.margin:
        nearest = min(range(len(margins)), key=margins.__getitem__)
        why[nearest] += f", within {t.margin:.0%} of it"
        return Label(UNASSIGNED, confidence, tuple(why))
    if m.log_trace is None:
        return Label(phase, confidence, tuple(why))
    is_rugged = m.log_trace > t.log_trace
    said = f"log trace {m.log_trace:.3g} {'>' if is_rugged else '<='} {t.log_trace:g}"
    if is_rugged != is_high:
        said += ", which does not confirm it"
    return Label(phase, confidence, (*why, said), is_rugged == is_high)


def _unfit(name: str, value: float, needed: str) -> InvalidRecipe:
    return InvalidRecipe(
        f"Threshold `{name}` is {value:g}; it must be {needed}.", threshold=name, value=value
    )
