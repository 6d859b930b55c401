"""Lineage in the formats of other tools is valid there, and says what the registry knows."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from exported_zoo import HOSTILE

from zoo import Registry, Version
from zoo.errors import InvalidRecipe


def events_of(registry: Registry, ref: str) -> list[dict[str, Any]]:
    lines = registry.export_lineage(ref, "openlineage").splitlines()
    return [json.loads(line) for line in lines]


def test_openlineage_has_a_start_and_an_end_of_every_run(shelf: Registry) -> None:
    both = shelf.get("both")
    run = shelf.catalog.run_of(both.id)
    zoo_id = shelf.catalog.owner.id

    events = events_of(shelf, "both")

    start, complete = (e for e in events if "run" in e)
    assert ["START", "COMPLETE"] == [start["eventType"], complete["eventType"]]
    assert [run.started_at, run.ended_at] == [start["eventTime"], complete["eventTime"]]
    assert {run.id} == {start["run"]["runId"], complete["run"]["runId"]}
    assert "merge/task_arithmetic" == complete["job"]["name"]
    assert ["qwen@1", "math@1", "code@1"] == [d["name"] for d in complete["inputs"]]
    (output,) = complete["outputs"]
    assert (f"zoo://{zoo_id}", "both@1") == (output["namespace"], output["name"])
    assert both.digest == output["facets"]["version"]["datasetVersion"]
    assert "MODEL" == output["facets"]["datasetType"]["datasetType"]
    assert ["base", "expert, weight 0.25", "expert, weight 0.75"] == [
        i["transformations"][0]["description"] for i in output["facets"]["lineage"]["inputs"]
    ]
    given = complete["run"]["facets"]["executionParameters"]["parameters"]
    values = {p["key"]: p["value"] for p in given}
    assert "[0.25, 0.75]" == values["weight"]
    assert run.recipe_digest == values["zoo.recipe_digest"]
    hub = complete["inputs"][0]["facets"]["symlinks"]["identifiers"][0]
    assert "Qwen/Qwen-tiny" == hub["name"]


def test_openlineage_tells_of_parents_whose_run_nobody_saw(shelf: Registry) -> None:
    events = [e["dataset"] for e in events_of(shelf, "last") if "dataset" in e]

    said = {
        d["name"]: [
            i["transformations"][0]["description"] for i in d["facets"]["lineage"]["inputs"]
        ]
        for d in events
    }
    assert {
        "math@1": ["base"],
        "code@1": ["base"],
        "tuned@1": ["base, declared by README.md base_model"],
        "odd@1": ["base, declared by adapter_config.json base_model_name_or_path"],
    } == said


FACETS = {
    "ExecutionParametersRunFacet": {"parameters"},
    "ProcessingEngineRunFacet": {"version", "name"},
    "JobTypeJobFacet": {"processingType", "integration", "jobType"},
    "DatasetTypeDatasetFacet": {"datasetType"},
    "DatasetVersionDatasetFacet": {"datasetVersion"},
    "SymlinksDatasetFacet": {"identifiers"},
    "LineageDatasetFacet": {"inputs"},
}
"""Definitions of the specification, and the properties that are used of each."""


def test_openlineage_events_have_the_parts_that_the_specification_asks_for(shelf: Registry) -> None:
    events = events_of(shelf, "last")

    assert events == sorted(events, key=lambda e: str(e["eventTime"]))
    for event in events:
        assert event["producer"].startswith("https://")
        kind = event["schemaURL"].partition("#/$defs/")[2]
        if kind == "RunEvent":
            assert UUID(event["run"]["runId"])
            assert event["job"]["namespace"] and event["job"]["name"]
            parts = [event["run"], event["job"], *event["inputs"], *event["outputs"]]
        else:
            assert "DatasetEvent" == kind
            assert "run" not in event and "job" not in event
            parts = [event["dataset"]]
        for part in parts:
            for facet in part["facets"].values():
                name = facet["_schemaURL"].partition("#/$defs/")[2]
                assert facet["_schemaURL"].startswith("https://openlineage.io/spec/facets/")
                assert {"_producer", "_schemaURL"} | FACETS[name] == set(facet)


def test_openlineages_own_client_takes_every_event(shelf: Registry) -> None:
    client = pytest.importorskip("openlineage.client.event_v2", reason="openlineage-python")
    from openlineage.client import facet_v2

    modules = [getattr(facet_v2, m) for m in dir(facet_v2)]
    for event in events_of(shelf, "last"):
        run, job = event.get("run"), event.get("job")
        if run is None:
            assert (
                client.DatasetEvent(
                    eventTime=event["eventTime"], dataset=client.StaticDataset(**event["dataset"])
                ).schemaURL
                == event["schemaURL"]
            )
            parts = [event["dataset"]]
        else:
            made = client.RunEvent(
                eventTime=event["eventTime"],
                eventType=client.RunState[event["eventType"]],
                run=client.Run(**run),
                job=client.Job(**job),
                inputs=[client.InputDataset(**d) for d in event["inputs"]],
                outputs=[client.OutputDataset(**d) for d in event["outputs"]],
            )
            assert made.schemaURL == event["schemaURL"]
            parts = [run, job, *event["inputs"], *event["outputs"]]
        for part in parts:
            for facet in part["facets"].values():
                name = facet["_schemaURL"].partition("#/$defs/")[2]
                known = next(getattr(m, name) for m in modules if hasattr(m, name))
                content = {k: v for k, v in facet.items() if not k.startswith("_")}
                assert facet["_schemaURL"] == known._get_schema()
                assert known(**content)


def bom_of(registry: Registry, ref: str, **asked: Any) -> dict[str, Any]:
    """A bill of materials, which the library's own schema accepts."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = registry.export_lineage(ref, "cyclonedx", **asked)
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert error is None, error
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_bill_of_materials_has_ancestors_hashes_and_the_model_card(shelf: Registry) -> None:
    bom = bom_of(shelf, "both")

    root = bom["metadata"]["component"]
    weights = (shelf.path("both") / "model.safetensors").read_bytes()
    assert ("machine-learning-model", "both", "1") == (
        root["type"],
        root["name"],
        root["version"],
    )
    assert [("qwen", "base"), ("math", "expert"), ("code", "expert")] == [
        (a["name"], next(p["value"] for p in a["properties"] if p["name"] == "zoo:role"))
        for a in root["pedigree"]["ancestors"]
    ]
    assert {
        "model.safetensors": [
            {"alg": "SHA-256", "content": hashlib.sha256(weights).hexdigest()},
        ]
    }.items() <= {c["name"]: c["hashes"] for c in root["components"]}.items()
    by_name = {c["name"]: c for c in bom["components"]}
    assert "pkg:huggingface/Qwen/Qwen-tiny@" + "a" * 40 == by_name["qwen"]["purl"]
    assert [{"license": {"id": "MIT"}}] == by_name["math"]["licenses"]
    assert [{"type": "accuracy", "value": "0.5", "slice": "test"}] == by_name["math"]["modelCard"][
        "quantitativeAnalysis"
    ]["performanceMetrics"]
    (workflow,) = bom["formulation"][0]["workflows"]
    assert shelf.get("both").run == workflow["uid"]
    assert ["merge"] == workflow["taskTypes"]


