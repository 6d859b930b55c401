"""Every merge has a card that says what made it, in words that make it again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_models import State, family, write

import zoo
from zoo import Registry
from zoo.plugins import Plugins, load_plugins

METHODS = load_plugins().methods
REQUIRED = {"lines": {"beta": 2.0}, "nearswap": {"t": 0.01}, "slerp": {"t": 0.3}}
REQUIRED |= {name: {"weight": [0.7, 0.3]} for name in ("multislerp", "nuslerp")}


def recipe_for(name: str, **parameters: Any) -> dict[str, Any]:
    """A recipe for any method, of the models that `members` registers."""
    method = METHODS[name]
    experts = ["a", "b", "c"][: min(method.max_experts or 3, 3)]
    values = {**REQUIRED.get(name, {}), **parameters}
    if "weight" in values:
        values["weight"] = [0.7, 0.3, 0.2][: len(experts)]
    found = {"method": name, "experts": experts, "parameters": values}
    return {**found, "base": "base"} if method.base == "required" else found


def parts(card: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The front matter, and the recipe."""
    _, front, body = card.split("---\n", 2)
    found = re.search(r"^(`{3,})yaml\n(.*?)^\1$", body, re.M | re.S)
    return yaml.safe_load(front), yaml.safe_load(found.group(2)) if found else None


Files = Callable[..., dict[str, str]]


@pytest.fixture
def made(registry: Registry) -> Files:
    """Merge, and read the card and mergekit's document of the result."""
    numbers = iter(range(100))

    def run(recipe: Mapping[str, Any] | None = None, **asked: Any) -> dict[str, str]:
        version = registry.merge(recipe, name=f"merged-{next(numbers)}", **asked)
        assert version is not None
        directory = registry.path(version.ref)
        names = ("README.md", "mergekit_config.yml")
        return {n: (directory / n).read_text() for n in names if (directory / n).exists()}

    return run


def test_a_card_says_method_parents_and_digests(
    registry: Registry, members: list[State], made: Files
) -> None:
    card = made({"method": "ties", "base": "base", "experts": ["a", "b"]})["README.md"]

    front, recipe = parts(card)
    assert ["base@1", "a@1", "b@1"] == front["base_model"]
    assert "merge" == front["base_model_relation"]
    assert "mit" == front["license"]
    assert {"merge", "zoo", "ties"} <= set(front["tags"])
    assert recipe is not None and ["a@1", "b@1"] == recipe["experts"]
    for ref in ("base", "a", "b", "merged-0"):
        assert registry.get(ref).digest in card
    assert METHODS["ties"].summary in card
    assert "| `density` |" in card


def test_a_card_knows_neither_time_nor_place_nor_its_own_name(
    registry: Registry, members: list[State], made: Files, tmp_path: Path
) -> None:
    recipe = {"method": "linear", "experts": ["a", "b"]}

    first, second = made(recipe), made(recipe)
    registry.merge(recipe, out=tmp_path / "out")

    assert first == second
    assert first["README.md"] == (tmp_path / "out" / "README.md").read_text()
    assert str(tmp_path) not in first["README.md"]


def test_a_directory_names_models_as_the_recipe_does(
    registry: Registry, members: list[State], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "models" / "loose", members[1])

    registry.merge(method="linear", experts=["models/loose", "b"], out=tmp_path / "out")

    front, _ = parts((tmp_path / "out" / "README.md").read_text())
    assert ["models/loose", "b@1"] == front["base_model"]
    assert "license" not in front


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, plugins: Plugins) -> Iterator[Registry]:
    """The models that `members` registers, once for all methods."""
    root = tmp_path_factory.mktemp("shelf")
    with zoo.open(root / "registry.db", plugins=plugins) as registry:
        for name, state in zip(("base", "a", "b", "c"), family(3), strict=True):
            registry.register(write(root / name, state), name=name)
        yield registry


def card_files(registry: Registry, recipe: Mapping[str, Any], out: Path) -> dict[str, str]:
    """Merge into a directory, and read what it says of itself."""
    registry.merge(recipe, out=out)
    names = ("README.md", "mergekit_config.yml")
    return {n: (out / n).read_text() for n in names if (out / n).exists()}


