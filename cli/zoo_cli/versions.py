"""How versions look: one as fields, several as a table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from zoo_cli.output import Column, on_terminal, show_fields, show_json, show_table, title
from zoo_cli.units import count, moment, number, short_digest, size

if TYPE_CHECKING:
    from zoo.overlays.compression import Compression
    from zoo.records import Version

METRIC_COLUMNS = 6
"""More metrics than this are counted only."""

DIGEST = re.compile("sha256:[0-9a-f]{64}")

FIRST_METRICS = ("accuracy", "loss")
"""The first to have a column, after those that a query names."""


def show_version(
    version: Version, as_json: bool, extra: Sequence[tuple[str, str | None]] = ()
) -> None:
    """One version, for `register`, `annotate` and `merge`, and with more fields for `show`."""
    if as_json:
        show_json(version.as_dict())
        return
    title(version.ref, version.kind)
    show_fields(
        [
            *([] if on_terminal() else [("version", version.ref), ("kind", version.kind)]),
            ("base", version.base),
            ("task", version.task),
            ("phase", _phase(version)),
            ("license", version.license),
            ("architecture", version.architecture),
            ("parameters", f"{count(version.parameters)} ({version.parameters:,})"),
            ("size", f"{size(version.bytes)} ({version.bytes:,} bytes)"),
            ("digest", version.digest),
            ("metrics", "\n".join(_metric_lines(version))),
            ("tags", "\n".join(f"{k}={v}" for k, v in sorted(version.tags.items()))),
            ("aliases", ", ".join(version.aliases)),
            ("source", version.source),
            ("created", moment(version.created_at) + " UTC"),
            ("path", version.path),
            *extra,
        ]
    )


def _phase(version: Version) -> str | None:
    """The phase, and the rule it was derived by."""
    return f"{version.phase} (by {version.phase_rule})" if version.phase_rule else version.phase


def overlay_fields(kept: Compression | None) -> list[tuple[str, str | None]]:
    """What a version keeps for each task, and the ratio to storing the experts."""
    if kept is None:
        return []
    tasks = (
        f"{t.task}  {size(t.bytes)}" + (f"  for {t.expert}" if t.expert else "") for t in kept.tasks
    )
    ratio = None
    if kept.ratio is not None and kept.expert_bytes is not None:
        ratio = (
            f"{kept.ratio:.2f}: {size(kept.bytes)} for {size(kept.expert_bytes)} of experts, "
            "the base not counted"
        )
    return [("tasks", "\n".join(tasks)), ("compression", ratio)]


def _metric_lines(version: Version) -> list[str]:
    """A line for each metric, with its values on other tasks and splits, or in its parts.

    In a pipe a line for each value. A value on the version's own task is recorded under its bare
    name as well, and told once.
    """
    if not on_terminal():
        return [f"{k} {number(v)}" for k, v in sorted(version.metrics.items())]
    groups: dict[tuple[str, str], dict[str, float]] = {}
    for name, value in sorted(version.metrics.items()):
        head, _, place = name.partition("/")
        of_own_task, _, part = place.partition("/")
        bare = f"{head}/{part}" if part else head
        if of_own_task == version.task and version.metrics.get(bare) == value:
            continue
        where, _, part = place.rpartition("/")
        groups.setdefault((head, where), {})[part] = value
    lines = []
    for (head, where), values in groups.items():
        name = f"{head}/{where}" if where else head
        whole = f" {number(values[''])}" if "" in values else ""
        parts = ", ".join(f"{part}={number(x)}" for part, x in values.items() if part)
        lines.append(name + whole + (f" ({parts})" if whole and parts else f" {parts}"))
    return [line.rstrip() for line in lines]


def show_versions(versions: Sequence[Version], asked: str = "") -> None:
    """A table of versions, with a column for each metric while they are few.

    Args:
        asked: the query they were selected by; what it names has a column for sure.
    """
    shown = [v.metrics for v in versions]
    named = [name for name in _names(shown) if _is_named(name, asked)]
    if len(_names(shown)) > METRIC_COLUMNS:
        shown = [_of_the_whole(metrics, named) for metrics in shown]
    usual = [name for name in FIRST_METRICS if name not in named and name in _names(shown)]
    names = list(dict.fromkeys([*named, *usual, *_names(shown)]))
    own = names[: max(METRIC_COLUMNS, len(named))]
    columns = [
        Column("version", style="bold", whole=True),
        Column("aliases", spare=3),
        Column("kind", spare=6),
        Column("base", spare=4),
        Column("task"),
        Column("phase", spare=5),
        Column("license", spare=9),
        Column("params", right=True, whole=True, spare=2),
        Column("size", right=True, whole=True, spare=8),
        *(Column(name, right=True, spare=_spare(i, len(named))) for i, name in enumerate(own)),
        Column("more", right=True, style="dim", spare=10),
        Column("tags", spare=7),
        Column("digest", style="dim", whole=True, spare=10),
        Column("created", style="dim", whole=True, spare=11),
    ]
    rows = []
    for v, found in zip(versions, shown, strict=True):
        more = len(set(found) - set(own))
        rows.append(
            [
                v.ref,
                ", ".join(v.aliases),
                v.kind,
                v.base,
                v.task,
                v.phase,
                v.license,
                count(v.parameters),
                size(v.bytes),
                *(number(found[name]) if name in found else None for name in own),
                f"+{more}" if more else None,
                ", ".join(f"{k}={_tag(x)}" for k, x in sorted(v.tags.items())),
                short_digest(v.digest),
                v.created_at[:10],
            ]
        )
    show_table(columns, rows)


def _spare(place: int, named: int) -> int:
    """Which metrics leave a narrow terminal first: all but those named, the first, the second."""
    if place < max(named, 1):
        return 0
    return 1 if place < 2 else 6


def _tag(value: str) -> str:
    """A tag's value; of a digest its beginning."""
    return short_digest(value) if DIGEST.fullmatch(value) else value


def _names(metrics: Sequence[Mapping[str, float]]) -> list[str]:
    return sorted({name for found in metrics for name in found})


def _is_named(metric: str, query: str) -> bool:
    head, _, part = metric.partition("/")
    if part:
        return f"'{head}'.'{part}'" in query
    return re.search(rf"(?<![\w'.-]){re.escape(head)}(?![\w'.-])", query) is not None or (
        re.search(rf"'{re.escape(head)}'(?!\.)", query) is not None
    )


def _of_the_whole(metrics: Mapping[str, float], named: Sequence[str]) -> Mapping[str, float]:
    """Those named, and those without a part; all, where there are none of these."""
    return {name: x for name, x in metrics.items() if "/" not in name or name in named} or metrics
