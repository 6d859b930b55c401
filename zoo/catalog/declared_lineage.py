"""Lineage with what models say of themselves: declared edges beside the proved ones.

A declared parent is the version of the registry that it matches, or else a leaf of its own. Where
the registry has an edge between two versions, what is declared between them adds nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, select

from zoo.catalog import tables as t
from zoo.catalog.declared_matches import Matches, called, known_as
from zoo.catalog.lineage import DECLARED, NODE, Lineage, closures
from zoo.declarations.plain import listed, mapping, number, text
from zoo.declarations.records import DeclaredParent

_MARK = '"declared"'
"""Is in the notes of every version that declares something."""
MOST_ROUNDS = 1_000
"""Matches of matches that are followed; more is no lineage."""


def with_declared(
    connection: Connection, version_id: int, *, descendants: bool, files: Mapping[str, str]
) -> Lineage:
    """The lineage of a version, closed over proved and declared edges.

    Args:
        files: object key -> `sha256:` of weights files, as far as they are known.
    """
    roots = [version_id]
    looked: set[int] = set()
    found = _Found(Matches(connection, files))
    for _ in range(MOST_ROUNDS):
        closure = closures(connection, roots, descendants=descendants)
        new = [id_ for id_ in closure.refs if id_ not in looked]
        looked.update(new)
        if descendants:
            reached = _declaring(connection, new, found)
        else:
            reached = _declared_by([(id_, closure.notes.get(id_, "")) for id_ in new], found)
        further = [id_ for id_ in reached if id_ not in looked]
        if not further:
            break
        roots += further
    lineage, refs = closure.lineage, closure.refs
    if not found.between:
        return lineage
    proved = {(e["parent"], e["child"]) for e in lineage.edges}
    edges = [e for e in found.edges(refs) if (e["parent"], e["child"]) not in proved]
    leaves = {e["parent"] for e in edges} | {e["child"] for e in edges}
    nodes = [*(n for ref, n in found.leaves.items() if ref in leaves), *lineage.nodes]
    return Lineage(lineage.root, nodes, [*lineage.edges, *edges], descendants)


@dataclass
class _Found:
    """Declared edges, and the leaves they come from."""

    matches: Matches
    between: list[tuple[int | str, int | str, dict[str, Any]]] = field(default_factory=list)
    """Parent, child, what is said; versions by row id, leaves by reference."""
    leaves: dict[str, dict[str, Any]] = field(default_factory=dict)
    everywhere: list[tuple[int, tuple[DeclaredParent, ...]]] | None = None
    """Row id and declared parents of every version that has some, once they were asked for."""

    def add(
        self, parent: int | str, child: int | str, said: DeclaredParent, by: str | None
    ) -> None:
        about = {
            "role": said.role,
            "weight": said.weight,
            "run": None,
            "declared": True,
            "evidence": said.evidence,
            "matched": by,
        }
        self.between.append((parent, child, about))

    def leaf(self, said: DeclaredParent) -> str:
        """The reference of a model that is not in the registry; no entry can have it."""
        name = said.model + (f"@{said.revision}" if said.revision else "")
        ref = f"{DECLARED}{name}" + (f" {said.digest[7:17]}" if said.digest else "")
        node = dict.fromkeys(NODE)
        node |= {"ref": ref, "name": name, "kind": "declared", "digest": said.weights}
        self.leaves.setdefault(ref, node | {"declared": True})
        return ref

    def edges(self, refs: Mapping[int, str]) -> Iterator[dict[str, Any]]:
        """Each once, between versions that are in the graph."""
        seen = set()
        for parent, child, about in self.between:
            ends = [refs.get(end) if isinstance(end, int) else end for end in (parent, child)]
            key = (*ends, about["role"])
            if None not in ends and ends[0] != ends[1] and key not in seen:
                seen.add(key)
                yield {"parent": ends[0], "child": ends[1], **about}


def _declared_by(notes: Iterable[tuple[int, str]], found: _Found) -> list[int]:
    """Row ids of the versions that others, given by row id and notes, declare as parents."""
    reached = []
    for version_id, parents in _declarations(notes):
        stack: list[tuple[int | str, DeclaredParent]] = [(version_id, p) for p in parents[::-1]]
        while stack:
            child, said = stack.pop()
            hit = found.matches.match(said, version_id)
            if hit:
                reached.append(hit.version_id)
                found.add(hit.version_id, child, said, hit.by)
                continue  # what a registered version came from, it says itself
            ref = found.leaf(said)
            found.add(ref, child, said, None)
            stack += [(ref, inner) for inner in said.parents[::-1]]
    return reached


def _declaring(connection: Connection, ids: list[int], found: _Found) -> list[int]:
    """Row ids of the versions that declare one of these as a parent."""
    everywhere = found.everywhere
    if everywhere is None:
        v = t.versions.c
        query = select(v.id, v.notes).where(v.notes.contains(_MARK, autoescape=True)).order_by(v.id)
        rows = [(id_, notes) for id_, notes in connection.execute(query)]
        everywhere = found.everywhere = list(_declarations(rows))
    if not everywhere or not ids:
        return []
    reached, here, names = [], set(ids), known_as(connection, ids, found.matches.files)
    for version_id, parents in everywhere:
        for said in parents:
            if names.isdisjoint(called(said)):
                continue
            hit = found.matches.match(said, version_id)
            if hit and hit.version_id in here:
                reached.append(version_id)
                found.add(hit.version_id, version_id, said, hit.by)
    return reached


def _declarations(
    notes: Iterable[tuple[int, str]],
) -> Iterator[tuple[int, tuple[DeclaredParent, ...]]]:
    for version_id, said in notes:
        if _MARK in said and (parents := declared_parents(json.loads(said))):
            yield version_id, parents


def declared_parents(notes: Mapping[str, Any]) -> tuple[DeclaredParent, ...]:
    """The declared parents in a version's notes."""
    return _read(mapping(notes.get("declared")).get("parents"))


def _read(value: Any) -> tuple[DeclaredParent, ...]:
    return tuple(
        DeclaredParent(
            name,
            text(one.get("role")) or "parent",
            text(one.get("evidence")) or "",
            digest=text(one.get("digest")),
            weights=text(one.get("weights")),
            weight=number(one.get("weight")),
            source=text(one.get("source")),
            revision=text(one.get("revision")),
            parents=_read(one.get("parents")),
        )
        for one in map(mapping, listed(value))
        if (name := text(one.get("model")))
    )