@pytest.mark.parametrize("name", [n for n in METHODS if not METHODS[n].artifacts])
def test_the_recipe_in_a_card_is_the_recipe(name: str, shelf: Registry, tmp_path: Path) -> None:
    _, recipe = parts(card_files(shelf, recipe_for(name), tmp_path / "out")["README.md"])

    assert recipe is not None
    assert shelf.plan(recipe).lock == shelf.plan(recipe_for(name)).lock


ENTRIES = [(n, entry) for n, m in METHODS.items() for entry in m.mergekit]


@pytest.mark.parametrize(("name", "entry"), ENTRIES, ids=[e.name for _, e in ENTRIES])
def test_mergekits_document_makes_the_same_model(
    name: str, entry: zoo.Mergekit, shelf: Registry, tmp_path: Path
) -> None:
    files = card_files(shelf, recipe_for(name, **entry.sets), tmp_path / "out")

    document = yaml.safe_load(files["mergekit_config.yml"])
    shelf.merge(document, out=tmp_path / "again")
    assert document["merge_method"] in {e.name for e in METHODS[name].mergekit}
    weights = [(tmp_path / d / "model.safetensors").read_bytes() for d in ("out", "again")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("vectors", ["flat", "rows", "columns"])
def test_two_switches_of_mergekit_say_one_parameter(
    vectors: str, shelf: Registry, tmp_path: Path
) -> None:
    files = card_files(shelf, recipe_for("nuslerp", vectors=vectors), tmp_path / "out")

    document = yaml.safe_load(files["mergekit_config.yml"])
    switches = document["parameters"]
    assert (vectors == "flat") == switches["nuslerp_flatten"]
    assert vectors == "flat" or (vectors == "columns") == switches["nuslerp_row_wise"]
    assert vectors == shelf.plan(document).lock["parameters"]["vectors"]


LAYERS = [f"model.layers.{i}.{part}.weight" for i in range(4) for part in ("self_attn", "mlp")]


@pytest.fixture
def stacks(register: Callable[..., zoo.Version]) -> None:
    """Two models of four layers."""
    generator = torch.Generator().manual_seed(0)
    names = ["model.embed_tokens.weight", *LAYERS, "model.norm.weight", "lm_head.weight"]
    for name in ("left", "right"):
        state = {n: torch.randn(5, 4, generator=generator) for n in names}
        register(name, state, config={"num_hidden_layers": 4, "model_type": "llama"})


STACKED: list[dict[str, Any]] = [
    {
        "method": "passthrough",
        "slices": [
            {"sources": [{"model": "left", "layers": [0, 3]}]},
            {"sources": [{"model": "right", "layers": [1, 4], "scale": 0.5}]},
        ],
    },
    {
        "method": "linear",
        "slices": [
            {
                "sources": [
                    {"model": "left", "layers": [0, 2], "weight": 0.7},
                    {"model": "right", "layers": [2, 4], "weight": 0.3},
                ],
                "parameters": {"normalize": False},
            }
        ],
    },
    {
        "method": "task_arithmetic",
        "base": "left",
        "slices": [{"sources": [{"model": "right", "layers": [0, 2], "weight": 0.4}]}],
    },
    {
        "merge_method": "slerp",
        "base_model": "left",
        "slices": [
            {"sources": [{"model": m, "layer_range": [0, 4]} for m in ("left", "right")]},
        ],
        "parameters": {"t": [{"filter": "mlp", "value": [0, 0.5, 1]}, {"value": 0.3}]},
    },
]


@pytest.mark.parametrize("recipe", STACKED, ids=["depth", "average", "deltas", "arc"])
def test_slices_are_said_again_in_both_forms(
    recipe: dict[str, Any], registry: Registry, stacks: None, made: Files
) -> None:
    files = made(recipe)

    _, ours = parts(files["README.md"])
    for again in (ours, yaml.safe_load(files["mergekit_config.yml"])):
        version = registry.merge(again, name="again")
        assert version is not None
        assert registry.get("merged-0").digest == version.digest


def test_rules_and_gradients_are_said_again(registry: Registry, stacks: None, made: Files) -> None:
    rules = [{"filter": "mlp", "value": {"gradient": [0, 0.5, 1]}}, {"value": 0.25}]
    recipe = {
        "method": "linear",
        "compat": "mergekit",
        "experts": ["left", {"model": "right", "weight": rules}],
    }

    files = made(recipe)

    _, ours = parts(files["README.md"])
    theirs = yaml.safe_load(files["mergekit_config.yml"])
    assert [0, 0.5, 1] == theirs["models"][1]["parameters"]["weight"][0]["value"]
    for again in (ours, theirs):
        version = registry.merge(again, name="again")
        assert version is not None and registry.get("merged-0").digest == version.digest


UNSAYABLE: list[tuple[dict[str, Any], str]] = [
    ({"method": "uniform_soup"}, "it has no method like `uniform_soup`"),
    ({"method": "linear", "exclude": ["lm_head.*"]}, "nothing like `exclude`"),
    (
        {"method": "linear", "parameters": {"weight": {"gradient": [1, 2]}}},
        "the gradient of `weight` ends at the head",
    ),
    (
        {
            "method": "linear",
            "parameters": {"weight": [{"filter": "*.mlp.*", "value": 2}, {"value": 1}]},
        },
        "filters by parts of names",
    ),
    ({"method": "ties", "base": "left", "experts": ["right"]}, "no parameter for `"),
    ({"method": "linear", "experts": ["left", "left"]}, "merges each model once"),
    ({"method": "linear", "base": "left", "experts": ["right"]}, "no base beside the models"),
]


@pytest.mark.parametrize(("recipe", "reason"), UNSAYABLE)
def test_what_mergekit_cannot_say_is_not_written_and_the_card_says_why(
    recipe: dict[str, Any], reason: str, registry: Registry, stacks: None, made: Files
) -> None:
    recipe = {"experts": ["left", "right"], **recipe}

    files = made(recipe)

    assert "mergekit_config.yml" not in files
    assert reason in files["README.md"]
    _, again = parts(files["README.md"])
    assert again is not None
    assert registry.plan(again).lock == registry.plan(recipe).lock


def test_every_key_of_a_recipe_is_in_the_card(
    registry: Registry, members: list[State], made: Files
) -> None:
    recipe = {
        "method": "dare",
        "base": "base",
        "experts": ["a", {"model": "b", "density": 0.5}],
        "parameters": {"density": 0.25},
        "exclude": ["norm.*"],
        "seed": 7,
        "dtype": "bfloat16",
        "max_norm_drift": 50,
        "donor": "b",
    }

    _, again = parts(made(recipe)["README.md"])

    assert again is not None
    assert registry.plan(again).lock == registry.plan(recipe).lock


def test_artifacts_are_named_beside_their_experts(
    registry: Registry, members: list[State], tmp_path: Path, made: Files
) -> None:
    role = METHODS["ota"].artifacts[0]
    experts = []
    for i, name in enumerate(("a", "b")):
        floats = {
            n: t.float().abs() + 1 for n, t in members[i + 1].items() if t.is_floating_point()
        }
        experts.append({"model": name, role: str(write(tmp_path / f"adam-{i}", floats))})

    card = made({"method": "ota", "experts": experts})["README.md"]

    _, again = parts(card)
    assert again is not None
    version = registry.merge(again, name="again")
    assert version is not None and registry.get("merged-0").digest == version.digest
    assert f"| {role} |" in card


def test_the_licence_is_what_those_of_all_parents_come_to(
    registry: Registry, members: list[State], register: Callable[..., zoo.Version], made: Files
) -> None:
    register("other", {**members[1]}, license="gpl-3.0")
    register("third", {**members[2]}, license="llama3")

    mixed = made(method="linear", experts=["b", "other"])["README.md"]
    given = made(method="linear", experts=["b", "other"], license="cc-by-4.0")["README.md"]
    conflicting = made(method="linear", experts=["third", "other"])["README.md"]

    assert "gpl-3.0" == parts(mixed)[0]["license"]
    assert "| gpl-3.0 |" in mixed and "| mit |" in mixed
    assert "\n- Share under `gpl-3.0`, with no terms added.\n" in mixed
    assert "cc-by-4.0" == parts(given)[0]["license"]
    assert "gpl-3.0" == registry.get("merged-0").license
    assert "license" not in parts(conflicting)[0]
    assert (
        "- No one licence covers it: `gpl-3.0` wants the whole under its own terms, and `llama3` "
        "adds others." in conflicting
    )
    assert registry.get("merged-2").license is None


@pytest.mark.parametrize(
    ("config", "library"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "transformers"),
        ({"_class_name": "UNet2DModel", "_diffusers_version": "0.30"}, "diffusers"),
        ({"architecture": "resnet18", "pretrained_cfg": {}}, "timm"),
        ({"architectures": ["UpResNet10"]}, None),
        ({"architectures": 5}, None),
        ({}, None),
    ],
)
def test_the_library_is_told_where_the_configuration_tells_it(
    config: dict[str, Any],
    library: str | None,
    register: Callable[..., zoo.Version],
    made: Files,
) -> None:
    register("one", {"w": torch.ones(3)}, config=config)

    assert library == parts(made(method="linear", experts=["one"])["README.md"])[0].get(
        "library_name"
    )


