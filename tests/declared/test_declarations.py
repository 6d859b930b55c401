"""What each convention says of parents and licences is read as its authors wrote it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zoo.checkpoint import Opened
from zoo.declared import Declared, read_declared

Model = Callable[..., Path]
SHA = {name: (name * 64)[:64] for name in "abcdef"}


def declared(folder: Path) -> Declared:
    """What the files of a directory declare."""
    beside = {p.name: p for p in folder.iterdir() if p.suffix != ".safetensors"}
    weights = {p.name: p for p in folder.glob("*.safetensors")}
    return read_declared(Opened(str(folder), weights, beside))


def said(found: Declared, *keys: str) -> list[tuple[Any, ...]]:
    """The parents, by these attributes."""
    return [tuple(getattr(p, k) for k in keys) for p in found.parents]


MERGEKIT = """\
models:
  - model: psmathur/orca_mini_v3_13b@main
    parameters: {density: [1, 0.7, 0.1], weight: 1.0}
  - model: garage-bAInd/Platypus2-13B
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1]
  - model:
      model: {path: WizardLM/WizardMath, revision: v1}
      lora: {path: some/lora}
merge_method: ties
base_model: TheBloke/Llama-2-13B-fp16
parameters: {normalize: true}
dtype: float16
"""


def test_a_mergekit_configuration_names_base_experts_and_plain_weights(model: Model) -> None:
    found = declared(model({"mergekit_config.yml": MERGEKIT}))

    assert [
        ("TheBloke/Llama-2-13B-fp16", "base", None, None),
        ("psmathur/orca_mini_v3_13b", "expert", 1.0, "main"),
        ("garage-bAInd/Platypus2-13B", "expert", None, None),
        ("WizardLM/WizardMath", "expert", None, "v1"),
    ] == said(found, "model", "role", "weight", "revision")
    assert "ties" == found.facts["mergekit"]["merge_method"]
    assert {"normalize": True} == found.facts["mergekit"]["parameters"]


def test_slices_modules_and_stages_of_mergekit_name_their_models_once(model: Model) -> None:
    document = (
        "name: first\nmerge_method: linear\nmodels: [{model: not/this}]\n---\n"
        "merge_method: passthrough\nslices:\n"
        "- sources: [{model: a/x, layer_range: [0, 2]}]\n"
        "- sources: [{model: b/y+c/lora, layer_range: [1, 3]}]\n"
        "- sources: [{model: a/x, layer_range: [2, 4]}]\n"
        "modules: {text: {slices: [{sources: [{model: d/z}]}]}}\n"
    )

    found = declared(model({"mergekit_config.yml": document}))

    assert [("a/x", "expert"), ("b/y", "expert"), ("d/z", "expert")] == said(found, "model", "role")


def test_mergekits_card_is_read_where_its_configuration_is_missing(model: Model) -> None:
    card = (
        "---\nbase_model:\n- x/one\n- x/two\ntags: [mergekit, merge]\nlicense: apache-2.0\n---\n"
        f"# merge\n\n```yaml\n{MERGEKIT}```\n"
    )

    found = declared(model({"README.md": card}))

    assert "apache-2.0" == found.license
    assert "TheBloke/Llama-2-13B-fp16" == found.parents[0].model
    assert {"README.md recipe"} == {p.evidence for p in found.parents}
    assert ["x/one", "x/two"] == found.facts["card"]["base_model"]


@pytest.mark.parametrize(
    ("front", "parents"),
    [
        ("base_model: a/b", [("a/b", "base")]),
        ("base_model: [a/b]\nbase_model_relation: quantized", [("a/b", "base")]),
        ("base_model: a/b\nbase_model_relation: adapter", [("a/b", "base")]),
        ("base_model: a/b\nbase_model_relation: merge", [("a/b", "parent")]),
        ("base_model: a/b\ntags: [merge]", [("a/b", "parent")]),
        ("base_model:\n- a/b\n- c/d\n- a/b", [("a/b", "parent"), ("c/d", "parent")]),
        ("base_model: {a: b}", []),
        ("base_model: [1, null, '']", []),
    ],
)
def test_a_card_names_its_base_model(
    model: Model, front: str, parents: list[tuple[str, str]]
) -> None:
    found = declared(model({"README.md": f"---\n{front}\n---\nHello"}))

    assert parents == said(found, "model", "role")


@pytest.mark.parametrize(
    ("front", "licence"),
    [
        ("license: mit", "mit"),
        ("license: other\nlicense_name: llama3\nlicense_link: LICENSE", "llama3"),
        ("license: other", "other"),
        ("license: [mit, apache-2.0]", "mit"),
        ("license: 3", None),
        ("license: ''", None),
    ],
)
def test_a_card_says_the_licence(
    registry: Any, model: Model, front: str, licence: str | None
) -> None:
    folder = model({"README.md": f"---\n{front}\ndatasets: [squad]\n---\n"})

    version = registry.register(folder, name="m")

    assert licence == version.license
    assert ["squad"] == version.notes["declared"]["facts"]["card"]["datasets"]


def test_an_adapter_names_the_model_it_was_trained_on(model: Model) -> None:
    config = {"peft_type": "LORA", "base_model_name_or_path": "meta/x", "revision": None, "r": 8}
    card = "---\nbase_model: somebody/else\nlibrary_name: peft\n---\n"

    found = declared(model({"adapter_config.json": config, "README.md": card}))

    assert [("meta/x", "base", "adapter_config.json base_model_name_or_path")] == said(
        found, "model", "role", "evidence"
    )


def webui(a: str, b: str, c: str | None, method: str, multiplier: float) -> dict[str, Any]:
    """A recipe as A1111's `run_modelmerger` writes it."""
    return {
        "type": "webui",
        "primary_model_hash": a,
        "secondary_model_hash": b,
        "tertiary_model_hash": c,
        "interp_method": method,
        "multiplier": multiplier,
        "save_as_half": False,
        "custom_name": "",
        "config_source": 0,
        "bake_in_vae": "None",
        "discard_weights": "",
        "is_inpainting": False,
        "is_instruct_pix2pix": False,
    }


