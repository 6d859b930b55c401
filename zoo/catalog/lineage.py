"""Lineage: the graph of versions a version came from, or that came from it.

One recursive query finds the closure and reads its edges, one its versions: the cost is that of the
answer, however large the registry.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, case, literal, select

from zoo.catalog import tables as t
from zoo.catalog.many import among, plain_rows

NODE = (
    "ref",
    "name",
    "version",
    "kind",
    "digest",
    "task",
    "phase",
    "license",
    "architecture",
    "created_at",
    "run",
    "method",
    "removed",
)
"""Keys of a node; `removed` is when it was removed, or None."""
DECLARED = "declared:"
"""Begins the reference of a parent that is only declared, and not in the registry."""


@dataclass(frozen=True)
class Lineage:
    """A part of the lineage graph.

    Nodes have the keys of `NODE`, ascending by time of registration.
    Edges: `parent, child, role, weight, run`; `run` is None for an expert registered with its
    base, whose training the registry did not see. An edge that a model only says it has is marked
    `declared`, and has `evidence` and `matched`, what its parent was recognised by, or None; see
    `zoo.catalog.declared_lineage`.
    """

    root: str
    nodes: list[dict[str, Any]]
    edges: list[dict[str, Any]]
    descendants: bool = False
    """Whether this goes from the root to what came of it."""

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        nodes = [{"declared": False, **n} for n in self.nodes]
        edges = [{"declared": False, **e} for e in self.edges]
        return {"root": self.root, "nodes": nodes, "edges": edges}

    def as_tree(self) -> str:
        """Lines for people; a version met twice is expanded the first time only."""
        node = {n["ref"]: n for n in self.nodes}
        near, far = ("parent", "child") if self.descendants else ("child", "parent")
        steps: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for e in self.edges:
            steps[e[near]].append(e)
        lines: list[str] = []
        seen: set[str] = set()
        # (reference, its edge, prefix of its line, prefix of its children's lines)
        stack: list[tuple[str, dict[str, Any] | None, str, str]] = [(self.root, None, "", "")]
        while stack:
            ref, edge, line, below = stack.pop()
            again = ref in seen and bool(steps[ref])
            lines.append(line + _described(node[ref], edge) + (" (see above)" if again else ""))
            if ref in seen:
                continue
            seen.add(ref)
            last = len(steps[ref]) - 1
            for i in range(last, -1, -1):
                step = steps[ref][i]
                corner, bar = ("└── ", "    ") if i == last else ("├── ", "│   ")
                stack.append((step[far], step, below + corner, below + bar))
        return "\n".join(lines)

    def as_mermaid(self) -> str:
        """A Mermaid flowchart, arrows from parent to child."""
        ids = self._ids()
        lines = ["flowchart TD"]
        lines += [f'    {ids[n["ref"]]}["{_caption(n, "<br/>", _in_mermaid)}"]' for n in self.nodes]
        for e in self.edges:
            arrow = "-.->" if e.get("declared") else "-->"
            caption = _in_mermaid(_edge_caption(e))
            lines.append(f'    {ids[e["parent"]]} {arrow}|"{caption}"| {ids[e["child"]]}')
        return "\n".join(lines)

    def as_dot(self) -> str:
        """A Graphviz digraph, arrows from parent to child."""
        ids = self._ids()
        lines = ["digraph lineage {", "  node [shape=box];"]
        for n in self.nodes:
            style = ", style=dashed" if n["removed"] or n.get("declared") else ""
            caption = _caption(n, "\\n", _in_dot)
            lines.append(f'  {ids[n["ref"]]} [label="{caption}"{style}];')
        for e in self.edges:
            edge = f"{ids[e['parent']]} -> {ids[e['child']]}"
            style = ", style=dashed" if e.get("declared") else ""
            lines.append(f'  {edge} [label="{_in_dot(_edge_caption(e))}"{style}];')
        return "\n".join([*lines, "}"])

    def _ids(self) -> dict[str, str]:
        return {n["ref"]: f"v{i}" for i, n in enumerate(self.nodes)}


@dataclass(frozen=True)
class Closure:
    """A lineage, and what the registry calls its nodes."""

    lineage: Lineage
    refs: dict[int, str]
    """Row id of each node -> its reference."""
    notes: dict[int, str]
    """Notes of those nodes that have some, JSON, by row id."""


def closures(connection: Connection, version_ids: Sequence[int], *, descendants: bool) -> Closure:
    """The lineages of versions as one, whose root is the first."""
    start = select(t.versions.c.id).where(among(connection, t.versions.c.id, version_ids))
    e = t.edges.c
    steps = plain_rows(
        connection,
        select(e.parent_id, e.child_id, e.role, e.weight)
        .where(e.child_id.in_(_reach(start, descendants=descendants)))
        .order_by(e.child_id, e.role, e.position),
    )
    # All but the first are at the far end of an edge.
    ids = {*version_ids, *(step[1 if descendants else 0] for step in steps)}
    v = t.versions.c
    query = (
        select(
            v.id,
            t.entries.c.name,
            v.number,
            v.kind,
            t.manifests.c.digest,
            v.task,
            v.phase,
            v.license,
            v.architecture,
            v.created_at,
            v.run_id,
            t.runs.c.method,
            v.removed_at,
            case((v.notes != "{}", v.notes)),
        )
        .join(t.entries, t.entries.c.id == v.entry_id)
        .join(t.manifests, t.manifests.c.id == v.manifest_id)
        .outerjoin(t.runs, t.runs.c.id == v.run_id)
        .where(among(connection, v.id, list(ids)))
        .order_by(v.id)
    )
    refs: dict[int, str] = {}
    runs: dict[int, str | None] = {}
    notes: dict[int, str] = {}
    nodes: list[dict[str, Any]] = []
    for id_, name, number, kind, digest, task, phase, license_, *rest, said in plain_rows(
        connection, query
    ):
        architecture, created_at, run, method, removed = rest
        refs[id_] = ref = f"{name}@{number}"
        runs[id_] = run
        if said:
            notes[id_] = said
        nodes.append(
            {
                "ref": ref,
                "name": name,
                "version": number,
                "kind": kind,
                "digest": digest,
                "task": task,
                "phase": phase,
                "license": license_,
                "architecture": architecture,
                "created_at": created_at,
                "run": run,
                "method": method,
                "removed": removed,
            }
        )
    edges = [
        {
            "parent": refs[parent],
            "child": refs[child],
            "role": role,
            "weight": weight,
            "run": runs[child],
        }
        for parent, child, role, weight in steps
        if parent in refs  # a descendant may have other parents, which are not part of this
    ]
    return Closure(Lineage(refs[version_ids[0]], nodes, edges, descendants), refs, notes)


def reach(version_id: int, *, descendants: bool) -> Select[int]:
    """A query of the row ids that lineage reaches from a version, itself included."""
    return _reach(select(literal(version_id, t.INT).label("id")), descendants=descendants)


def _reach(start: Select[int], *, descendants: bool) -> Select[int]:
    """A query of the row ids that lineage reaches from those that another gives."""
    e = t.edges.c
    here, there = (e.parent_id, e.child_id) if descendants else (e.child_id, e.parent_id)
    found = start.cte("reach", recursive=True)
    found = found.union(select(there).join(found, here == found.c.id))
    return select(found.c.id)


def _described(node: dict[str, Any], edge: dict[str, Any] | None) -> str:
    if node.get("declared"):
        caption = _edge_caption(edge) if edge else "declared"
        return f"{_printable(node['name'])} not registered [{_printable(caption)}]"
    words = [node["ref"], node["kind"]]
    if node["method"]:
        words.append(f"by {node['method']}")
    if edge:
        words.append(f"[{_printable(_edge_caption(edge))}]")
    if node["removed"]:
        words.append(f"(removed {node['removed'][:10]})")
    return " ".join(words)


def _caption(node: dict[str, Any], newline: str, quoted: Callable[[str], str]) -> str:
    if node.get("declared"):
        return f"{quoted(node['name'])}{newline}not registered"
    caption = f"{node['ref']}{newline}{node['kind']}"
    return caption + (f" by {node['method']}" if node["method"] else "")


def _edge_caption(edge: dict[str, Any]) -> str:
    weight = edge["weight"]
    caption = str(edge["role"]) if weight is None else f"{edge['role']}, weight {weight:g}"
    return f"declared {caption}" if edge.get("declared") else caption


def _printable(text: str) -> str:
    """What a stranger wrote, without what moves a terminal's cursor."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _in_dot(text: str) -> str:
    return _printable(text).replace("\\", "\\\\").replace('"', '\\"')


def _in_mermaid(text: str) -> str:
    """Source: https://mermaid.js.org/syntax/flowchart.html, entity codes."""
    marks = {'"': "#quot;", "#": "#35;", "<": "#lt;", ">": "#gt;", "`": "#96;"}
    return "".join(marks.get(c, c) for c in _printable(text))
