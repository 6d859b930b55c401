"""Lineage as exporters need it: models, runs, and the steps between them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version as installed
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from zoo.catalog.lineage import DECLARED
from zoo.catalog.origins import HubModel, as_hub_model, hub_model
from zoo.declarations.plain import listed, mapping, text
from zoo.licences import known
from zoo.records import MetricValue, RunDraft, Version
from zoo.storage.flat_digests import flat_digests

if TYPE_CHECKING:
    from zoo.registry import Registry

TOOL = "zoo-registry"
_SPDX = re.compile(r"https://spdx\.org/licenses/(.+)\.html")


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """One file of a model."""

    path: str
    bytes: int
    sha256: str
    """64 hex digits, of the whole file."""


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """One node of the graph."""

    ref: str
    """`math@1`; of a model that is not registered, what it is called."""
    id: str
    """A URI of its own: `zoo://UUID/math@1`."""
    name: str
    version: Version | None
    """None where the model is only declared."""
    hub: HubModel | None = None
    files: tuple[ExportedFile, ...] = ()
    metrics: tuple[MetricValue, ...] = ()
    datasets: tuple[str, ...] = ()
    """Data sets that its card names."""

    @property
    def number(self) -> str | None:
        """Its version among those of its name."""
        if self.version:
            return str(self.version.version)
        return self.hub.revision if self.hub else None


@dataclass(frozen=True, slots=True)
class ExportedEdge:
    """One step, from parent to child, both by `ref`."""

    parent: str
    child: str
    role: str
    weight: float | None
    run: str | None
    declared: bool
    evidence: str = ""


@dataclass(frozen=True)
class Graph:
    """All that exporters write."""

    zoo: str
    """The registry's id, a UUID."""
    root: str
    """The `ref` that was asked for."""
    models: Mapping[str, ExportedModel]
    """By `ref`, parents before children."""
    runs: Mapping[str, RunDraft]
    """By id, those that made a model of the graph."""
    edges: Sequence[ExportedEdge]
    tool: str = field(default_factory=lambda: installed(TOOL))
    """Version of this program."""

    @property
    def namespace(self) -> str:
        return f"zoo://{self.zoo}"

    def parents(self, ref: str) -> list[ExportedEdge]:
        return [e for e in self.edges if e.child == ref]

    def made_by(self, model: ExportedModel) -> RunDraft | None:
        run = model.version.run if model.version else None
        return self.runs.get(run) if run else None


def collect(registry: Registry, ref: str, *, descendants: bool = False, hashes: bool) -> Graph:
    """The lineage of a version, ready to be written.

    Args:
        hashes: whether the files of each model are hashed, which reads all their bytes.
    """
    lineage = registry.lineage(ref, descendants=descendants)
    zoo_id = registry.catalog.owner.id
    said = {e["parent"]: str(e.get("evidence", "")) for e in lineage.edges}
    models: dict[str, ExportedModel] = {}
    runs: dict[str, RunDraft] = {}
    for node in lineage.nodes:
        if node.get("declared"):
            models[node["ref"]] = _declared(node, zoo_id, said[node["ref"]])
        else:
            version = registry.catalog.get(node["ref"], removed=True)
            models[node["ref"]] = _registered(registry, version, zoo_id, hashes)
            if version.run and version.run not in runs:
                runs[version.run] = registry.catalog.run(version.run)
    edges = [
        ExportedEdge(
            e["parent"],
            e["child"],
            e["role"],
            e["weight"],
            e["run"],
            bool(e.get("declared")),
            e.get("evidence", ""),
        )
        for e in lineage.edges
    ]
    return Graph(zoo_id, lineage.root, models, runs, edges)


def spdx_licence(license: str | None) -> str | None:
    """The SPDX identifier of a licence, `Apache-2.0`; None for one that SPDX does not list."""
    found = known(license)
    if found is None:
        return None
    listed_there = _SPDX.fullmatch(found.url)
    if listed_there:
        return listed_there[1]
    return found.id.upper() if found.id.startswith(("cc-by", "cc0")) else None


def _registered(registry: Registry, version: Version, zoo_id: str, hashes: bool) -> ExportedModel:
    files = registry.catalog.files(version.id)
    there = hashes and all(registry.store.has(f.object) for f in files)
    digests = flat_digests(registry.store, [f.object for f in files]) if there else {}
    facts = mapping(mapping(version.notes.get("declared")).get("facts"))
    datasets = [text(d) for d in listed(mapping(facts.get("card")).get("datasets"))]
    return ExportedModel(
        version.ref,
        f"zoo://{zoo_id}/{quote(version.ref, safe='@/')}",
        version.name,
        version,
        hub_model(version.source),
        tuple(
            ExportedFile(f.path, f.bytes, digests[f.object].removeprefix("sha256:"))
            for f in files
            if f.object in digests
        ),
        tuple(registry.catalog.measured(version.id)),
        tuple(dict.fromkeys(d for d in datasets if d)),
    )


def _declared(node: Mapping[str, Any], zoo_id: str, evidence: str) -> ExportedModel:
    """A model that is only named; what it is called may be anything, its URI is one.

    A card's `base_model` is an id of the Hub. Elsewhere `a/b` may as well be a path.
    """
    name = str(node["name"])
    hub = hub_model(name) or (as_hub_model(name) if evidence == "README.md base_model" else None)
    where = quote(str(node["ref"]).removeprefix(DECLARED), safe="")
    return ExportedModel(node["ref"], f"zoo://{zoo_id}/declared/{where}", name, None, hub)
