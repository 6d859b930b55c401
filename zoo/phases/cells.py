"""Cells of a grid: versions that differ only in their seed, and what was measured of them."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING, Any

from zoo.catalog.additions import number_in
from zoo.errors import InvalidSelection, did_you_mean
from zoo.phases.rule import Measures
from zoo.records import MetricValue

if TYPE_CHECKING:
    from zoo.catalog.catalog import Catalog
    from zoo.records import Version

PREFIX = "grow."
"""Tags of `zoo grow` that say how a model was trained."""
SEED = "grow.seed"
"""The one in which members of a cell differ."""
NAMES = ("grow.cell", "grow.name", "grow.plan")
"""Those that name a cell or its plan, and say nothing that the others do not."""
TRAIN = "train"


@dataclass(frozen=True, slots=True)
class Cell:
    """A configuration: its members are trained alike, from different seeds."""

    task: str | None
    tags: Mapping[str, str]
    """Those in which all members agree, keys ascending."""
    members: tuple[Version, ...]

    @property
    def seeds(self) -> tuple[Version, ...]:
        """The members with different weights: one registered twice is one seed."""
        return tuple({v.digest: v for v in reversed(self.members)}.values())[::-1]

    def name(self, keys: Sequence[str]) -> str:
        """`batch=8 width=64`: some of its tags, without their common prefix."""
        return " ".join(f"{k.removeprefix(PREFIX)}={self.tags[k]}" for k in keys if k in self.tags)


def cells(versions: Sequence[Version], keys: Sequence[str] = ()) -> tuple[list[Cell], list[str]]:
    """Group versions into cells; a cell has one task.

    Args:
        keys: tags that tell one cell from another; by default all that begin with `grow.`, but
            for `grow.seed`.
    Returns:
        The cells by task and tags, numbers by value, and the references of versions that have none
        of the tags.
    Raises:
        InvalidSelection: no version has one of the keys.
    """
    known = {key for version in versions for key in version.tags}
    for key in keys:
        if versions and key not in known:
            raise InvalidSelection(
                f"None of the {len(versions)} versions has a tag `{key}`.",
                how=did_you_mean(key, sorted(known)),
                tag=key,
            )
    groups: dict[tuple[Any, ...], list[Version]] = defaultdict(list)
    without = []
    for version in versions:
        own = [k for k in version.tags if k in keys] if keys else configuration(version)
        if not own:
            without.append(version.ref)
            continue
        tags = tuple((key, version.tags[key]) for key in sorted(own))
        groups[version.task, tags].append(version)
    found = [Cell(task, dict(tags), tuple(members)) for (task, tags), members in groups.items()]
    differing = telling(found)
    return sorted(found, key=lambda cell: _rank(cell, differing)), without


def telling(found: Sequence[Cell]) -> list[str]:
    """Tags that tell these cells apart, the plainest first; of a single one, those that name it.

    Names of a whole cell, such as `grow.cell`, are left out where others tell as much.
    """
    keys = sorted({key for cell in found for key in cell.tags}, key=lambda key: (key in NAMES, key))
    if len(found) < 2:
        return [key for key in ("grow.name", "grow.cell") if key in keys] or keys
    differing = [key for key in keys if len({cell.tags.get(key) for cell in found}) > 1]
    plain = [key for key in differing if key not in NAMES]
    told = {(cell.task, *(cell.tags.get(key) for key in plain)) for cell in found}
    return plain if len(told) == len(found) else differing


def _rank(cell: Cell, keys: Sequence[str]) -> list[tuple[bool, float, str]]:
    return [by_value(cell.task or ""), *(by_value(cell.tags.get(key, "")) for key in keys)]


def by_value(text: str) -> tuple[bool, float, str]:
    """Sorts numbers by value, then words."""
    number = number_in(text)
    return number is None, number or 0.0, text


def configuration(version: Version) -> list[str]:
    """Keys of the tags that say how a version was trained, its seed left out."""
    return [key for key in version.tags if key.startswith(PREFIX) and key != SEED]


@dataclass(frozen=True, slots=True)
class Quantity:
    """One measure of a cell: the values found, and how they were measured."""

    name: str
    of: int
    """Members or pairs that could have one."""
    what: str
    values: tuple[float, ...]
    protocols: frozenset[str]
    """As JSON."""

    @property
    def mean(self) -> float | None:
        return fmean(self.values) if self.values else None

    @property
    def note(self) -> str | None:
        """What the mean leaves out."""
        if not 0 < len(self.values) < self.of:
            return None
        return f"{self.name} of {len(self.values)} of {self.of} {self.what}"


@dataclass(frozen=True, slots=True)
class Read:
    """What was measured of a cell."""

    measures: Measures
    quantities: tuple[Quantity, ...]

    @property
    def notes(self) -> list[str]:
        """What the means leave out."""
        return [note for q in self.quantities if (note := q.note)]


def read(catalog: Catalog, cell: Cell) -> Read:
    """The means over a cell's members, and over the pairs of them.

    The train loss is the metric `train_loss`, which `zoo grow` records of just the examples and
    labels that were trained on; else `loss` on the split `train` of the members' task. Mode
    connectivity and the Hessian's trace are those on `train` where they were measured there, and
    else those of the task, as CKA is.
    """
    task, seeds = cell.task or "", cell.seeds
    on_train, usual = f"{task}:{TRAIN}", (task, "")
    own = [catalog.measured(v.id) for v in seeds]
    pairs = [_group(catalog, a, b) for a, b in combinations(seeds, 2)]
    loss = _quantity("train loss", "members", own, "train_loss", [""])
    if not loss.values:
        loss = _quantity("train loss", "members", own, "loss", [on_train])
    trace = _quantity("trace", "members", own, "hessian_trace", [on_train, *usual])
    connectivity = _quantity(
        "connectivity", "pairs", pairs, "mode_connectivity", [on_train, *usual]
    )
    cka = _quantity("CKA", "pairs", pairs, "cka", usual)
    mean_trace = trace.mean or 0.0
    measures = Measures(
        members=len(seeds),
        train_loss=loss.mean,
        connectivity=connectivity.mean,
        cka=cka.mean,
        log_trace=math.log(mean_trace) if mean_trace > 0 else None,
    )
    return Read(measures, (loss, connectivity, cka, trace))


def mean_of(catalog: Catalog, cell: Cell, metric: str, places: Sequence[str]) -> float | None:
    """The mean of a metric over a cell's members, or else over pairs of them."""
    own = [catalog.measured(v.id) for v in cell.seeds]
    found = _quantity(metric, "", own, metric, places)
    if found.mean is None:
        pairs = [_group(catalog, a, b) for a, b in combinations(cell.seeds, 2)]
        found = _quantity(metric, "", pairs, metric, places)
    return found.mean


def _quantity(
    name: str,
    what: str,
    measured: Sequence[Sequence[MetricValue]],
    metric: str,
    places: Sequence[str],
) -> Quantity:
    """Of each member or pair, a metric at the first of some splits that it is known at."""
    found = []
    for values in measured:
        known = {value.split: value for value in values if value.name == metric}
        found += [known[place] for place in places if place in known][:1]
    return Quantity(
        name,
        len(measured),
        what,
        tuple(value.value for value in found),
        frozenset(json.dumps(dict(value.protocol), sort_keys=True) for value in found),
    )


def _group(catalog: Catalog, a: Version, b: Version) -> list[MetricValue]:
    fields = ("name", "value", "split", "dataset", "protocol", "stderr", "environment", "tool")
    rows = catalog.group_metrics([a.id, b.id])
    return [MetricValue(**{key: row[key] for key in fields}) for row in rows]
