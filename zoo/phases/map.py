"""What a phase diagram shows: cells of a grid by two tags, a metric of each, its phase."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from zoo.errors import InvalidSelection, NotFound, did_you_mean
from zoo.phases.cells import NAMES, TRAIN, Cell, by_value, cells, configuration, mean_of
from zoo.phases.rule import UNASSIGNED
from zoo.plots.phase_diagram import Diagram, Place, caption
from zoo.plots.style import words

if TYPE_CHECKING:
    from zoo.catalog.catalog import Catalog
    from zoo.records import Version
    from zoo.registry import Registry


def phase_map(
    registry: Registry,
    *,
    x: str,
    y: str,
    colour: str | None = None,
    where: str | None = None,
    log: bool = False,
) -> Diagram:
    """The cells that two tags span.

    Args:
        x, y: tags, such as `grow.batch_size` (temperature) and `grow.width` (load).
        colour: a metric of versions (`accuracy`, `loss/digits:train`) or of pairs
            (`mode_connectivity`, `cka`); the mean over a cell's members, or over pairs of them. By
            default the loss on the split `train`, by which phases are told.
        where: the versions; all that have both tags by default.
        log: natural logarithm of the mean; cells where it is not above 0 have no value.
    Raises:
        InvalidSelection: no version has both tags, or cells of one place differ in another tag.
        NotFound: no version of them has the metric.
    """
    versions = [v for v in registry.select(where) if x in v.tags and y in v.tags]
    if not versions:
        known = sorted({key for v in registry.select(where) for key in v.tags})
        lacking = next((tag for tag in (x, y) if tag not in known), x)
        raise InvalidSelection(
            f"No version has both tags `{x}` and `{y}`.",
            how=did_you_mean(lacking, known)
            or "Grow a zoo, or tag versions: `zoo annotate --tag`.",
            tag=lacking,
        )
    _check_one_cell_a_place(versions, x, y)
    grouped, _ = cells(versions, (x, y))
    values: dict[Place, float] = {}
    phases: dict[Place, str] = {}
    for cell in grouped:
        place = cell.tags[x], cell.tags[y]
        found = _mean(registry.catalog, cell, colour)
        if found is not None and log:
            found = math.log(found) if found > 0 else None
        if found is not None:
            values[place] = found
        labels = {v.phase for v in cell.members} - {None}
        if labels:
            phases[place] = str(labels.pop()) if len(labels) == 1 else UNASSIGNED
    if not values:
        raise NotFound(
            f"None of the {len(versions)} versions has a value of `{colour or 'loss'}` "
            f"{'' if colour else 'on the split `train` '}to draw.",
            how=did_you_mean(colour, _metrics(registry, versions))
            if colour
            else "zoo evaluate --where ... --split train",
            metric=colour,
        )
    name, _, split = (colour or "train_loss").partition("/")
    said = words(name) + (f", {split}" if split else "")
    return Diagram(
        caption(x),
        caption(y),
        sorted({cell.tags[x] for cell in grouped}, key=by_value),
        sorted({cell.tags[y] for cell in grouped}, key=by_value),
        f"log {said}" if log else said,
        values,
        phases,
        is_signed=not log and min(values.values()) < 0,
    )


def _check_one_cell_a_place(versions: Sequence[Version], x: str, y: str) -> None:
    seen: dict[Place, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for version in versions:
        here = seen[version.tags[x], version.tags[y]]
        here["task"].add(str(version.task))
        for key in configuration(version):
            here[key].add(version.tags[key])
    for (at_x, at_y), found in seen.items():
        for key in sorted(found, key=lambda key: (key in NAMES, key)):
            if len(found[key]) > 1:
                values = sorted(found[key], key=by_value)
                name = "task" if key == "task" else f"tag.'{key}'"
                raise InvalidSelection(
                    f"Versions with {x}={at_x} and {y}={at_y} differ in `{key}` as well: "
                    f"{', '.join(values[:6])}.",
                    "A cell of the diagram is one configuration.",
                    f"Keep one of them: --where \"{name} = '{values[0]}'\"",
                    key=key,
                )


def _mean(catalog: Catalog, cell: Cell, colour: str | None) -> float | None:
    task = cell.task or ""
    on_train = f"{task}:{TRAIN}"
    if colour is None:
        found = mean_of(catalog, cell, "train_loss", [""])
        return found if found is not None else mean_of(catalog, cell, "loss", [on_train])
    name, _, split = colour.partition("/")
    return mean_of(catalog, cell, name, [split] if split else ["", task, on_train])


def _metrics(registry: Registry, versions: Sequence[Version]) -> list[str]:
    refs = {v.ref for v in versions}
    pairs = {
        row["name"] for row in registry.catalog.group_metrics() if refs.issuperset(row["versions"])
    }
    return sorted({name for v in versions for name in v.metrics} | pairs)
