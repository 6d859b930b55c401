"""SPDX 3.0.1 as JSON-LD: models by the AI profile, runs by the build profile.

    AIPackage --descendantOf--> AIPackage      parents; a declared one with `noAssertion`
    AIPackage --trainedOn--> DatasetPackage    data sets that a card names
    Build --hasInput--> AIPackage, Build --hasOutput--> AIPackage
    AIPackage --contains--> File               with the sha256 of its bytes

Source: https://spdx.github.io/spdx-spec/v3.0.1/
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any
from urllib.parse import quote

from zoo.lineage_exports.graph import TOOL, ExportedModel, Graph, spdx_licence
from zoo.records import RunDraft

CONTEXT = "https://spdx.org/rdf/3.0.1/spdx-context.jsonld"
_CREATION = "_:creation"


def export(graph: Graph) -> str:
    return json.dumps(_document(graph), indent=2, ensure_ascii=False) + "\n"


def _document(graph: Graph) -> dict[str, Any]:
    root = graph.models[graph.root]
    elements = [*_agents(graph)]
    for model in graph.models.values():
        elements += _model(graph, model)
        run = graph.made_by(model)
        if run:
            elements += _build(graph, model, run)
    assert root.version is not None
    document = _element(
        "SpdxDocument",
        f"{root.id}#document",
        name=f"Lineage of {root.ref}",
        rootElement=[root.id],
        element=[e["spdxId"] for e in elements],
        profileConformance=["core", "software", "simpleLicensing", "dataset", "ai", "build"],
    )
    creation = {
        "type": "CreationInfo",
        "@id": _CREATION,
        "specVersion": "3.0.1",
        "created": _second(root.version.created_at),
        "createdBy": [f"{graph.namespace}#zoo"],
        "createdUsing": [f"{graph.namespace}#tool"],
    }
    return {"@context": CONTEXT, "@graph": [creation, *elements, document]}


def _agents(graph: Graph) -> Iterator[dict[str, Any]]:
    yield _element("SoftwareAgent", f"{graph.namespace}#zoo", name=f"zoo {graph.zoo}")
    yield _element("Tool", f"{graph.namespace}#tool", name=f"{TOOL} {graph.tool}")


def _model(graph: Graph, model: ExportedModel) -> Iterator[dict[str, Any]]:
    version, hub = model.version, model.hub
    package = _element(
        "ai_AIPackage",
        model.id,
        name=model.name,
        software_packageVersion=model.number or "unknown",
        software_primaryPurpose="model",
        software_downloadLocation=_location(model),
        suppliedBy=f"{graph.namespace}#zoo",
    )
    if hub:
        package["software_packageUrl"] = hub.purl
    if version:
        package["releaseTime"] = _second(version.created_at)
        package["comment"] = f"Digest of the weights: {version.digest}"
        if version.architecture:
            package["ai_typeOfModel"] = [version.architecture]
        if version.task:
            package["ai_domain"] = [version.task]
        if model.metrics:
            package["ai_metric"] = [
                _entry("/".join(p for p in (m.name, m.dataset, m.split) if p), f"{m.value:g}")
                for m in model.metrics
            ]
    else:
        package["comment"] = "Named by a model that declares it; its bytes are not known here."
        del package["suppliedBy"]
    yield package
    yield from _licence(model)
    yield from _files(model)
    yield from _training(graph, model)
    yield from _ancestors(graph, model)


def _location(model: ExportedModel) -> str:
    if model.hub is None:
        return model.id
    at = f"/tree/{quote(model.hub.revision, safe='')}" if model.hub.revision else ""
    return f"https://huggingface.co/{model.hub.id}{at}"


def _licence(model: ExportedModel) -> Iterator[dict[str, Any]]:
    if model.version is None or not model.version.license:
        return
    spdx = spdx_licence(model.version.license)
    if spdx:
        yield _element(
            "simplelicensing_LicenseExpression",
            f"{model.id}#licence",
            simplelicensing_licenseExpression=spdx,
        )
    else:
        yield _element(
            "simplelicensing_SimpleLicensingText",
            f"{model.id}#licence",
            name=model.version.license,
            simplelicensing_licenseText=model.version.license,
        )
    yield _relation(f"{model.id}#declares", model.id, "hasDeclaredLicense", [f"{model.id}#licence"])


def _files(model: ExportedModel) -> Iterator[dict[str, Any]]:
    ids = []
    for file in model.files:
        ids.append(f"{model.id}/files/{quote(file.path)}")
        yield _element(
            "software_File",
            ids[-1],
            name=file.path,
            verifiedUsing=[{"type": "Hash", "algorithm": "sha256", "hashValue": file.sha256}],
        )
    if ids:
        yield _relation(f"{model.id}#files", model.id, "contains", ids)


def _training(graph: Graph, model: ExportedModel) -> Iterator[dict[str, Any]]:
    ids = []
    for name in model.datasets:
        ids.append(f"{model.id}#data-{quote(name, safe='')}")
        yield _element(
            "dataset_DatasetPackage",
            ids[-1],
            name=name,
            dataset_datasetType=["noAssertion"],
            software_primaryPurpose="data",
            software_downloadLocation=f"https://huggingface.co/datasets/{quote(name)}",
            originatedBy=[f"{graph.namespace}#zoo"],
            comment="Named by the model's card.",
        )
    if ids:
        yield _relation(f"{model.id}#trained", model.id, "trainedOn", ids)


def _ancestors(graph: Graph, model: ExportedModel) -> Iterator[dict[str, Any]]:
    for i, edge in enumerate(graph.parents(model.ref)):
        weight = "" if edge.weight is None else f", weight {edge.weight:g}"
        said = f", declared by {edge.evidence}" if edge.declared else ""
        found = _relation(
            f"{model.id}#parent-{i}", model.id, "descendantOf", [graph.models[edge.parent].id]
        )
        found["comment"] = f"{edge.role}{weight}{said}"
        if edge.declared:
            found["completeness"] = "noAssertion"
        yield found


def _build(graph: Graph, made: ExportedModel, run: RunDraft) -> Iterator[dict[str, Any]]:
    id_ = f"{graph.namespace}/runs/{run.id}"
    given = run.recipe.get("parameters")
    values = given if isinstance(given, dict) else {}
    parameters = [
        *(_entry(k, v if isinstance(v, str) else json.dumps(v)) for k, v in values.items()),
        _entry("zoo.seed", str(run.seed)),
        _entry("zoo.method_version", run.method_version),
        _entry("zoo.plugin", f"{run.plugin} {run.plugin_version}"),
        _entry("zoo.code_hash", run.code_hash),
    ]
    digest = run.recipe_digest.removeprefix("sha256:")
    yield _element(
        "build_Build",
        id_,
        build_buildType=f"https://pypi.org/project/{TOOL}/{run.kind}/{quote(run.method)}",
        build_buildId=run.id,
        build_parameter=parameters,
        build_buildStartTime=_second(run.started_at),
        build_buildEndTime=_second(run.ended_at),
        build_configSourceDigest=[{"type": "Hash", "algorithm": "sha256", "hashValue": digest}],
    )
    inputs = dict.fromkeys(e.parent for e in graph.parents(made.ref) if not e.declared)
    if inputs:
        ids = [graph.models[ref].id for ref in inputs]
        yield _relation(f"{id_}#inputs", id_, "hasInput", ids)
    yield _relation(f"{id_}#output", id_, "hasOutput", [made.id])


def _element(kind: str, id_: str, **content: Any) -> dict[str, Any]:
    return {"type": kind, "spdxId": id_, "creationInfo": _CREATION, **content}


def _relation(id_: str, start: str, kind: str, ends: Iterable[str]) -> dict[str, Any]:
    return _element("Relationship", id_, **{"from": start}, relationshipType=kind, to=list(ends))


def _entry(key: str, value: str) -> dict[str, Any]:
    return {"type": "DictionaryEntry", "key": key, "value": value}


def _second(at: str) -> str:
    """UTC to the second, as SPDX writes times."""
    return datetime.fromisoformat(at).strftime("%Y-%m-%dT%H:%M:%SZ")
