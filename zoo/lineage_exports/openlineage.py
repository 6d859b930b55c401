"""OpenLineage events, one JSON document a line.

A run is a START and a COMPLETE event of the job `merge/ties`, with models as datasets. A model that
no run of this zoo made, but that has parents, is a dataset event with the lineage facet.

Each version is a dataset of its own, `both@2`, as it never changes; its version is the digest of
its weights.

Source: https://openlineage.io/spec/2-0-2/OpenLineage.json and the facets named below.
"""

from __future__ import annotations

import json
from typing import Any

from zoo.lineage_exports.graph import TOOL, ExportedEdge, ExportedModel, Graph
from zoo.records import RunDraft

_SPEC = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs"
_FACETS = "https://openlineage.io/spec/facets"
_PRODUCER = "https://pypi.org/project/zoo-registry/{version}"


def export(graph: Graph) -> str:
    """Events by time, each on a line."""
    events = []
    for ref, model in graph.models.items():
        run = graph.made_by(model)
        if run is not None:
            events += _run_events(graph, model, run)
        elif model.version and graph.parents(ref):
            events.append(_dataset_event(graph, model))
    events.sort(key=lambda e: str(e["eventTime"]))
    return "".join(json.dumps(e, ensure_ascii=False) + "\n" for e in events)


def _run_events(graph: Graph, made: ExportedModel, run: RunDraft) -> list[dict[str, Any]]:
    parents = graph.parents(made.ref)
    inputs = list(dict.fromkeys(e.parent for e in parents if not e.declared))
    common = {
        "producer": _PRODUCER.format(version=graph.tool),
        "schemaURL": f"{_SPEC}/RunEvent",
        "run": {"runId": run.id, "facets": _run_facets(graph, run)},
        "job": {
            "namespace": graph.namespace,
            "name": f"{run.kind}/{run.method}",
            "facets": {
                "jobType": _facet(
                    graph,
                    "2-0-4/JobTypeJobFacet.json",
                    processingType="BATCH",
                    integration="ZOO",
                    jobType=run.kind.upper(),
                )
            },
        },
        "inputs": [_dataset(graph, graph.models[ref]) for ref in inputs],
    }
    output = _dataset(graph, made)
    output["facets"]["lineage"] = _lineage(graph, [e for e in parents if not e.declared])
    return [
        {"eventType": "START", "eventTime": run.started_at, **common, "outputs": []},
        {"eventType": "COMPLETE", "eventTime": run.ended_at, **common, "outputs": [output]},
    ]


def _dataset_event(graph: Graph, model: ExportedModel) -> dict[str, Any]:
    assert model.version is not None
    dataset = _dataset(graph, model)
    dataset["facets"]["lineage"] = _lineage(graph, graph.parents(model.ref))
    return {
        "eventTime": model.version.created_at,
        "producer": _PRODUCER.format(version=graph.tool),
        "schemaURL": f"{_SPEC}/DatasetEvent",
        "dataset": dataset,
    }


def _run_facets(graph: Graph, run: RunDraft) -> dict[str, Any]:
    given = run.recipe.get("parameters")
    values = dict(given) if isinstance(given, dict) else {}
    about = {
        "zoo.seed": run.seed,
        "zoo.recipe_digest": run.recipe_digest,
        "zoo.method_version": run.method_version,
        "zoo.plugin": f"{run.plugin} {run.plugin_version}",
        "zoo.code_hash": run.code_hash,
    }
    parameters = [
        {"key": key, "value": value if isinstance(value, str) else json.dumps(value)}
        for key, value in {**values, **about}.items()
    ]
    return {
        "executionParameters": _facet(
            graph, "1-0-0/ExecutionParametersRunFacet.json", parameters=parameters
        ),
        "processing_engine": _facet(
            graph,
            "1-1-1/ProcessingEngineRunFacet.json",
            name=TOOL,
            version=str(run.environment.get("zoo") or graph.tool),
        ),
    }


def _dataset(graph: Graph, model: ExportedModel) -> dict[str, Any]:
    facets: dict[str, Any] = {
        "datasetType": _facet(graph, "1-0-1/DatasetTypeDatasetFacet.json", datasetType="MODEL")
    }
    if model.version:
        facets["version"] = _facet(
            graph, "1-0-1/DatasetVersionDatasetFacet.json", datasetVersion=model.version.digest
        )
    if model.hub:
        hub = {"namespace": "https://huggingface.co", "name": model.hub.id, "type": "MODEL"}
        facets["symlinks"] = _facet(graph, "1-0-1/SymlinksDatasetFacet.json", identifiers=[hub])
    return {"namespace": graph.namespace, "name": model.ref, "facets": facets}


def _lineage(graph: Graph, edges: list[ExportedEdge]) -> dict[str, Any]:
    inputs = []
    for edge in edges:
        said = f"declared by {edge.evidence}" if edge.declared else ""
        weight = "" if edge.weight is None else f"weight {edge.weight:g}"
        how = ", ".join(part for part in (edge.role, weight, said) if part)
        inputs.append(
            {
                "namespace": graph.namespace,
                "name": edge.parent,
                "type": "DATASET",
                "transformations": [{"type": "DIRECT", "subtype": "MERGE", "description": how}]
                if edge.run
                else [{"type": "DIRECT", "description": how}],
            }
        )
    return _facet(graph, "1-0-0/LineageFacet.json#LineageDatasetFacet", inputs=inputs)


def _facet(graph: Graph, schema: str, **content: Any) -> dict[str, Any]:
    """A facet with its two required keys.

    Args:
        schema: file and definition: `1-0-0/LineageFacet.json#LineageDatasetFacet`; the definition
            is called as the file, where it is not given.
    """
    file, _, definition = schema.partition("#")
    name = definition or file.partition("/")[2].removesuffix(".json")
    return {
        "_producer": _PRODUCER.format(version=graph.tool),
        "_schemaURL": f"{_FACETS}/{file}#/$defs/{name}",
        **content,
    }
