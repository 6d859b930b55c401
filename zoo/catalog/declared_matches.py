"""Which version of the registry a declared parent is: by its bytes, by where it is from, by name.

Bytes decide where they are given: a digest that no version has is no version, whatever the name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, func, or_, select
from sqlalchemy.sql.elements import ColumnElement

from zoo.catalog import tables as t
from zoo.catalog.many import among
from zoo.catalog.origins import as_hub_model, hub_model
from zoo.declarations.plain import mapping
from zoo.declarations.records import DeclaredParent
from zoo.hub.names import SCHEME

_SUFFIX = re.compile(r"\.(safetensors|ckpt|pt|bin|gguf)$")


@dataclass(frozen=True, slots=True)
class Match:
    """A version, and what it was known by."""

    version_id: int
    by: str
    """`weights`, `sha256`, `revision`, `hub`, `source` or `name`."""


class Matches:
    """The versions that declared parents are; each parent is looked for once, however many
    versions declare it."""

    def __init__(self, connection: Connection, files: Mapping[str, str]) -> None:
        """
        Args:
            files: object key -> `sha256:` of weights files, as far as they are known.
        """
        self.connection = connection
        self.files = files
        self._found: dict[DeclaredParent, list[tuple[str, list[tuple[int, bool]]]]] = {}

    def match(self, parent: DeclaredParent, child: int) -> Match | None:
        """The version that a declared parent is, or None: it is not in the registry.

        Of several that fit, a live one, and of those the newest that was there before its child.

        Args:
            child: row id of the version that declares it, which is not its own parent.
        """
        asked = replace(parent, role="", evidence="", weight=None, parents=())
        if asked not in self._found:
            self._found[asked] = [
                (by, rows)
                for by, condition in _conditions(self.connection, parent, self.files)
                if (rows := self._fitting(condition))
            ]
        for by, rows in self._found[asked]:
            others = [(removed, id_ > child, -id_) for id_, removed in rows if id_ != child]
            if others:
                return Match(-min(others)[2], by)
        return None

    def _fitting(self, condition: ColumnElement[bool]) -> list[tuple[int, bool]]:
        """Row id, and whether it was removed."""
        v = t.versions.c
        query = (
            select(v.id, v.removed_at)
            .join(t.entries, t.entries.c.id == v.entry_id)
            .join(t.manifests, t.manifests.c.id == v.manifest_id)
            .where(condition, v.kind != "artifact")
        )
        rows = self.connection.execute(query)
        return [(id_, removed_at is not None) for id_, removed_at in rows]


def known_as(
    connection: Connection, version_ids: Sequence[int], files: Mapping[str, str]
) -> set[str]:
    """All that versions can be recognised by: a parent that is called by none of it is none of
    them."""
    v, f = t.versions.c, t.files.c
    here = among(connection, v.id, version_ids)
    found: set[str] = set()
    rows = connection.execute(
        select(v.source, t.entries.c.name, t.manifests.c.digest)
        .join(t.entries, t.entries.c.id == v.entry_id)
        .join(t.manifests, t.manifests.c.id == v.manifest_id)
        .where(here)
    )
    for source, name, digest in rows:
        found |= {source, name, digest}
        hub = hub_model(source)
        if hub:
            found.add(hub.id)
    keys = connection.scalars(select(f.object).where(among(connection, f.version_id, version_ids)))
    for key in keys:
        found.add(files.get(key) or key.replace("flat:", "sha256:"))
    notes = select(v.notes).where(here, v.notes.contains('"source_sha256"', autoescape=True))
    for text in connection.scalars(notes):
        for digest in mapping(json.loads(text).get("source_sha256")).values():
            found.add("sha256:" + str(digest).removeprefix("sha256:"))
    return found


def called(parent: DeclaredParent) -> set[str]:
    """All that a declared parent is called, in the terms of `known_as`."""
    hub = hub_model(parent.source or parent.model) or as_hub_model(parent.model)
    names = [parent.weights, parent.digest, hub.id if hub else None]
    return {parent.model, _SUFFIX.sub("", parent.model), *(name for name in names if name)}


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
