"""Assign phases: group versions into cells, read what was measured, apply a stored rule.

selection -> cells -> means over seeds -> the rule's label -> one transaction
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from zoo.errors import InvalidRecipe, InvalidSelection, NotFound, did_you_mean
from zoo.phases.cells import Cell, Read, cells, read, telling
from zoo.phases.rule import UNASSIGNED, Label, Thresholds, label
from zoo.records import MetricValue

if TYPE_CHECKING:
    from zoo.registry import Registry

DEFAULT = "default"
"""The rule that is there before any was made."""
CONFIDENCE = "phase_confidence"
"""The metric that goes with a derived phase; dimensionless, 0 to 1."""
MIDPOINT = "midpoint"
MEDIAN = "median"


@dataclass(frozen=True, slots=True)
class Assigned:
    """What became of a cell."""

    cell: Cell
    read: Read
    label: Label
    asserted: tuple[str, ...]
    """References of members that keep the phase somebody asserted."""

    @property
    def missing(self) -> list[str]:
        """Metrics that the label waits for."""
        if self.label.phase != UNASSIGNED:
            return []
        last = self.label.why[-1]
        known = {"train loss": "loss", "mode connectivity": "mode_connectivity", "CKA": "cka"}
        return [m for word, m in known.items() if last == f"{word} is not known"]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        m = self.read.measures
        return {
            "cell": dict(self.cell.tags),
            "task": self.cell.task,
            "members": [v.ref for v in self.cell.members],
            "seeds": m.members,
            "phase": self.label.phase,
            "confidence": self.label.confidence,
            "why": list(self.label.why),
            "is_confirmed": self.label.is_confirmed,
            "train_loss": m.train_loss,
            "mode_connectivity": m.connectivity,
            "cka": m.cka,
            "log_trace": m.log_trace,
            "notes": self.read.notes,
            "asserted": list(self.asserted),
        }


@dataclass(frozen=True, slots=True)
class Assignment:
    """Labels of cells by one rule."""

    rule: str
    """`NAME@N`; in a dry run, the number that the rule would get."""
    thresholds: Thresholds
    cells: tuple[Assigned, ...]
    without: tuple[str, ...]
    """References of versions in no cell: they have none of its tags."""

    @property
    def notes(self) -> list[str]:
        """Measures that do not compare well, as not all were taken alike."""
        protocols: dict[str, set[str]] = defaultdict(set)
        for one in self.cells:
            for quantity in one.read.quantities:
                protocols[quantity.name] |= quantity.protocols
        return [
            f"{name} was measured in {len(found)} ways, with different protocols"
            for name, found in protocols.items()
            if len(found) > 1
        ]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "rule": self.rule,
            "thresholds": self.thresholds.as_dict(),
            "cells": [one.as_dict() for one in self.cells],
            "without": list(self.without),
            "notes": self.notes,
        }


def assign(
    registry: Registry,
    *,
    where: str | None = None,
    rule: str = DEFAULT,
    thresholds: Mapping[str, float | str] | None = None,
    keys: Sequence[str] = (),
    dry_run: bool = False,
    force: bool = False,
) -> Assignment:
    """Label versions by a rule; see `Registry.assign_phases`."""
    versions = registry.select(where)
    grouped, without = cells(versions, keys)
    if not grouped:
        raise InvalidSelection(
            f"There is no cell to label among {len(versions)} versions.",
            "A cell is told by tags, by default those of `zoo grow`, and none has one."
            if versions
            else "",
            "Select others, or name the tags in which the members of a cell agree: --cell KEY",
        )
    found = [(cell, read(registry.catalog, cell)) for cell in grouped]
    name, number, limits = _rule(registry, rule, thresholds or {}, [one for _, one in found])
    labelled = [
        Assigned(cell, one, label(one.measures, limits), () if force else _asserted(cell))
        for cell, one in found
    ]
    if number is None and dry_run:
        number = _next(registry, name, limits)
    elif number is None:
        number = registry.catalog.add_phase_rule(name, limits.as_dict())
    ref = f"{name}@{number}"
    if not dry_run:
        registry.catalog.set_phases([_written(one, ref) for one in labelled], ref)
    return Assignment(ref, limits, tuple(labelled), tuple(without))


def _asserted(cell: Cell) -> tuple[str, ...]:
    return tuple(v.ref for v in cell.members if v.phase is not None and v.phase_rule is None)


def _written(one: Assigned, ref: str) -> tuple[list[int], str, list[MetricValue]]:
    """What is recorded of a cell: row ids, phase, confidence."""
    ids = [v.id for v in one.cell.members if v.ref not in one.asserted]
    m = one.read.measures
    known = {
        "train_loss": m.train_loss,
        "mode_connectivity": m.connectivity,
        "cka": m.cka,
        "log_trace": m.log_trace,
    }
    confidence = MetricValue(
        CONFIDENCE,
        one.label.confidence,
        protocol={
            "rule": ref,
            "phase": one.label.phase,
            "why": list(one.label.why),
            "members": sorted(v.ref for v in one.cell.seeds),
            **{key: value for key, value in known.items() if value is not None},
        },
    )
    return ids, one.label.phase, [confidence]


# The rule


def _rule(
    registry: Registry, asked: str, changes: Mapping[str, float | str], found: Sequence[Read]
) -> tuple[str, int | None, Thresholds]:
    """Name, number and thresholds; no number where the thresholds may have to be stored."""
    name, at, digits = asked.partition("@")
    catalog = registry.catalog
    if at:
        kept = catalog.phase_rule(name, int(digits)) if digits.isdigit() else None
        if kept is None:
            known = [one.ref for one in catalog.phase_rules()]
            raise NotFound(
                f"There is no rule of phases `{asked}`.", how=did_you_mean(asked, known), rule=asked
            )
        if changes:
            raise InvalidRecipe(
                f"`{asked}` is a rule as it was stored, and never changes.",
                how=f"Leave out the number: a changed rule `{name}` gets the next one.",
                rule=asked,
            )
        return name, kept.number, Thresholds.of(kept.thresholds)
    newest = catalog.phase_rule(name)
    if newest is None and name != DEFAULT and not changes:
        known = sorted({one.name for one in catalog.phase_rules()} | {DEFAULT})
        raise NotFound(
            f"There is no rule of phases `{name}`.",
            how=f"{did_you_mean(name, known)} Make it by its thresholds: --set loss=0.1",
            rule=name,
        )
    if newest is not None and not changes:
        return name, newest.number, Thresholds.of(newest.thresholds)
    values: dict[str, float] = dict(newest.thresholds) if newest else {}
    values |= {key: value for key, value in changes.items() if not isinstance(value, str)}
    limits = Thresholds.of(values)
    words = {key: value for key, value in changes.items() if isinstance(value, str)}
    for key in sorted(words, key=lambda key: key != "loss"):  # CKA's midpoint asks for the loss
        number = _relative(key, words[key], limits, found)
        limits = Thresholds.of({**limits.as_dict(), key: number})
    return name, None, limits


def _relative(key: str, word: str, limits: Thresholds, found: Sequence[Read]) -> float:
    """A threshold that is told from the cells themselves.

    `cka=midpoint`: half way between the least and the greatest CKA of cells of low loss without a
    barrier. `loss=median`: half way from the middle train loss to the next, so that no cell lies on
    it; of 9 cells, 5 are low then.
    """
    if (key, word) == ("loss", MEDIAN):
        losses = [r.measures.train_loss for r in found if r.measures.train_loss is not None]
        if len(losses) < 2:
            raise _too_few(key, word, len(losses), "train loss")
        middle = (len(losses) - 1) // 2
        return fmean(sorted(losses)[middle : middle + 2])
    if (key, word) == ("cka", MIDPOINT):
        alike = [
            m.cka
            for m in (r.measures for r in found)
            if m.cka is not None
            and m.train_loss is not None
            and m.connectivity is not None
            and m.train_loss <= limits.loss
            and m.connectivity >= -limits.connectivity
        ]
        if len(alike) < 2:
            raise _too_few(key, word, len(alike), "low loss, no barrier and a CKA")
        return (min(alike) + max(alike)) / 2
    if key not in limits.as_dict():
        Thresholds.of({key: 1})  # raises, with the name that may have been meant
    raise InvalidRecipe(
        f"Threshold `{key}` cannot be `{word}`.",
        how=f"Give a number; or cka={MIDPOINT}, loss={MEDIAN}.",
        threshold=key,
    )


def _too_few(key: str, word: str, number: int, what: str) -> InvalidRecipe:
    return InvalidRecipe(
        f"`{key}={word}` needs two cells or more with {what}, and there are {number}.",
        how="Give a number, or measure more of the cells.",
        threshold=key,
    )


def _next(registry: Registry, name: str, limits: Thresholds) -> int:
    newest = registry.catalog.phase_rule(name)
    if newest is None:
        return 1
    return newest.number + (dict(newest.thresholds) != limits.as_dict())


def advice(found: Sequence[Assigned], where: str | None, keys: Sequence[str]) -> list[str]:
    """Commands that measure what labels wait for."""
    missing = {metric for one in found for metric in one.missing}
    chosen = f'--where "{where}"' if where else "--where \"kind = 'expert'\""
    told = []
    if "loss" in missing:
        told.append(f"zoo evaluate {chosen} --split train")
    pairs = sorted(missing - {"loss"})
    if pairs:
        within = " ".join(f"--within {key}" for key in keys or telling([x.cell for x in found]))
        told.append(
            f"zoo measure {chosen} {' '.join(f'--metric {m}' for m in pairs)} {within}".rstrip()
        )
    return told