def test_a_bill_of_materials_is_valid_with_strangers_names_and_declared_parents(
    shelf: Registry,
) -> None:
    bom = bom_of(shelf, "last")

    by_name = {c["name"]: c for c in bom["components"]}
    assert "pkg:huggingface/meta-llama/Llama-3.1-8B" == by_name["meta-llama/Llama-3.1-8B"]["purl"]
    assert "purl" not in by_name[HOSTILE]
    assert [{"license": {"name": "gemma"}}] == by_name["tuned"]["licenses"]
    assert [{"name": "squad", "type": "dataset"}] == by_name["tuned"]["modelCard"][
        "modelParameters"
    ]["datasets"]
    refs = {c["bom-ref"] for c in [*bom["components"], bom["metadata"]["component"]]}
    assert refs == {d["ref"] for d in bom["dependencies"]}
    assert {r for d in bom["dependencies"] for r in d["dependsOn"]} <= refs


def spdx_of(registry: Registry, ref: str) -> dict[str, Any]:
    """A document that the SPDX project's own bindings read, and find nothing wrong with."""
    pytest.importorskip("spdx_python_model")
    from spdx_python_model.bindings import v3_0_1 as model

    text = registry.export_lineage(ref, "spdx")
    known = model.SHACLObjectSet()
    model.JSONLDDeserializer().deserialize_data(json.loads(text), known)
    assert model.JSONLDSerializer().serialize_data(known)
    assert not known.missing_ids
    found: dict[str, Any] = json.loads(text)
    return found


def test_spdx_has_models_runs_and_how_they_are_related(shelf: Registry) -> None:
    graph = spdx_of(shelf, "last")["@graph"]

    by_id = {e["spdxId"]: e for e in graph if "spdxId" in e}
    packages = {e["name"] for e in graph if e["type"] == "ai_AIPackage"}
    relations = {
        (by_id[e["from"]].get("name"), e["relationshipType"], by_id[to].get("name"))
        for e in graph
        if e["type"] == "Relationship"
        for to in e["to"]
    }
    declared = "meta-llama/Llama-3.1-8B"
    assert {"qwen", "math", "code", "both", "tuned", "odd", "last", declared} <= packages
    assert {
        ("both", "descendantOf", "math"),
        ("math", "descendantOf", "qwen"),
        ("tuned", "descendantOf", declared),
        ("tuned", "trainedOn", "squad"),
        ("both", "contains", "model.safetensors"),
        (None, "hasInput", "math"),
        (None, "hasOutput", "both"),
    } <= relations
    builds = [e for e in graph if e["type"] == "build_Build"]
    assert {shelf.get("both").run, shelf.get("last").run} == {b["build_buildId"] for b in builds}
    for element in graph:
        ends = [element.get("from"), *element.get("to", []), *element.get("rootElement", [])]
        assert all(end in by_id for end in ends if end)
    said = [e for e in graph if e.get("completeness") == "noAssertion"]
    assert 2 == len(said)


@pytest.mark.parametrize("form", ["openlineage", "cyclonedx", "spdx"])
def test_exports_repeat_and_tell_no_paths(shelf: Registry, form: str) -> None:
    first = shelf.export_lineage("last", form)

    assert first == shelf.export_lineage("last", form)
    assert str(Path(shelf.url).parent) not in first
    assert "/home/me/secret" not in first


@pytest.mark.parametrize("form", ["openlineage", "cyclonedx", "spdx"])
def test_a_removed_parent_is_exported_without_its_bytes(
    registry: Registry, family: dict[str, Version], form: str
) -> None:
    registry.remove("math@1")
    registry.gc(partial_age_days=0)

    found = registry.export_lineage("both", form)

    assert family["math"].digest in found


def test_descendants_are_exported_too(shelf: Registry) -> None:
    bom = bom_of(shelf, "qwen", descendants=True)

    assert {"math", "code", "both", "last"} == {c["name"] for c in bom["components"]}


def test_an_unknown_form_is_refused(shelf: Registry) -> None:
    with pytest.raises(InvalidRecipe, match="Did you mean `cyclonedx`"):
        shelf.export_lineage("both", "cyclondx")