@pytest.mark.parametrize("name", ["a|b", "back`tick", "```", "--- x", "a: b # c", "line\nbreak"])
def test_no_name_breaks_a_card(
    name: str, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name, {"w": torch.ones(3)})

    registry.merge(method="linear", experts=[name, name], out=tmp_path / "out")

    card = (tmp_path / "out" / "README.md").read_text()
    front, recipe = parts(card)
    assert [name] == front["base_model"]
    assert recipe is not None and [name, name] == recipe["experts"]
    assert 3 == len([line for line in card.splitlines() if line.startswith(("| exp", "| role"))])


def test_all_files_of_the_donor_are_carried_but_its_card(
    registry: Registry, tmp_path: Path
) -> None:
    donor = write(
        tmp_path / "donor", family(2, seed=9)[0], auto_map={"AutoModel": "modeling.Model"}
    )
    carried = {
        "modeling.py": "class Model: ...",
        "chat_template.jinja": "{{ messages }}",
        "preprocessor_config.json": "{}",
        "generation_config.json": "{}",
        "1_Pooling/config.json": "{}",
        "onnx/deep/er/labels.txt": "cat",
    }
    for path, text in carried.items():
        (donor / path).parent.mkdir(parents=True, exist_ok=True)
        (donor / path).write_text(text)
    (tmp_path / "elsewhere.txt").write_text("linked")
    (donor / "vocab.txt").symlink_to(tmp_path / "elsewhere.txt")
    for path in ("README.md", "mergekit_config.yml", "zoo_recipe.json"):
        (donor / path).write_text("of the donor")
    other = write(tmp_path / "other", family(2, seed=9)[1])

    registry.merge(method="linear", base=str(donor), experts=[str(other)], out=tmp_path / "out")
    version = registry.merge(method="linear", base=str(donor), experts=[str(other)], name="m")

    assert version is not None
    for directory in (tmp_path / "out", registry.path("m"), registry.export("m", tmp_path / "e")):
        for path, text in {**carried, "vocab.txt": "linked"}.items():
            assert text == (directory / path).read_text()
        for path in directory.rglob("*.*"):
            assert path.suffix == ".safetensors" or "of the donor" not in path.read_text()
    assert not (tmp_path / "out" / "vocab.txt").is_symlink()


def test_a_merge_of_merges_has_a_card_of_its_own(
    registry: Registry, members: list[State], made: Files
) -> None:
    first = made(method="linear", experts=["a", "b"])["README.md"]

    second = made(method="linear", experts=["merged-0", "c"])["README.md"]

    assert ["merged-0@1", "c@1"] == parts(second)[0]["base_model"]
    assert first != second


def test_verification_covers_the_card(registry: Registry, members: list[State]) -> None:
    registry.merge(method="linear", experts=["a", "b"], name="merged")
    assert registry.verify("merged").ok
    assert registry.verify("merged", replay=True).ok

    files = registry.catalog.files(registry.get("merged").id)
    card = next(f for f in files if f.path == "README.md")
    path = registry.store.path(card.object)
    path.chmod(0o644)
    path.write_text("Made by somebody else.")

    assert ("README.md",) == registry.verify("merged").mismatched
