"""Writing versions: numbers, manifests, files, tags, metrics, run, lineage and event at once."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from zoo.catalog import tables as t
from zoo.catalog.audit import Happening
from zoo.catalog.many import among
from zoo.catalog.run_rows import record_digest
from zoo.digest import canonical_json
from zoo.errors import RegistryError
from zoo.records import MetricValue, RunDraft, TensorRecord, VersionDraft


def add(
    connection: Connection,
    at: str,
    drafts: Sequence[VersionDraft],
    runs: Sequence[RunDraft | None],
) -> tuple[list[int], list[Happening]]:
    """Insert versions in the caller's transaction.

    Returns:
        Their row ids, and the events to append.
    Raises:
        RegistryError: a value the registry cannot keep; nothing is written.
    """
    if not drafts:
        return [], []
    entry_ids, numbers = _numbers(connection, [draft.name for draft in drafts])
    manifest_ids = _manifests(connection, drafts)
    ran = {run.id: run_row(run) for run in runs if run}
    if ran:
        connection.execute(insert(t.runs), list(ran.values()))
    rows = [
        {
            "entry_id": entry_ids[draft.name],
            "number": number,
            "kind": draft.kind,
            "manifest_id": manifest_ids[draft.digest],
            "base_id": draft.base,
            "run_id": run.id if run else None,
            "task": draft.task,
            "phase": draft.phase,
            "license": draft.license,
            "architecture": draft.architecture,
            "source": draft.source,
            "notes": json_text(draft.notes),
            "created_at": at,
        }
        for draft, run, number in zip(drafts, runs, numbers, strict=True)
    ]
    ids = list(
        connection.scalars(
            insert(t.versions).returning(t.versions.c.id, sort_by_parameter_order=True), rows
        )
    )
    files: list[dict[str, Any]] = []
    tags: list[dict[str, Any]] = []
    metrics: list[dict[str, Any]] = []
    edges: list[dict[str, Any]] = []
    inputs: list[dict[str, Any]] = []
    happenings = []
    for id_, draft, run, number in zip(ids, drafts, runs, numbers, strict=True):
        for file in draft.files:
            files.append(
                {"version_id": id_, "path": file.path, "object": file.object, "bytes": file.bytes}
            )
        tags += [tag_row(id_, key, value) for key, value in draft.tags.items()]
        metrics += [{"version_id": id_, **metric_row(metric, at)} for metric in draft.metrics]
        record = None
        if run:
            its_inputs = _input_rows(run)
            inputs += its_inputs
            record = record_digest(ran[run.id], its_inputs)
            edges += [_edge(id_, i.version, i.role, i.position, i.weight) for i in run.inputs]
        elif draft.base is not None:
            edges.append(_edge(id_, draft.base, "base", 0, None))
        happenings.append(
            Happening("add", f"{draft.name}@{number}", id_, _told(draft, run, record))
        )
    for table, values in (
        (t.files, files),
        (t.tags, tags),
        (t.metrics, metrics),
        (t.run_inputs, inputs),
        (t.edges, edges),
    ):
        if values:
            connection.execute(insert(table), values)
    return ids, happenings


def tensor_rows(blob: bytes) -> tuple[TensorRecord, ...]:
    """The tensors of a manifest, names ascending."""
    return tuple(
        TensorRecord(name, dtype, tuple(shape), digest)
        for name, dtype, shape, digest in json.loads(zlib.decompress(blob))
    )


def tag_row(version_id: int, key: str, value: str) -> dict[str, Any]:
    """A row of `tags`; the number beside the text lets a query compare numbers."""
    return {"version_id": version_id, "key": key, "value": value, "number": number_in(value)}


def number_in(value: str) -> float | None:
    """The finite number a tag reads as, or None. Digits only: no `inf`, no `1_000`."""
    if not value[:1].isascii() or value[:1] not in "+-.0123456789" or "_" in value:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if value[:1] and math.isfinite(number) else None


def metric_row(metric: MetricValue, at: str) -> dict[str, Any]:
    """The columns `metrics` and `group_metrics` share.

    Raises:
        RegistryError: the value is not finite.
    """
    if not math.isfinite(metric.value):
        raise RegistryError(
            f"Metric `{metric.name}` is {metric.value}.",
            "A metric is a finite number: others cannot be compared or sorted.",
            "Leave it out, and say why in a tag.",
            metric=metric.name,
        )
    return {
        "name": metric.name,
        "split": metric.split,
        "value": float(metric.value),
        "stderr": metric.stderr,
        "dataset": metric.dataset,
        "protocol": json_text(metric.protocol),
        "environment": json_text(metric.environment),
        "tool": metric.tool,
        "recorded_at": at,
    }


def run_row(run: RunDraft) -> dict[str, Any]:
    """A row of `runs`.

    Raises:
        RegistryError: the seed does not fit a signed 64-bit integer.
    """
    if not -(2**63) <= run.seed < 2**63:
        raise RegistryError(f"Seed {run.seed} does not fit 64 bits.", how="Choose a smaller one.")
    return {
        "id": run.id,
        "kind": run.kind,
        "method": run.method,
        "method_version": run.method_version,
        "plugin": run.plugin,
        "plugin_version": run.plugin_version,
        "code_hash": run.code_hash,
        "seed": run.seed,
        "recipe": json_text(run.recipe),
        "recipe_digest": run.recipe_digest,
        "selection": None if run.selection is None else json_text(run.selection),
        "environment": json_text(run.environment),
        "timings": json_text(run.timings),
        "started_at": run.started_at,
        "ended_at": run.ended_at,
    }


def json_text(value: Mapping[str, Any]) -> str:
    """Canonical JSON text of a mapping.

    Raises:
        RegistryError: it holds something JSON has no word for.
    """
    if not value:
        return "{}"
    try:
        return canonical_json(value).decode()
    except (TypeError, ValueError) as error:
        raise RegistryError(f"Cannot store {value!r:.200}: {error}.") from error


def _numbers(connection: Connection, names: Sequence[str]) -> tuple[dict[str, int], list[int]]:
    """Entry ids, and the next number for each name in order; new names get entries.

    Writers are alone, so reading the last number and writing it back loses nothing.
    """
    ids: dict[str, int] = {}
    last: dict[str, int] = {}
    distinct = list(dict.fromkeys(names))
    e = t.entries.c
    query = select(e.id, e.name, e.last_number).where(among(connection, e.name, distinct))
    for row in connection.execute(query):
        ids[row.name], last[row.name] = row.id, row.last_number
    numbers = []
    known = set(ids)
    for name in names:
        last[name] = last.get(name, 0) + 1
        numbers.append(last[name])
    new = [name for name in distinct if name not in known]
    if new:
        made = connection.scalars(
            insert(t.entries).returning(e.id, sort_by_parameter_order=True),
            [{"name": name, "last_number": last[name]} for name in new],
        )
        ids.update(zip(new, made, strict=True))
    if known:
        connection.execute(
            update(t.entries).where(e.id == bindparam("entry")).values(last_number=bindparam("n")),
            [{"entry": ids[name], "n": last[name]} for name in known],
        )
    return ids, numbers


def _manifests(connection: Connection, drafts: Iterable[VersionDraft]) -> dict[str, int]:
    """Manifest ids by weights digest; only digests never seen before are written."""
    by_digest = {draft.digest: draft.tensors for draft in drafts}
    ids: dict[str, int] = {}
    m = t.manifests.c
    query = select(m.id, m.digest).where(among(connection, m.digest, list(by_digest)))
    for row in connection.execute(query):
        ids[row.digest] = row.id
    new = [digest for digest in by_digest if digest not in ids]
    if new:
        made = connection.scalars(
            insert(t.manifests).returning(m.id, sort_by_parameter_order=True),
            [_manifest_row(digest, by_digest[digest]) for digest in new],
        )
        ids.update(zip(new, made, strict=True))
    return ids


def _manifest_row(digest: str, tensors: Iterable[TensorRecord]) -> dict[str, Any]:
    ordered = sorted(tensors, key=lambda tensor: tensor.name)
    listing = [[x.name, x.dtype, list(x.shape), x.digest] for x in ordered]
    return {
        "digest": digest,
        "parameters": sum(x.elements for x in ordered if x.dtype.startswith(("F", "BF"))),
        "bytes": sum(x.nbytes for x in ordered),
        "tensors": zlib.compress(canonical_json(listing), 6),
    }


def _input_rows(run: RunDraft) -> list[dict[str, Any]]:
    return [
        {
            "run_id": run.id,
            "role": i.role,
            "position": i.position,
            "version_id": i.version,
            "digest": i.digest,
            "weight": None if i.weight is None else float(i.weight),
        }
        for i in run.inputs
    ]


def _edge(
    child: int, parent: int, role: str, position: int, weight: float | None
) -> dict[str, Any]:
    return {
        "child_id": child,
        "parent_id": parent,
        "role": role,
        "position": position,
        "weight": weight,
    }


def _told(draft: VersionDraft, run: RunDraft | None, record: str | None) -> dict[str, Any]:
    """What the audit log keeps of an addition, empty fields left out."""
    told = {
        "kind": draft.kind,
        "digest": draft.digest,
        "base": draft.base,
        "run": run.id if run else None,
        "recipe": run.recipe_digest if run else None,
        "record": record,
        "task": draft.task,
        "phase": draft.phase,
        "license": draft.license,
        "files": {file.path: file.object for file in draft.files},
        "tags": dict(draft.tags),
        "metrics": [[m.name, m.split, m.value] for m in draft.metrics],
    }
    return {key: value for key, value in told.items() if value not in (None, {}, [])}
