"""Versions by tasks in one table: scores with confidence intervals, normalized, ranked.

Everything comes from what is recorded; nothing is run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

from zoo.errors import InvalidRecipe, NotFound, did_you_mean
from zoo.measuring.chosen import named_or_selected

if TYPE_CHECKING:
    from zoo.records import MetricValue, Version
    from zoo.registry import Registry

SHARES = ("accuracy", "class_accuracy")
"""Metrics that are shares of examples: their intervals are Wilson's."""
LOWER_IS_BETTER = ("loss", "calibration_error")
"""Scores of which less is better; a ratio to the expert's says nothing then."""

By = Literal["score", "normalized"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One version on one task."""

    value: float
    stderr: float | None
    low: float | None
    """Ends of the confidence interval; None where neither examples nor spread are known."""
    high: float | None
    normalized: float | None
    """value / the expert's, dimensionless; None without an expert, or where less is better."""
    examples: int | None


@dataclass(frozen=True, slots=True)
class Row:
    """One version."""

    rank: int | None
    """From 1; equals share one. None where a task is missing."""
    version: str
    cells: Mapping[str, Cell]
    """By task; a task without a value is not there."""
    mean: float | None
    """Over all tasks; None where one is missing."""
    low: float | None
    high: float | None
    normalized: float | None
    """Mean over all tasks of the normalized values."""


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """Versions by tasks."""

    metric: str
    by: By
    confidence: float
    tasks: tuple[str, ...]
    experts: Mapping[str, str]
    """Task -> the version that its values are divided by."""
    rows: tuple[Row, ...]
    """By rank; those with a missing task last, in the order they were selected."""
    remarks: tuple[str, ...] = ()
    """What to know before comparing, one sentence each."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def leaderboard(
    registry: Registry,
    refs: Iterable[str] | None = None,
    *,
    where: str | None = None,
    order_by: str | None = None,
    limit: int | None = None,
    tasks: Sequence[str] | None = None,
    metric: str = "accuracy",
    experts: Sequence[str] = (),
    by: By = "score",
    confidence: float = 0.95,
) -> Leaderboard:
    """Compare versions on tasks, from what `zoo evaluate` recorded.

        mean          over the tasks
        normalized    mean over the tasks of value / value of the task's expert, dimensionless
        interval      of a share of n examples: Wilson's score interval,
                      (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n);
                      of other values, and of means over tasks, which are taken as independent:
                      value +- z * standard error

    Args:
        refs: references; or else `where`, `order_by`, `limit` select versions.
        tasks: names; by default all that one of the versions has a value for, ascending.
        experts: versions to divide by, each on its own task; by default, for each task, the
            version in the registry that was made for it, the best if several.
        by: what ranks them: the mean, or the normalized mean.
        confidence: of the intervals, between 0 and 1.
    Raises:
        NotFound: no version, or none with a value of the metric.
        InvalidRecipe: nothing asked for, or an expert without a task.
    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953; recommended by Brown, Cai and DasGupta
        2001, doi:10.1214/ss/1009213286. Normalized accuracy: Ilharco et al. 2023, arXiv:2212.04089,
        section 4.
    """
    if by not in ("score", "normalized"):
        raise InvalidRecipe(f"`{by}` ranks nothing.", how="Use `score` or `normalized`.")
    if not 0 < confidence < 1:
        raise InvalidRecipe(f"A confidence of {confidence} is not between 0 and 1.")
    versions = named_or_selected(registry, refs, where, order_by, limit)
    values = {v.ref: _by_task(registry, v, metric) for v in versions}
    columns = tuple(tasks or sorted({t for found in values.values() for t in found}))
    if not any(t in found for t in columns for found in values.values()):
        raise _nothing(versions, columns, metric)
    used, reference = _experts(registry, columns, metric, experts)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rows = [
        _row(v.ref, {t: values[v.ref][t] for t in columns if t in values[v.ref]}, reference, z,
             columns, metric)
        for v in versions
    ]  # fmt: skip
    remarks = tuple(_remarks(columns, values, reference, metric))
    if by == "normalized" and not any(r.normalized is not None for r in rows):
        lacking = [t for t in columns if t not in reference]
        raise NotFound(
            "Nothing can be normalized:",
            f"less of `{metric}` is better."
            if metric in LOWER_IS_BETTER
            else f"no expert of `{lacking[0]}` has a value of `{metric}`."
            if lacking
            else "no version has values for all tasks.",
            "" if metric in LOWER_IS_BETTER else "Evaluate the experts on their tasks first.",
        )
    return Leaderboard(metric, by, confidence, columns, used, _ranked(rows, by, metric), remarks)


def wilson(share: float, examples: int, z: float) -> tuple[float, float]:
    """Wilson's score interval of a share of examples; z is the normal quantile, dimensionless."""
    spread = z * math.sqrt(share * (1 - share) / examples + z * z / (4 * examples**2))
    centre = share + z * z / (2 * examples)
    scale = 1 + z * z / examples
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def _by_task(registry: Registry, version: Version, metric: str) -> dict[str, MetricValue]:
    """Values of a metric of the whole of a task, under the task's name.

    Values that were asserted, not measured, have no task: they count for the version's own.
    """
    found = {}
    for value in registry.catalog.measured(version.id):
        if value.name != metric:
            continue
        if value.dataset and value.split == value.dataset:
            found[value.dataset] = value
        elif not value.dataset and version.task is not None and value.split == "":
            found.setdefault(version.task, value)
    return found


def _experts(
    registry: Registry, tasks: Sequence[str], metric: str, named: Sequence[str]
) -> tuple[dict[str, str], dict[str, MetricValue]]:
    """The version that each task is divided by, and its value."""
    less = metric in LOWER_IS_BETTER
    if named:
        candidates = [registry.get(ref) for ref in named]
        for v in candidates:
            if v.task is None:
                raise InvalidRecipe(
                    f"`{v.ref}` has no task of its own, so it is no task's expert.",
                    how=f"Say it: zoo annotate {v.ref} --task NAME",
                    version=v.ref,
                )
    else:
        quoted = ", ".join("'" + task.replace("'", "''") + "'" for task in tasks)
        candidates = registry.select(f"task in ({quoted})")
    used: dict[str, str] = {}
    values: dict[str, MetricValue] = {}
    for version in candidates:
        task = version.task or ""
        value = _by_task(registry, version, metric).get(task)
        if value is None or task not in tasks:
            continue
        best = values.get(task)
        if best is None or (value.value < best.value if less else value.value > best.value):
            used[task], values[task] = version.ref, value
    return dict(sorted(used.items())), values


def _row(
    ref: str,
    values: Mapping[str, MetricValue],
    reference: Mapping[str, MetricValue],
    z: float,
    tasks: Sequence[str],
    metric: str,
) -> Row:
    cells = {t: _cell(v, reference.get(t), z, metric) for t, v in values.items()}
    if len(cells) < len(tasks):
        return Row(None, ref, cells, None, None, None, None)
    mean = math.fsum(c.value for c in cells.values()) / len(tasks)
    errors = [c.stderr for c in cells.values()]
    low = high = None
    if len(tasks) == 1:
        (only,) = cells.values()
        low, high = only.low, only.high
    elif all(e is not None for e in errors):
        spread = z * math.sqrt(math.fsum(e * e for e in errors if e is not None)) / len(tasks)
        low, high = mean - spread, mean + spread
    ratios = [c.normalized for c in cells.values() if c.normalized is not None]
    normalized = math.fsum(ratios) / len(tasks) if len(ratios) == len(tasks) else None
    return Row(None, ref, cells, mean, low, high, normalized)


def _cell(value: MetricValue, expert: MetricValue | None, z: float, metric: str) -> Cell:
    examples = value.protocol.get("examples")
    low = high = None
    if metric in SHARES and isinstance(examples, int) and 0 <= value.value <= 1:
        low, high = wilson(value.value, examples, z)
    elif value.stderr is not None:
        low, high = value.value - z * value.stderr, value.value + z * value.stderr
    ratio = None
    if expert is not None and expert.value > 0 and metric not in LOWER_IS_BETTER:
        ratio = value.value / expert.value
    return Cell(value.value, value.stderr, low, high, ratio, examples)


def _ranked(rows: Sequence[Row], by: By, metric: str) -> tuple[Row, ...]:
    """Rows by rank; equals share one, in the order of selection."""
    sign = 1 if metric in LOWER_IS_BETTER and by == "score" else -1

    def worth(row: Row) -> float | None:
        return row.mean if by == "score" else row.normalized

    full = sorted(
        ((sign * w, row) for row in rows if (w := worth(row)) is not None), key=lambda x: x[0]
    )
    keys = [key for key, _ in full]
    ranked = [replace(row, rank=1 + keys.index(key)) for key, row in full]
    return (*ranked, *(row for row in rows if worth(row) is None))


def _remarks(
    tasks: Sequence[str],
    values: Mapping[str, Mapping[str, MetricValue]],
    reference: Mapping[str, MetricValue],
    metric: str,
) -> Iterable[str]:
    """What makes values of one task hard to compare."""
    for task in tasks:
        here = [found[task] for found in values.values() if task in found]
        here += [reference[task]] if task in reference else []
        for key, what in (("data", "data"), ("samples", "numbers of examples"), ("seed", "draws")):
            seen = {str(v.protocol.get(key)) for v in here if v.protocol}
            drawn = any(v.protocol.get("samples") is not None for v in here)
            if len(seen) > 1 and (key != "seed" or drawn):
                yield f"Values on `{task}` are from different {what}: compare with care."
        if here and task not in reference and metric not in LOWER_IS_BETTER:
            yield f"No version made for `{task}` has a value of `{metric}`: nothing to divide by."


def _nothing(versions: Sequence[Version], tasks: Sequence[str], metric: str) -> NotFound:
    known = sorted({name.partition("/")[0] for v in versions for name in v.metrics})
    if metric not in known and known:
        return NotFound(
            f"No version has a value of `{metric}`.", how=did_you_mean(metric, known), metric=metric
        )
    where = f" on {', '.join(f'`{t}`' for t in tasks)}" if tasks else ""
    return NotFound(
        f"None of the {len(versions)} versions has a value of `{metric}`{where}.",
        "A leaderboard shows what is recorded.",
        _nearest(versions, tasks, metric)
        + "Evaluate them first: `zoo evaluate --where ... --task ...`.",
        metric=metric,
    )


def _nearest(versions: Sequence[Version], tasks: Sequence[str], metric: str) -> str:
    """A sentence about a task that is likely misspelt; empty where none is."""
    names = (name.partition("/") for v in versions for name in v.metrics)
    places = {place for head, _, place in names if head == metric and place}
    near = (did_you_mean(task, sorted(places)) for task in tasks if task not in places)
    return "".join(f"{said} " for said in near if said.startswith("Did"))
