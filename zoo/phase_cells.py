"""Cells of a grid: versions that differ only in their seed, and what was measured of them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING, Any

from zoo.errors import InvalidSelection, did_you_mean
from zoo.phases import Measures

if TYPE_CHECKING:
    from zoo.catalog import Catalog
    from zoo.records import Version

PREFIX = "grow."
"""Tags of `zoo grow` that say how a model was trained."""
SEED = "grow.seed"
"""The one in which members of a cell differ."""
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

    @property
    def name(self) -> str:
        """`batch_size=8 width=64`: the tags without their common prefix."""
        return " ".join(f"{k.removeprefix(PREFIX)}={v}" for k, v in self.tags.items())


def cells(versions: Sequence[Version], keys: Sequence[str] = ()) -> tuple[list[Cell], list[str]]:
    """Group versions into cells; a cell has one task.

    Args:
        keys: tags that tell one cell from another; by default all that begin with `grow.`, but
            for `grow.seed`.
    Returns:
        The cells in the order of their first members, and the references of versions that have
        none of the tags.
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
    return [Cell(task, dict(tags), tuple(found)) for (task, tags), found in groups.items()], without


def configuration(version: Version) -> list[str]:
    """Keys of the tags that say how a version was trained, its seed left out."""
    return [key for key in version.tags if key.startswith(PREFIX) and key != SEED]


@dataclass(frozen=True, slots=True)
class Read:
    """What was measured of a cell."""

    measures: Measures
    losses: int
    """Members whose train loss is known."""
    pairs: int
    """Pairs of members."""
    connected: int
    """Pairs whose mode connectivity is known."""
    compared: int
    """Pairs whose CKA is known."""

    @property
    def notes(self) -> list[str]:
        """What the means leave out."""
        return [
            f"{what} of {known} of {of}"
            for what, known, of in (
                ("train loss", self.losses, f"{self.measures.members} members"),
                ("connectivity", self.connected, f"{self.pairs} pairs"),
                ("CKA", self.compared, f"{self.pairs} pairs"),
            )
            if 0 < known < int(of.split()[0])
        ]


def read(catalog: Catalog, cell: Cell) -> Read:
    """The means over a cell's members, and over the pairs of them.

    The train loss is the metric `loss` on the split `train` of the members' task; mode
    connectivity, CKA and the Hessian's trace are those on `train` where they were measured there,
    and else those of the task.
    """
    task, seeds = cell.task, cell.seeds
    places = (f"{task}:{TRAIN}", str(task), "")
    losses = _known(of_member(v, "loss", places[:1]) for v in seeds)
    traces = _known(of_member(v, "hessian_trace", places) for v in seeds)
    trace = fmean(traces) if traces else 0.0
    pairs = list(combinations(seeds, 2))
    rows = [catalog.group_metrics([a.id, b.id]) for a, b in pairs]
    connected = _known(of_set(found, "mode_connectivity", places) for found in rows)
    compared = _known(of_set(found, "cka", places[1:]) for found in rows)
    return Read(
        Measures(
            members=len(seeds),
            train_loss=_mean(losses),
            connectivity=_mean(connected),
            cka=_mean(compared),
            log_trace=math.log(trace) if trace > 0 else None,
        ),
        len(losses),
        len(pairs),
        len(connected),
        len(compared),
    )


def of_member(version: Version, metric: str, places: Sequence[str]) -> float | None:
    """A metric of a version at the first of some splits that it is known at."""
    for place in places:
        value = version.metrics.get(f"{metric}/{place}" if place else metric)
        if value is not None:
            return value
    return None


def of_set(rows: Sequence[Mapping[str, Any]], metric: str, places: Sequence[str]) -> float | None:
    """A metric of a set at the first of some splits that it is known at.

    Args:
        rows: from `Catalog.group_metrics`.
    """
    values = {row["split"]: float(row["value"]) for row in rows if row["name"] == metric}
    return next((values[place] for place in places if place in values), None)


def _known(values: Any) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
