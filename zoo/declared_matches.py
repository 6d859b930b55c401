"""Which version of the registry a declared parent is: by its bytes, by where it is from, by name.

Bytes decide where they are given: a digest that no version has is no version, whatever the name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, func, or_, select
from sqlalchemy.sql.elements import ColumnElement

from zoo import tables as t
from zoo.declarations.plain import mapping
from zoo.declarations.records import DeclaredParent
from zoo.hub.names import SCHEME
from zoo.origins import as_hub_model, hub_model

_SUFFIX = re.compile(r"\.(safetensors|ckpt|pt|bin|gguf)$")


@dataclass(frozen=True, slots=True)
class Match:
    """A version, and what it was known by."""

    version_id: int
    by: str
    """`weights`, `sha256`, `revision`, `hub`, `source` or `name`."""


def match(
    connection: Connection,
    parent: DeclaredParent,
    *,
    child: int | None = None,
    files: Mapping[str, str] | None = None,
) -> Match | None:
    """The version that a declared parent is, or None: it is not in the registry.

    Of several that fit, a live one, and of those the newest that was there before its child.

    Args:
        child: row id of the version that declares it, which is not its own parent.
        files: object key -> `sha256:` of weights files, as far as they are known.
    """
    for by, condition in _conditions(connection, parent, files or {}):
        v = t.versions.c
        query = (
            select(v.id)
            .join(t.entries, t.entries.c.id == v.entry_id)
            .join(t.manifests, t.manifests.c.id == v.manifest_id)
            .where(condition, v.kind != "artifact")
        )
        newest: list[ColumnElement[bool]] = [v.removed_at.is_not(None)]
        if child is not None:
            query = query.where(v.id != child)
            newest.append(v.id > child)
        found = connection.scalar(query.order_by(*newest, v.id.desc()).limit(1))
        if found is not None:
            return Match(found, by)
    return None


def texts_of(connection: Connection, version_id: int, files: Mapping[str, str]) -> list[str]:
    """What a declaration that means this version would have to contain: one of these texts."""
    v, f = t.versions.c, t.files.c
    row = connection.execute(
        select(v.source, v.notes, t.entries.c.name, t.manifests.c.digest)
        .join(t.entries, t.entries.c.id == v.entry_id)
        .join(t.manifests, t.manifests.c.id == v.manifest_id)
        .where(v.id == version_id)
    ).one()
    hub = hub_model(row.source)
    keys = connection.scalars(select(f.object).where(f.version_id == version_id)).all()
    made_of = mapping(json.loads(row.notes).get("source_sha256")).values()
    source_digests = [str(digest).removeprefix("sha256:") for digest in made_of]
    return [
        *([hub.id] if hub else []),
        *([row.source] if row.source else []),
        row.name,
        row.digest,
        *(key.removeprefix("flat:") for key in keys if key.startswith("flat:")),
        *(files[key] for key in keys if key in files),
        *source_digests,
    ]


def _conditions(
    connection: Connection, parent: DeclaredParent, files: Mapping[str, str]
) -> Iterable[tuple[str, ColumnElement[bool]]]:
    v = t.versions.c
    if parent.weights:
        yield "weights", t.manifests.c.digest == parent.weights
    if parent.digest:
        yield "sha256", v.id.in_(_with_file(connection, parent.digest, files))
    hub = (hub_model(parent.source or parent.model) or as_hub_model(parent.model)) or None
    place = hub and f"{SCHEME}{hub.id}"
    revision = parent.revision or (hub.revision if hub else None)
    if place and revision:
        yield "revision", v.source == f"{place}@{revision}"
    if parent.weights or parent.digest:
        return
    if place:
        pinned = func.substr(v.source, 1, len(place) + 1) == f"{place}@"
        yield "hub", or_(v.source == place, pinned)
    yield "source", v.source == parent.model
    for name in dict.fromkeys((parent.model, _SUFFIX.sub("", parent.model))):
        yield "name", t.entries.c.name == name


def _with_file(connection: Connection, digest: str, files: Mapping[str, str]) -> list[int]:
    """Row ids of versions that have the file, or were made of it when they were taken in."""
    f, v = t.files.c, t.versions.c
    keys = [digest.replace("sha256:", "flat:"), *(k for k, d in files.items() if d == digest)]
    found = list(connection.scalars(select(f.version_id).where(f.object.in_(keys)).distinct()))
    bare = digest.removeprefix("sha256:")
    made_of = select(v.id, v.notes).where(
        v.notes.contains('"source_sha256"', autoescape=True), v.notes.contains(bare)
    )
    for version_id, notes in connection.execute(made_of):
        sources = mapping(json.loads(notes).get("source_sha256")).values()
        if any(str(d).removeprefix("sha256:") == bare for d in sources):
            found.append(version_id)
    return found
