"""How versions look: one as fields, several as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from zoo_cli.output import Column, on_terminal, show_fields, show_json, show_table, title
from zoo_cli.units import count, moment, number, short_digest, size

if TYPE_CHECKING:
    from zoo.compression import Compression
    from zoo.records import Version

METRIC_COLUMNS = 6
"""More metrics than this share one column of a table."""


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
            ("metrics", "\n".join(f"{k} {number(v)}" for k, v in sorted(version.metrics.items()))),
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


def show_versions(versions: Sequence[Version]) -> None:
    """A table of versions, with a column for each metric while they are few."""
    shown = [v.metrics for v in versions]
    if len(_names(shown)) > METRIC_COLUMNS:
        shown = [_of_the_whole(metrics) for metrics in shown]
    metrics = _names(shown)
    own = metrics if len(metrics) <= METRIC_COLUMNS else []
    columns = [
        Column("version", style="bold", whole=True),
        Column("aliases", spare=3),
        Column("kind", spare=6),
        Column("base", spare=4),
        Column("task"),
        Column("phase", spare=7),
        Column("license", spare=9),
        Column("params", right=True, whole=True, spare=2),
        Column("size", right=True, whole=True, spare=8),
        *(Column(name, right=True, spare=int(i > 0)) for i, name in enumerate(own)),
        Column("metrics" if not own else ""),
        Column("tags", spare=5),
        Column("digest", style="dim", whole=True, spare=10),
        Column("created", style="dim", whole=True, spare=11),
    ]
    rows = []
    for v, found in zip(versions, shown, strict=True):
        rest = "" if own else _listed(found)
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
                rest,
                ", ".join(f"{k}={x}" for k, x in sorted(v.tags.items())),
                short_digest(v.digest),
                v.created_at[:10],
            ]
        )
    show_table(columns, rows)


def _names(metrics: Sequence[Mapping[str, float]]) -> list[str]:
    return sorted({name for found in metrics for name in found})


def _of_the_whole(metrics: Mapping[str, float]) -> Mapping[str, float]:
    """Those without a split; all, where there are none of these."""
    return {name: x for name, x in metrics.items() if "/" not in name} or metrics


def _listed(metrics: Mapping[str, float]) -> str:
    """The first metrics in one cell, and how many more there are."""
    named = [f"{name}={number(x)}" for name, x in sorted(metrics.items())]
    more = len(named) - METRIC_COLUMNS
    return ", ".join(named[:METRIC_COLUMNS]) + (f", and {more} more" if more > 0 else "")