def test_a_merge_of_the_web_ui_is_a_tree_of_files_by_sha256(model: Model) -> None:
    inner = webui(SHA["a"], SHA["b"], SHA["c"], "Add difference", 0.4)
    outer = webui(SHA["d"], SHA["e"], None, "Weighted sum", 0.3)
    models = {
        SHA["d"]: {"name": "mix.safetensors", "legacy_hash": "12345678", "sd_merge_recipe": inner},
        SHA["e"]: {"name": "e.ckpt", "legacy_hash": "abcdef01", "sd_merge_recipe": None},
        **{
            SHA[n]: {"name": f"{n}.safetensors", "legacy_hash": None, "sd_merge_recipe": None}
            for n in "abc"
        },
    }
    metadata = {"sd_merge_recipe": json.dumps(outer), "sd_merge_models": json.dumps(models)}

    found = declared(model(metadata=metadata))

    assert [
        ("mix.safetensors", "expert", 0.7, f"sha256:{SHA['d']}"),
        ("e.ckpt", "expert", 0.3, f"sha256:{SHA['e']}"),
    ] == said(found, "model", "role", "weight", "digest")
    assert [
        ("a.safetensors", "expert", 1.0),
        ("b.safetensors", "expert", 0.4),
        ("c.safetensors", "base", None),
    ] == [(p.model, p.role, p.weight) for p in found.parents[0].parents]
    assert () == found.parents[1].parents


def test_recipes_of_other_tools_are_followed_by_the_hashes_they_hold(model: Model) -> None:
    recipe = {"type": "sd-webui-model-mixer", "models": [{"hash": SHA["a"]}, {"hash": SHA["b"]}]}
    models = {SHA[n]: {"name": n} for n in "abc"}
    metadata = {"sd_merge_recipe": json.dumps(recipe), "sd_merge_models": json.dumps(models)}

    found = declared(model(metadata=metadata))

    assert [("a", "parent"), ("b", "parent")] == said(found, "model", "role")


def test_models_that_no_recipe_names_are_the_parents(model: Model) -> None:
    models = {SHA["a"]: {"name": "a", "sd_merge_recipe": {"x": SHA["b"]}}, SHA["b"]: {"name": "b"}}

    found = declared(model(metadata={"sd_merge_models": json.dumps(models)}))

    assert [("a",)] == said(found, "model")
    assert "b" == found.parents[0].parents[0].model


def test_modelspec_names_what_it_was_merged_from(model: Model) -> None:
    metadata = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.title": "Mine",
        "modelspec.author": "Somebody",
        "modelspec.license": "CreativeML Open RAIL-M",
        "modelspec.merged_from": "Base, Other one,Base",
        "modelspec.thumbnail": "data:image/jpeg;base64," + "A" * 50_000,
    }

    found = declared(model(metadata=metadata))

    assert "CreativeML Open RAIL-M" == found.license
    assert [("Base", "parent"), ("Other one", "parent")] == said(found, "model", "role")
    assert {"author", "merged_from", "sai_model_spec", "title"} == set(found.facts["modelspec"])


def test_kohyas_metadata_names_the_model_trained_on(model: Model) -> None:
    metadata = {
        "ss_sd_model_name": "sdxl.safetensors",
        "ss_sd_model_hash": "e6bb9ea8",
        "ss_new_sd_model_hash": SHA["f"].upper(),
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_tag_frequency": "{}" * 10_000,
    }

    found = declared(model(metadata=metadata))

    assert [("sdxl.safetensors", "base", f"sha256:{SHA['f']}")] == said(
        found, "model", "role", "digest"
    )
    assert "ss_tag_frequency" not in found.facts["kohya"]


def test_a_model_that_says_nothing_declares_nothing(model: Model) -> None:
    assert Declared() == declared(model({"README.md": "# Hello\n---\nbase_model: a/b\n---\n"}))


def test_our_own_merge_is_read_back_with_roles_weights_and_digests(
    registry: Any, model: Model, tmp_path: Path
) -> None:
    for name in ("base", "a", "b"):
        registry.register(model(), name=name)
    registry.merge(
        method="task_arithmetic",
        base="base",
        experts=["a", "b"],
        parameters={"weight": [0.25, 0.5]},
        name="both",
    )
    registry.export("both", tmp_path / "out")

    whole = declared(tmp_path / "out")
    (tmp_path / "out" / "README.md").unlink()
    recipe_only = declared(tmp_path / "out")

    digests = [registry.get(n).digest for n in ("base", "a", "b")]
    weights = [None, 0.25, 0.5]
    assert [("base@1", "base"), ("a@1", "expert"), ("b@1", "expert")] == said(
        whole, "model", "role"
    )
    assert digests == [p.weights for p in whole.parents] == [p.weights for p in recipe_only.parents]
    assert weights == [p.weight for p in whole.parents] == [p.weight for p in recipe_only.parents]
    assert "task_arithmetic" == recipe_only.facts["zoo"]["method"]
