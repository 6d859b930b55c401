"""A mergekit document is a recipe as it stands, and means what mergekit means by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import yaml
from small_models import State, left_behind

import zoo
from zoo import Registry
from zoo.errors import IncompatibleModels, InvalidRecipe

Register = Callable[..., zoo.Version]
Load = Callable[..., State]


@pytest.fixture
def merged(registry: Registry, load: Load, tmp_path: Any) -> Callable[[str], State]:
    """Merge a document written as YAML."""

    def run(text: str) -> State:
        path = tmp_path / "mergekit.yaml"
        path.write_text(text)
        version = registry.merge(path, name="merged")
        assert version is not None
        return load(registry.path(version.ref))

    return run


@pytest.fixture
def line(register: Register) -> None:
    """A base at zero and experts that are easy to reckon with, by name."""
    register("zero", {"w": torch.zeros(10), "b": torch.zeros(4)}, kind="base")
    register("up", {"w": torch.arange(1.0, 11.0), "b": torch.tensor([8.0, 4.0, 2.0, 1.0])})
    register("down", {"w": -torch.arange(1.0, 11.0).flip(0), "b": torch.ones(4)})


def test_linear_weighs_and_normalizes(line: None, merged: Callable[[str], State]) -> None:
    found = merged("""
        merge_method: linear
        models:
          - model: up
            parameters: {weight: 0.75}
          - model: down
            parameters:
              weight: 0.5
        dtype: float32
    """)

    up, down = torch.arange(1.0, 11.0), -torch.arange(1.0, 11.0).flip(0)
    torch.testing.assert_close(found["w"], (0.75 * up + 0.5 * down) / 1.25)


def test_linear_without_normalize_adds(line: None, merged: Callable[[str], State]) -> None:
    found = merged("""
        merge_method: linear
        parameters: {normalize: false, weight: 0.5}
        models: [{model: up}, {model: down}]
    """)

    torch.testing.assert_close(found["b"], torch.tensor([4.5, 2.5, 1.5, 1.0]))


def test_ties_trims_tensor_by_tensor_and_keeps_all_by_default(
    line: None, merged: Callable[[str], State]
) -> None:
    trimmed = merged("""
        merge_method: ties
        base_model: zero
        models:
          - model: zero
          - {model: up, parameters: {density: 0.3, weight: 1.0}}
          - {model: down, parameters: {density: 0.1, weight: 1.0}}
        parameters: {int8_mask: true, lambda: 0.5}
    """)
    whole = merged("""
        merge_method: ties
        base_model: zero
        models: [{model: up}, {model: down}]
    """)

    # up keeps 10, 9, 8 and down keeps -10, each tensor on its own; of b each keeps one, at least.
    assert [-5.0, 0, 0, 0, 0, 0, 0, 4.0, 4.5, 5.0] == trimmed["w"].tolist()
    # up keeps 8 of b, down (all equal) its first: they agree, and are averaged.
    assert [2.25, 0.0, 0.0, 0.0] == trimmed["b"].tolist()
    # Density is 1 by default, and normalize is the mean of those that agree.
    assert [-10, -9, -8, -7, -6, 6, 7, 8, 9, 10] == whole["w"].tolist()
    assert [4.5, 2.5, 1.5, 1.0] == whole["b"].tolist()


def test_a_sum_of_exactly_zero_is_positive_whatever_the_majority(
    register: Register, merged: Callable[[str], State]
) -> None:
    register("zero", {"w": torch.zeros(4)}, kind="base")
    register("x", {"w": torch.tensor([1.0, -3.0, -3.0, -3.0])})
    register("y", {"w": torch.tensor([-1.0, -3.0, -3.0, -3.0])})

    found = merged("""
        merge_method: ties
        base_model: zero
        models: [{model: x}, {model: y}]
    """)

    assert [1.0, -3.0, -3.0, -3.0] == found["w"].tolist()


def test_normalize_false_adds_what_agrees(line: None, merged: Callable[[str], State]) -> None:
    found = merged("""
        merge_method: ties
        base_model: zero
        models: [{model: up}, {model: down}]
        parameters: {normalize: false, rescale: false}
    """)

    assert [9.0, 5.0, 3.0, 2.0] == found["b"].tolist()


def test_rescale_gives_each_tensor_the_norm_it_had(
    line: None, merged: Callable[[str], State]
) -> None:
    found = merged("""
        merge_method: ties
        base_model: zero
        models:
          - {model: up, parameters: {density: 0.5}}
          - {model: down, parameters: {density: 0.25}}
        parameters: {normalize: false, rescale: true}
    """)

    # Of b, up keeps 8 and 4 of 15, made 10 and 5; down keeps one of four, made 4.
    assert [14.0, 5.0, 0.0, 0.0] == found["b"].tolist()


def test_task_arithmetic_leaves_the_base_out_of_the_sum(
    line: None, merged: Callable[[str], State]
) -> None:
    found = merged("""
        merge_method: task_arithmetic
        base_model: zero
        models:
          - {model: zero, parameters: {weight: 100}}
          - {model: up, parameters: {weight: 0.5}}
          - {model: down, parameters: {weight: 2.0}}
        parameters: {lambda: 0.5}
    """)
    normalized = merged("""
        merge_method: task_arithmetic
        base_model: zero
        models:
          - {model: up, parameters: {weight: 1}}
          - {model: down, parameters: {weight: 3}}
        parameters: {normalize: true}
    """)

    assert [3.0, 2.0, 1.5, 1.25] == found["b"].tolist()
    assert [2.75, 1.75, 1.25, 1.0] == normalized["b"].tolist()


LAYERED = [f"model.layers.{i}.{part}.weight" for i in range(3) for part in ("self_attn", "mlp")]
SLERP = """
    slices:
      - sources:
          - {model: east, layer_range: [0, 3]}
          - {model: north, layer_range: [0, 3]}
    merge_method: slerp
    base_model: %s
    parameters:
      t:
        - {filter: self_attn, value: [0, 0.5, 1]}
        - {filter: mlp, value: [1, 0.5, 0]}
        - value: 0.25
    dtype: float32
