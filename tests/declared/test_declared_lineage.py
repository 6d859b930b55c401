"""Lineage shows what models say of themselves, apart from what the registry saw."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zoo import Registry
from zoo.catalog.declared_matches import Matches
from zoo.catalog.lineage import Lineage

Model = Callable[..., Path]


def edges(lineage: Lineage) -> list[tuple[Any, ...]]:
    """Parent, child, role and whether it is declared; by what it was matched."""
    return [
        (e["parent"], e["child"], e["role"], bool(e.get("declared")), e.get("matched"))
        for e in lineage.edges
    ]


def card(*base_models: str, more: str = "") -> dict[str, str]:
    return {"README.md": f"---\nbase_model: {json.dumps(base_models)}\n{more}---\n"}


def test_a_parent_that_is_not_registered_is_a_leaf(registry: Registry, model: Model) -> None:
    registry.register(model(card("meta-llama/Llama-3.1-8B")), name="tuned")

    lineage = registry.lineage("tuned")

    leaf = "declared:meta-llama/Llama-3.1-8B"
    assert [(leaf, "tuned@1", "base", True, None)] == edges(lineage)
    assert [leaf, "tuned@1"] == [n["ref"] for n in lineage.nodes]
    assert (
        "tuned@1 expert\n"
        "└── meta-llama/Llama-3.1-8B not registered [declared base]" == lineage.as_tree()
    )
    assert 'v0 -.->|"declared base"| v1' in lineage.as_mermaid()
    assert 'v0 -> v1 [label="declared base", style=dashed];' in lineage.as_dot()
    found = lineage.as_dict()
    assert [True] == [e["declared"] for e in found["edges"]]
    assert [True, False] == [n["declared"] for n in found["nodes"]]


@pytest.mark.parametrize(
    ("about", "by"),
    [
        ({"name": "qwen", "origin": "hf://Qwen/Qwen2@" + "b" * 40}, "hub"),
        ({"name": "qwen", "origin": "hf://Qwen/Qwen2"}, "hub"),
        ({"name": "qwen", "origin": "Qwen/Qwen2"}, "source"),
        ({"name": "Qwen/Qwen2"}, "name"),
    ],
)
def test_a_parent_is_known_by_where_it_is_from_or_by_its_name(
    registry: Registry, model: Model, about: dict[str, str], by: str
) -> None:
    known = registry.register(model(), **about)
    registry.register(model(card("Qwen/Qwen2")), name="tuned")

    assert [(known.ref, "tuned@1", "base", True, by)] == edges(registry.lineage("tuned"))
    assert [(known.ref, "tuned@1", "base", True, by)] == edges(
        registry.lineage(known.ref, descendants=True)
    )


def test_another_model_of_nearly_the_same_name_is_no_parent(
    registry: Registry, model: Model
) -> None:
    registry.register(model(), name="a", origin="hf://Qwen/Qwen2-7B@" + "b" * 40)
    registry.register(model(), name="b", origin="hf://Qwen/Qwen")
    registry.register(model(card("Qwen/Qwen2")), name="tuned")

    assert [None] == [e["matched"] for e in registry.lineage("tuned").edges]


def test_a_revision_that_is_registered_wins_over_newer_ones(
    registry: Registry, model: Model
) -> None:
    for commit in "ab":
        registry.register(model(), name="base", origin=f"hf://o/base@{commit * 40}")
    config = {"base_model_name_or_path": "o/base", "revision": "a" * 40}
    registry.register(model({"adapter_config.json": config}), name="tuned")
    registry.register(
        model({"adapter_config.json": {"base_model_name_or_path": "o/base"}}), name="newest"
    )

    assert [("base@1", "tuned@1", "base", True, "revision")] == edges(registry.lineage("tuned"))
    assert [("base@2", "newest@1", "base", True, "hub")] == edges(registry.lineage("newest"))


def test_trees_of_base_models_are_closed_over_what_is_registered(
    registry: Registry, model: Model
) -> None:
    registry.register(model(card("far/away")), name="root", origin="hf://o/root")
    registry.register(model(card("o/root")), name="middle", origin="hf://o/middle")
    registry.register(model(card("o/middle")), name="leaf")
    registry.register(model(), name="other", base="leaf")

    up = registry.lineage("other")
    down = registry.lineage("root", descendants=True)

    assert {
        ("declared:far/away", "root@1"),
        ("root@1", "middle@1"),
        ("middle@1", "leaf@1"),
        ("leaf@1", "other@1"),
    } == {(e["parent"], e["child"]) for e in up.edges}
    assert {("leaf@1", "other@1")} == {
        (e["parent"], e["child"]) for e in up.edges if not e.get("declared")
    }
    assert ["root@1", "middle@1", "leaf@1", "other@1"] == [n["ref"] for n in down.nodes]


def test_what_is_proved_is_not_declared_again(registry: Registry, model: Model) -> None:
    registry.register(model(), name="base", origin="hf://o/base@" + "c" * 40)
    registry.register(model(card("o/base")), name="tuned", base="base")

    assert [("base@1", "tuned@1", "base", False, None)] == edges(registry.lineage("tuned"))


def test_models_that_declare_each_other_or_themselves_end(registry: Registry, model: Model) -> None:
    registry.register(model(card("x/b")), name="a", origin="hf://x/a")
    registry.register(model(card("x/a")), name="b", origin="hf://x/b")
    registry.register(model(card("x/c")), name="c", origin="hf://x/c")

    assert [("b@1", "a@1"), ("a@1", "b@1")] == [
        (e["parent"], e["child"]) for e in registry.lineage("a").edges
    ]
    assert "(see above)" in registry.lineage("a").as_tree()
    assert ["declared:x/c"] == [e["parent"] for e in registry.lineage("c").edges]


def webui(parent: Path, name: str) -> dict[str, str]:
    digest = hashlib.sha256((parent / "model.safetensors").read_bytes()).hexdigest()
    recipe = {"primary_model_hash": digest, "interp_method": "No interpolation"}
    return {
        "sd_merge_recipe": json.dumps(recipe),
        "sd_merge_models": json.dumps({digest: {"name": name}}),
    }


def test_a_parent_is_known_by_the_sha256_of_its_file_once_files_are_hashed(
    registry: Registry, model: Model
) -> None:
    source = model(value=100.0)
    registry.register(source, name="sdxl")
    registry.register(model(metadata=webui(source, "sdxl.safetensors")), name="mix")

    before = registry.lineage("mix")
    hashed = registry.lineage("mix", hash_files=True)
    after = registry.lineage("mix")

    assert [None] == [e["matched"] for e in before.edges]
    assert [("sdxl@1", "mix@1", "expert", True, "sha256")] == edges(hashed)
    assert edges(hashed) == edges(after)
    assert edges(hashed) == edges(registry.lineage("sdxl", descendants=True))


def test_a_torch_file_is_known_by_the_sha256_it_had(
    registry: Registry, model: Model, tmp_path: Path
) -> None:
    import torch

    torch.save({"w": torch.ones(3)}, tmp_path / "v1.ckpt")
    digest = hashlib.sha256((tmp_path / "v1.ckpt").read_bytes()).hexdigest()
    registry.register(tmp_path / "v1.ckpt", name="v1")
    metadata = {"ss_sd_model_name": "v1-5.ckpt", "ss_new_sd_model_hash": digest}
    registry.register(model(metadata=metadata), name="lora")

    assert [("v1@1", "lora@1", "base", True, "sha256")] == edges(registry.lineage("lora"))


def test_a_name_says_nothing_where_bytes_are_given(registry: Registry, model: Model) -> None:
    registry.register(model(), name="sdxl")
    metadata = {"ss_sd_model_name": "sdxl.safetensors", "ss_new_sd_model_hash": "d" * 64}
    registry.register(model(metadata=metadata), name="lora")
    registry.register(model(metadata={"ss_sd_model_name": "sdxl.safetensors"}), name="unsure")

    assert [None] == [e["matched"] for e in registry.lineage("lora").edges]
    assert [("sdxl@1", "unsure@1", "base", True, "name")] == edges(registry.lineage("unsure"))


def test_merges_of_merges_in_metadata_are_a_tree(registry: Registry, model: Model) -> None:
    a, b = "a" * 64, "b" * 64
    inner = {"primary_model_hash": b, "interp_method": "No interpolation"}
    outer = {"primary_model_hash": a, "interp_method": "No interpolation"}
    models = {a: {"name": "A", "sd_merge_recipe": inner}, b: {"name": "B"}}
    metadata = {"sd_merge_recipe": json.dumps(outer), "sd_merge_models": json.dumps(models)}
    registry.register(model(metadata=metadata), name="mix")

    assert (
        "mix@1 expert\n"
        "└── A not registered [declared expert]\n"
        "    └── B not registered [declared expert]" == registry.lineage("mix").as_tree()
    )


def test_an_exported_merge_that_comes_back_is_tied_to_its_parents_by_their_weights(
    registry: Registry, model: Model, tmp_path: Path
) -> None:
    for name in ("base", "a", "b"):
        registry.register(model(), name=name)
    registry.merge(method="task_arithmetic", base="base", experts=["a", "b"], name="both")
    registry.export("both", tmp_path / "out")

    registry.register(tmp_path / "out", name="again", kind="merge")

    assert {
        ("base@1", "again@1", "base", True, "weights"),
        ("a@1", "again@1", "expert", True, "weights"),
        ("b@1", "again@1", "expert", True, "weights"),
    } == set(edges(registry.lineage("again")))


def test_names_of_strangers_break_no_drawing(registry: Registry, model: Model) -> None:
    name = 'x"]; evil --> y\x1b[31m<b>`#\\'
    registry.register(model({"adapter_config.json": {"base_model_name_or_path": name}}), name="m")

    lineage = registry.lineage("m")

    assert "\x1b" not in lineage.as_tree() + lineage.as_dot() + lineage.as_mermaid()
    assert r'label="x\"]; evil --> y?[31m<b>`#\\\nnot registered"' in lineage.as_dot()
    assert 'v0["x#quot;]; evil --#gt; y?[31m#lt;b#gt;#96;#35;' in lineage.as_mermaid()


def test_a_merge_here_has_no_declared_edges(registry: Registry, model: Model) -> None:
    registry.register(model(), name="a", origin="hf://o/a")
    registry.register(model(), name="b")
    registry.merge(method="linear", experts=["a", "b"], name="m")

    assert {False} == {e["declared"] for e in registry.lineage("m").as_dict()["edges"]}


def test_a_parent_that_many_declare_is_looked_for_once(
    registry: Registry, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.register(model(), name="base", origin="hf://o/base")
    for i in range(4):
        registry.register(model(card("o/base")), name=f"tuned-{i}")
    asked = []
    real = Matches._fitting
    monkeypatch.setattr(Matches, "_fitting", lambda *a: asked.append(1) or real(*a))

    lineage = registry.lineage("base", descendants=True)

    assert 4 == len(lineage.edges)
    assert len(asked) <= 5  # one for each way that a parent may be known by
