"""A CycloneDX machine-learning bill of materials, version 1.6, as JSON.

The version asked for is the subject, its ancestors are components, `pedigree.ancestors` has the
parents of each, and the runs are workflows of the formulation.

Source: https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import json
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from zoo.lineage_exports.graph import TOOL, ExportedModel, Graph, spdx_licence
from zoo.records import RunDraft


def export(graph: Graph) -> str:
    root = graph.models[graph.root]
    others = [m for ref, m in graph.models.items() if ref != graph.root]
    content: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{_serial(graph)}",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": TOOL, "version": graph.tool}]},
            "component": _component(graph, root),
        },
        "components": [_component(graph, model) for model in others],
        "dependencies": [
            {
                "ref": model.id,
                "dependsOn": sorted({graph.models[e.parent].id for e in graph.parents(ref)}),
            }
            for ref, model in graph.models.items()
        ],
    }
    workflows = [
        _workflow(graph, m, run) for m in graph.models.values() if (run := graph.made_by(m))
    ]
    if workflows:
        content["formulation"] = [{"workflows": workflows}]
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _serial(graph: Graph) -> str:
    """The same graph has the same number."""
    digests = [m.version.digest if m.version else m.ref for m in graph.models.values()]
    return str(uuid5(NAMESPACE_URL, f"{graph.models[graph.root].id}#{','.join(digests)}"))


def _component(graph: Graph, model: ExportedModel) -> dict[str, Any]:
    found = _identity(model)
    found["bom-ref"] = model.id
    if model.version and model.version.license:
        spdx = spdx_licence(model.version.license)
        found["licenses"] = [{"license": {"id": spdx} if spdx else {"name": model.version.license}}]
    if files := [
        {
            "type": "file",
            "name": f.path,
            "hashes": [{"alg": "SHA-256", "content": f.sha256}],
        }
        for f in model.files
    ]:
        found["components"] = files
    if model.version:
        found["modelCard"] = _card(model)
    if ancestors := [
        {
            **_identity(graph.models[e.parent]),
            "properties": [
                *_identity(graph.models[e.parent]).get("properties", []),
                {"name": "zoo:role", "value": e.role},
                *([] if e.weight is None else [{"name": "zoo:weight", "value": f"{e.weight:g}"}]),
                {"name": "zoo:evidence", "value": e.evidence if e.declared else "recorded"},
            ],
        }
        for e in graph.parents(model.ref)
    ]:
        found["pedigree"] = {"ancestors": ancestors}
        if any(e.declared for e in graph.parents(model.ref)):
            found["pedigree"]["notes"] = "Ancestors with an evidence are declared, not proved."
    return found


def _identity(model: ExportedModel) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "machine-learning-model", "name": model.name}
    if model.number:
        found["version"] = model.number
    if model.hub:
        found["purl"] = model.hub.purl
    if model.version:
        found["properties"] = [{"name": "zoo:weights", "value": model.version.digest}]
    return found


def _card(model: ExportedModel) -> dict[str, Any]:
    version = model.version
    assert version is not None
    parameters: dict[str, Any] = {
        "task": version.task,
        "architectureFamily": version.architecture,
        "datasets": [{"type": "dataset", "name": name} for name in model.datasets] or None,
    }
    measured = [
        {
            "type": m.name,
            "value": f"{m.value:g}",
            **({"slice": "/".join(s)} if (s := [p for p in (m.dataset, m.split) if p]) else {}),
        }
        for m in model.metrics
    ]
    about = {
        "kind": version.kind,
        "phase": version.phase,
        "parameters": str(version.parameters),
        **{f"tag:{key}": value for key, value in version.tags.items()},
    }
    card: dict[str, Any] = {
        "modelParameters": {k: v for k, v in parameters.items() if v},
        "properties": [{"name": f"zoo:{k}", "value": v} for k, v in about.items() if v],
    }
    if measured:
        card["quantitativeAnalysis"] = {"performanceMetrics": measured}
    return card


def _workflow(graph: Graph, made: ExportedModel, run: RunDraft) -> dict[str, Any]:
    parameters = run.recipe.get("parameters")
    about = {
        "method_version": run.method_version,
        "plugin": f"{run.plugin} {run.plugin_version}",
        "code_hash": run.code_hash,
        "recipe_digest": run.recipe_digest,
        "seed": str(run.seed),
        "parameters": json.dumps(parameters if isinstance(parameters, dict) else {}),
    }
    inputs = dict.fromkeys(e.parent for e in graph.parents(made.ref) if not e.declared)
    return {
        "bom-ref": f"{made.id}#run",
        "uid": run.id,
        "name": f"{run.kind}/{run.method}",
        "taskTypes": ["merge" if run.kind == "merge" else "other"],
        "timeStart": run.started_at,
        "timeEnd": run.ended_at,
        "inputs": [{"resource": {"ref": graph.models[ref].id}} for ref in inputs],
        "outputs": [{"type": "artifact", "resource": {"ref": made.id}}],
        "properties": [{"name": f"zoo:{k}", "value": v} for k, v in about.items()],
    }