"""


@pytest.fixture
def compass(register: Register) -> None:
    for name, arrow in (("east", [1.0, 0.0]), ("north", [0.0, 1.0])):
        names = ["model.embed_tokens.weight", *LAYERED, "lm_head.weight"]
        register(name, {n: torch.tensor(arrow) for n in names})


@pytest.mark.parametrize("start", ["east", "north"])
def test_slerp_takes_gradients_and_filters_over_all_layers(
    start: str, compass: None, merged: Callable[[str], State]
) -> None:
    found = merged(SLERP % start)

    def at(t: float) -> list[float]:
        turned = torch.tensor(t * torch.pi / 2)
        arrow = [float(turned.cos()), float(turned.sin())]
        return arrow if start == "east" else arrow[::-1]

    for i, t in enumerate((0.0, 0.5, 1.0)):
        attention = found[f"model.layers.{i}.self_attn.weight"]
        torch.testing.assert_close(attention, torch.tensor(at(t)), atol=1e-6, rtol=0)
        mlp = found[f"model.layers.{i}.mlp.weight"]
        torch.testing.assert_close(mlp, torch.tensor(at(1 - t)), atol=1e-6, rtol=0)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        torch.testing.assert_close(found[name], torch.tensor(at(0.25)), atol=1e-6, rtol=0)


def test_slerp_goes_from_the_base_model_wherever_it_is_listed(
    compass: None, merged: Callable[[str], State]
) -> None:
    one = merged(
        "{merge_method: slerp, base_model: east, models: [{model: north}], parameters: {t: 0.1}}"
    )
    two = merged(
        "{merge_method: slerp, base_model: east, parameters: {t: 0.1},"
        " models: [{model: north}, {model: east}]}"
    )

    assert torch.equal(one["lm_head.weight"], two["lm_head.weight"])
    assert one["lm_head.weight"][0] > 0.9


def test_gradients_in_models_and_fall_through_to_the_parameters_of_all(
    compass: None, merged: Callable[[str], State]
) -> None:
    found = merged("""
        merge_method: linear
        parameters: {normalize: false, weight: 2.0}
        models:
          - model: east
            parameters: {weight: [0, 1, 4]}
          - model: north
            parameters:
              weight:
                - {filter: self_attn, value: [1, 0]}
    """)

    assert [0.0, 1.0] == found["model.layers.0.self_attn.weight"].tolist()
    assert [1.0, 0.5] == found["model.layers.1.self_attn.weight"].tolist()
    assert [4.0, 0.0] == found["model.layers.2.self_attn.weight"].tolist()
    assert [1.0, 2.0] == found["model.layers.1.mlp.weight"].tolist()
    # mergekit has embeddings and head alike where gradients begin.
    assert [0.0, 2.0] == found["model.embed_tokens.weight"].tolist()
    assert [0.0, 2.0] == found["lm_head.weight"].tolist()


def test_out_dtype_goes_before_dtype(compass: None, merged: Callable[[str], State]) -> None:
    document: dict[str, Any] = yaml.safe_load(SLERP % "east")

    both = merged(yaml.safe_dump({**document, "out_dtype": "bfloat16"}))
    one = merged(yaml.safe_dump({**document, "dtype": "float16"}))

    assert {torch.bfloat16} == {t.dtype for t in both.values()}
    assert {torch.float16} == {t.dtype for t in one.values()}


def test_what_has_no_effect_is_noted(registry: Registry, line: None) -> None:
    document = {
        "merge_method": "ties",
        "base_model": "zero",
        "models": [{"model": "up"}, {"model": "down"}],
        "parameters": {"int8_mask": True},
    }

    assert "`int8_mask` has no effect here." in registry.plan(document).notes
    version = registry.merge(document, name="m")
    assert version is not None and "int8_mask" in str(version.notes)


def test_layers_that_are_not_there_are_refused(registry: Registry, compass: None) -> None:
    document = yaml.safe_load(SLERP % "east")
    for source in document["slices"][0]["sources"]:
        source["layer_range"] = [0, 32]

    with pytest.raises(IncompatibleModels, match="layers from 0 to 31 of `east@1`, which has 3"):
        registry.merge(document, name="m")


DOCUMENT = {"merge_method": "ties", "base_model": "zero", "models": [{"model": "up"}]}
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"merge_methods": "x"}, "Unknown key `merge_methods`.*Did you mean `merge_method`"),
    ({"merge_method": "tis"}, "No method here means mergekit's `tis`.*Did you mean `ties`"),
    ({"merge_method": None}, "No method here means mergekit's `None`"),
    ({"models": None}, "one of `models`, `slices` and `modules`, not none"),
    ({"slices": []}, "one of .* not `models` and `slices`"),
    ({"models": None, "slices": []}, "`slices` lists no slice"),
    ({"models": []}, "`models` lists no model"),
    ({"models": "up"}, "`models` must be a list"),
    ({"models": [{"model": "up", "density": 1}]}, "Unknown key `density` in a model"),
    ({"models": [{"model": "up", "parameters": {"dens": 1}}]}, "`dens`.*Did you mean `density`"),
    ({"models": [{"model": {"name": "up"}}]}, "named by a path or reference"),
    ({"models": [{"model": {"model": "up", "lra": "x"}}]}, "`lra`.*Did you mean `lora`"),
    ({"models": [{"model": "up"}, {"model": "up"}]}, "`up` is listed twice"),
    ({"mismatch": "pad"}, "`mismatch` can be `crop`"),
    ({"models": [{"model": "up", "parameters": {"lambda": 1}}]}, "one value.*`parameters`"),
    ({"parameters": {"density": [{"filter": "ml*", "value": 1}]}}, "`ml\\*` fits no tensor.*glob"),
    ({"parameters": {"normalize": "maybe"}}, "`normalize` must be true or false"),
    ({"parameters": {"densty": 1}}, "Unknown parameter `densty` in mergekit's `ties`"),
    ({"parameters": {"density": 2}}, "`density`.*2.*less than or equal to 1"),
    ({"modules": {}}, "one of .* not `models` and `modules`"),
    ({"models": None, "modules": {}}, "`modules` names no module"),
    ({"models": None, "modules": {"m": {}}}, "Module `m` has either"),
    ({"dtype": "int3"}, "`int3` is no type"),
    ({"base_model": None}, "needs the base"),
    ({"base_model": ["zero"]}, "named by a path or reference"),
    (
        {"merge_method": "slerp", "base_model": None, "parameters": {"t": 0.5}},
        "slerp takes `base_model`",
    ),
]


@pytest.mark.parametrize("change, message", MISTAKES, ids=lambda v: str(v)[:60])
def test_a_mistake_in_a_mergekit_document_is_told(
    change: dict[str, Any], message: str, registry: Registry, line: None
) -> None:
    keep = ("merge_method",) if change == {"merge_method": None} else ()
    document = {k: v for k, v in {**DOCUMENT, **change}.items() if v is not None or k in keep}

    with pytest.raises((InvalidRecipe, IncompatibleModels), match=message):
        registry.merge(document, name="m")

    assert [] == left_behind(registry)


@pytest.mark.parametrize(
    "slices, message",
    [
        ([{"sources": [{"model": "up", "layer_range": [8, 16]}]}], "from 8 to 15.*which has 0"),
        ([{"sources": [{"model": "up", "layer_range": 3}]}], "`layer_range` 3 is no range"),
        ([{"sources": [{"model": "up", "layer_range": [2, 2]}]}], "is no range"),
        ([{"sources": [{"model": "up"}]}], "`layer_range` None is no range"),
        ([{"sources": []}], "A slice lists no `sources`"),
        ([{"sources": [{"model": "up", "layer_rang": [0, 1]}]}], "Unknown key `layer_rang`"),
        ([{"source": []}], "Unknown key `source` in a slice. Did you mean `sources`"),
    ],
)
def test_slices_that_make_no_sense_are_refused(
    slices: Any, message: str, registry: Registry, line: None
) -> None:
    with pytest.raises((InvalidRecipe, IncompatibleModels), match=message):
        registry.merge({"merge_method": "linear", "slices": slices}, name="m")
