"""What a merge leaves on record: parents, recipe, code, environment, and files beside weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import datetime
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import torch
import zoo_plugins.ties
from small_models import State, family, write

import zoo
from zoo import Registry
from zoo.contract import CHUNK
from zoo.digest import json_digest
from zoo.plugins import load_plugins

Register = Callable[..., zoo.Version]


@pytest.fixture
def version(registry: Registry, members: list[State]) -> zoo.Version:
    made = registry.merge(
        {
            "method": "ties",
            "base": "base",
            "select": {"where": "task in ('task-a', 'task-b')", "order_by": "name", "limit": 2},
            "parameters": {"density": [0.5, 0.25], "weight": [1.0, -0.5], "lambda": 0.75},
            "seed": 11,
            "dtype": "bfloat16",
        },
        name="merged",
        task="both",
        phase="IV-B",
        tags={"team": "blue"},
        threads=2,
        memory="700MiB",
    )
    assert made is not None
    return made


def test_the_run_says_what_was_done(registry: Registry, version: zoo.Version) -> None:
    run = registry.catalog.run_of(version.id)
    assert run is not None
    base, a, b = (registry.get(n) for n in ("base", "a", "b"))

    files = registry.catalog.files(base.id)
    (config,) = (f.object for f in files if f.path == "config.json")
    assert {
        "format": 1,
        "method": "ties",
        "method_version": "1.0.0",
        "base": base.digest,
        "experts": [a.digest, b.digest],
        "configs": [config] * 3,
        "parameters": {
            "density": [0.5, 0.25],
            "weight": [1.0, -0.5],
            "lambda": 0.75,
            "merge": "mean",
            "rescale": "none",
            "scope": "global",
            "trim": "exact",
            "zero_sign": "majority",
        },
        "slices": None,
        "exclude": [],
        "missing": None,
        "mismatch": None,
        "compat": None,
        "donor": None,
        "tokenizer": None,
        "chat_template": None,
        "seed": 11,
        "dtype": "BF16",
        "data": None,
        "max_norm_drift": 100.0,
        "chunk": CHUNK,
        "shard_bytes": 5_000_000_000,
    } == dict(run.recipe)
    assert json_digest(run.recipe) == run.recipe_digest
    assert ("merge", "ties", "1.0.0", 11) == (run.kind, run.method, run.method_version, run.seed)
    assert ("zoo-registry", installed("zoo-registry")) == (run.plugin, run.plugin_version)
    modules = (
        zoo.stages.magnitude,
        zoo.stages.rescale,
        zoo.stages.signs,
        zoo.stages.sums,
        zoo_plugins.ties,
    )
    source = b"".join(Path(module.__file__).read_bytes() for module in modules)
    assert "sha256:" + hashlib.sha256(source).hexdigest() == run.code_hash
    assert {
        "where": "task in ('task-a', 'task-b')",
        "order_by": "name",
        "limit": 2,
        "frozen": [f"a@1@{a.digest}", f"b@1@{b.digest}"],
    } == run.selection
    assert run.id == version.run and UUID(run.id).version == 4


def test_the_run_says_where_and_how_long(registry: Registry, version: zoo.Version) -> None:
    run = registry.catalog.run_of(version.id)
    assert run is not None

    environment = run.environment
    assert (2, 700 << 20, "cpu") == tuple(environment[k] for k in ("threads", "memory", "device"))
    assert torch.__version__ == environment["torch"]
    assert {"zoo", "python", "numpy", "platform", "machine", "cpu_capability"} <= set(environment)
    assert {} == environment["plugins"]
    started, ended = (datetime.fromisoformat(t) for t in (run.started_at, run.ended_at))
    assert started.tzinfo is not None and started <= ended
    assert {"plan", "merge"} <= set(run.timings) and all(t >= 0 for t in run.timings.values())
    assert sum(run.timings.values()) <= (ended - started).total_seconds() + 0.1


def test_the_run_names_every_plugin_that_may_have_had_a_hand_in_it(
    zoo_path: Path, members: list[State], tmp_path: Path
) -> None:
    (tmp_path / "plugins").mkdir()
    file = tmp_path / "plugins" / "watcher.py"
    file.write_text(
        "import zoo\n__version__ = '3'\n@zoo.hookimpl\ndef zoo_before_merge(recipe): pass\n"
    )
    with zoo.open(zoo_path, plugins=load_plugins([tmp_path / "plugins"])) as registry:
        merged = registry.merge(method="linear", experts=["a", "b"], name="m")
        run = registry.catalog.run_of(merged.id)

    code = "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()
    assert {
        "watcher": {"distribution": "watcher.py", "version": "3", "code_hash": code}
    } == run.environment["plugins"]


def test_each_parent_is_an_edge_with_its_role_and_weight(
    registry: Registry, version: zoo.Version
) -> None:
    lineage = registry.lineage("merged")

    edges = {(e["parent"], e["child"]): (e["role"], e["weight"], e["run"]) for e in lineage.edges}
    assert {
        ("base@1", "merged@1"): ("base", None, version.run),
        ("a@1", "merged@1"): ("expert", 1.0, version.run),
        ("b@1", "merged@1"): ("expert", -0.5, version.run),
        ("base@1", "a@1"): ("base", None, None),
        ("base@1", "b@1"): ("base", None, None),
    } == edges
    assert {"base@1", "a@1", "b@1", "merged@1"} == {n["ref"] for n in lineage.nodes}
    down = registry.lineage("base", descendants=True)
    assert {"a@1", "b@1", "c@1", "merged@1", "base@1"} == {n["ref"] for n in down.nodes}


def test_lineage_goes_through_merges_of_merges_and_past_removed_ones(
    registry: Registry, members: list[State]
) -> None:
    registry.merge(method="linear", experts=["a", "b"], name="first")
    registry.merge(method="linear", experts=["first", "c"], name="second")
    registry.remove("first", "not needed")

    lineage = registry.lineage("second")

    refs = {n["ref"]: n["removed"] for n in lineage.nodes}
    assert {"second@1", "first@1", "a@1", "b@1", "c@1", "base@1"} == set(refs)
    assert ["first@1"] == [ref for ref, removed in refs.items() if removed]
    assert "first@1" in lineage.as_tree()


def test_the_version_says_what_it_is(registry: Registry, version: zoo.Version) -> None:
    floats = 84 + 12 + 84 + 7 + 7 + 1
    shown = version.as_dict()

    expected: dict[str, Any] = {
        "name": "merged",
        "version": 1,
        "kind": "merge",
        "base": "base@1",
        "task": "both",
        "phase": "IV-B",
        "license": "mit",
        "architecture": "tiny",
        "parameters": floats,
        "bytes": 2 * floats + 8,
        "tags": {"team": "blue"},
        "source": "merge:ties",
    }
    assert expected.items() <= shown.items()
    assert str(registry.path("merged")) == shown["path"]
    assert "1 BatchNorm statistics" in shown["notes"]["warnings"][0]


def test_the_license_is_what_those_of_the_experts_come_to(
    registry: Registry, register: Register
) -> None:
    for name, license in (("a", "mit"), ("b", "mit"), ("c", "gpl-3.0"), ("d", "gemma")):
        register(name, {"w": torch.ones(2)}, license=license)

    def merged(experts: list[str], **options: Any) -> str | None:
        version = registry.merge(method="linear", experts=experts, name="m", **options)
        assert version is not None
        return version.license

    assert "mit" == merged(["a", "b"])
    assert "gpl-3.0" == merged(["a", "c"])
    assert merged(["c", "d"]) is None
    assert "lgpl" == merged(["a", "c"], license="lgpl")


def test_configuration_and_tokenizer_come_from_the_base_and_the_card_does_not(
    registry: Registry, tmp_path: Path
) -> None:
    base, a, b = family(2)
    for name, state in (("base", base), ("a", a), ("b", b)):
        directory = write(tmp_path / name, state, whose=name)
        (directory / "tokenizer.json").write_text(f'"{name}"')
        (directory / "modeling.py").write_text(f"# {name}")
        (directory / "README.md").write_text(f"# About {name}")
        (directory / "mergekit_config.yml").write_text("old: news")
        registry.register(directory, name=name, base=None if name == "base" else "base")

    registry.merge(method="ties", experts=["a", "b"], name="m")
    registry.merge(method="linear", experts=["b", "a"], name="n")

    for name, donor in (("m", "base"), ("n", "b")):
        path = registry.path(name)
        assert {
            "model.safetensors",
            "config.json",
            "tokenizer.json",
            "modeling.py",
            "zoo_recipe.json",
            "README.md",
        } == {p.name for p in path.iterdir()} - {"mergekit_config.yml"}
        assert f"# About {donor}" not in (path / "README.md").read_text()
        assert f'"{donor}"' == (path / "tokenizer.json").read_text()
        assert donor == json.loads((path / "config.json").read_text())["whose"]


def test_the_directory_tells_the_recipe_that_made_it(
    registry: Registry, version: zoo.Version, tmp_path: Path
) -> None:
    exported = registry.export("merged", tmp_path / "exported")

    told = json.loads((exported / "zoo_recipe.json").read_text())

    run = registry.catalog.run_of(version.id)
    assert run is not None
    assert {"recipe": dict(run.recipe), "recipe_digest": run.recipe_digest} == told
    assert not any(p.is_symlink() for p in exported.rglob("*"))


def test_a_merge_of_a_merge_has_one_recipe_file_its_own(
    registry: Registry, version: zoo.Version
) -> None:
    again = registry.merge(method="linear", experts=["merged", "merged"], name="again")
    assert again is not None

    told = json.loads((registry.path("again") / "zoo_recipe.json").read_text())

    assert "linear" == told["recipe"]["method"]
    assert again.digest == version.digest


def test_merging_the_same_twice_stores_the_bytes_once(
    registry: Registry, version: zoo.Version
) -> None:
    registry.merge(method="linear", experts=["a", "b"], name="m")
    before = {key for key, _, _ in registry.store.objects()}

    again = registry.merge(method="linear", experts=["a", "b"], name="other")

    assert again is not None
    assert before == {key for key, _, _ in registry.store.objects()}
    assert registry.get("m").digest == again.digest


def test_the_audit_log_holds_the_merge(registry: Registry, version: zoo.Version) -> None:
    events = registry.catalog.events()

    assert any("merged@1" in json.dumps(e, default=str) for e in events)
    assert [] == registry.catalog.check_audit()
