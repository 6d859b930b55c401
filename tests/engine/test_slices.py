"""Layers cut and stacked, of one model or of several, merged slice by slice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_models import State, left_behind, same_bytes
from tiny_llamas import EMBEDDINGS, HEAD, NORM, layer, llama, llama_config

import zoo
from zoo import Registry
from zoo.errors import IncompatibleModels, InvalidRecipe

Merge = Callable[[Mapping[str, Any]], tuple[State, dict[str, Any]]]
GOLDEN = Path(__file__).parents[1] / "methods" / "golden" / "passthrough.json"


@pytest.fixture
def models(register: Callable[..., zoo.Version]) -> dict[str, State]:
    """Four layers each: `a` and `b`, and `z`, which they might come from."""
    found = {}
    for seed, name in enumerate("zab"):
        found[name] = llama(seed)
        register(name, found[name], config=llama_config())
    return found


@pytest.fixture
def merged(registry: Registry, load: Callable[..., State], tmp_path: Path) -> Merge:
    """Merge; the tensors and the configuration of the result."""
    count = iter(range(1000))

    def run(recipe: Mapping[str, Any]) -> tuple[State, dict[str, Any]]:
        out = tmp_path / f"out-{next(count)}"
        registry.merge(recipe, out=out)
        config = out / "config.json"
        return load(out), json.loads(config.read_text()) if config.exists() else {}

    return run


def stacked(*ranges: tuple[str, int, int]) -> dict[str, Any]:
    """A recipe that passes layers on."""
    return {
        "method": "passthrough",
        "slices": [{"sources": [{"model": m, "layers": [a, b]}]} for m, a, b in ranges],
    }


def same_layer(one: State, i: int, other: State, j: int) -> bool:
    return same_bytes(layer(one, i), layer(other, j))


def test_layers_of_two_models_follow_each_other(models: dict[str, State], merged: Merge) -> None:
    found, config = merged(stacked(("a", 0, 3), ("b", 1, 4)))

    a, b = models["a"], models["b"]
    assert 6 == config["num_hidden_layers"]
    for i, (state, j) in enumerate([(a, 0), (a, 1), (a, 2), (b, 1), (b, 2), (b, 3)]):
        assert same_layer(found, i, state, j)
    assert torch.equal(a[EMBEDDINGS], found[EMBEDDINGS])
    assert torch.equal(b[NORM], found[NORM]) and torch.equal(b[HEAD], found[HEAD])
    assert 3 + 6 * 4 == len(found)


def test_one_slice_of_all_layers_is_the_model(models: dict[str, State], merged: Merge) -> None:
    found, config = merged(stacked(("a", 0, 4)))

    assert same_bytes(models["a"], found)
    assert llama_config() == {k: config[k] for k in llama_config()}


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cut=st.integers(1, 3))
def test_the_two_ends_of_a_model_are_the_model(
    cut: int, models: dict[str, State], merged: Merge
) -> None:
    found, config = merged(stacked(("a", 0, cut), ("a", cut, 4)))

    assert same_bytes(models["a"], found)
    assert 4 == config["num_hidden_layers"]


def test_scaling_the_depth_up_repeats_layers(models: dict[str, State], merged: Merge) -> None:
    found, config = merged(stacked(("a", 0, 3), ("a", 1, 4)))

    assert 6 == config["num_hidden_layers"]
    assert [True] * 6 == [
        same_layer(found, i, models["a"], j) for i, j in enumerate([0, 1, 2, 1, 2, 3])
    ]


def test_a_repeated_block_is_made_to_do_nothing(models: dict[str, State], merged: Merge) -> None:
    recipe = stacked(("a", 0, 2), ("a", 1, 2), ("a", 2, 4))
    recipe["slices"][1]["parameters"] = {
        "scale": [{"filter": "/o_proj|down_proj/", "value": 0}, {"value": 1}]
    }

    found, _ = merged(recipe)

    assert torch.equal(torch.zeros(4, 4), found["model.layers.2.self_attn.o_proj.weight"])
    for name in ("input_layernorm.weight", "self_attn.q_proj.weight"):
        assert torch.equal(layer(models["a"], 1)[name], layer(found, 2)[name])
    assert same_layer(found, 3, models["a"], 2)


def test_every_slice_has_its_own_weights_and_gradients(
    models: dict[str, State], merged: Merge
) -> None:
    found, _ = merged(
        {
            "method": "linear",
            "parameters": {"normalize": False, "weight": 10.0},
            "slices": [
                {
                    "sources": [
                        {"model": "a", "layers": [0, 3], "weight": {"gradient": [0, 1]}},
                        {"model": "b", "layers": [1, 4], "weight": 0.5},
                    ]
                },
                {
                    "sources": [
                        {"model": "a", "layers": [2, 4]},
                        {
                            "model": "b",
                            "layers": [2, 4],
                            "weight": [{"filter": "layers.3.mlp", "value": 7.0}],
                        },
                    ],
                    "parameters": {"weight": 2.0},
                },
            ],
        }
    )

    a, b = models["a"], models["b"]
    weights = [(0.0, 0.5), (0.5, 0.5), (1.0, 0.5), (2.0, 2.0), (2.0, 2.0)]
    layers = [(0, 1), (1, 2), (2, 3), (2, 2), (3, 3)]
    for i, ((v, w), (j, k)) in enumerate(zip(weights, layers, strict=True)):
        for name, tensor in layer(found, i).items():
            share = 7.0 if i == 4 and "mlp" in name else w
            torch.testing.assert_close(tensor, v * layer(a, j)[name] + share * layer(b, k)[name])
    # Embeddings are at the first slice's beginning, the head at the last one's end.
    torch.testing.assert_close(found[EMBEDDINGS], 0.5 * b[EMBEDDINGS])
    torch.testing.assert_close(found[HEAD], 2 * a[HEAD] + 2 * b[HEAD])


def test_slices_may_have_different_numbers_of_sources(
    models: dict[str, State], merged: Merge
) -> None:
    found, _ = merged(
        {
            "method": "linear",
            "slices": [
                {"sources": [{"model": "a", "layers": [0, 1]}]},
                {"sources": [{"model": m, "layers": [1, 3]} for m in "zab"]},
                {"sources": [{"model": m, "layers": [3, 4]} for m in "ab"]},
            ],
        }
    )

    z, a, b = models["z"], models["a"], models["b"]
    assert same_layer(found, 0, a, 0) and torch.equal(a[EMBEDDINGS], found[EMBEDDINGS])
    for name, tensor in layer(found, 1).items():
        mean = (layer(z, 1)[name] + layer(a, 1)[name] + layer(b, 1)[name]) / 3
        torch.testing.assert_close(tensor, mean)
    torch.testing.assert_close(found[HEAD], (a[HEAD] + b[HEAD]) / 2)


def test_a_head_of_more_sources_than_mergekit_takes_is_noted(
    models: dict[str, State], registry: Registry
) -> None:
    def sources(*names: str) -> dict[str, Any]:
        return {"sources": [{"model": m, "layer_range": [0, 2]} for m in names]}

    def notes(*slices: dict[str, Any]) -> tuple[str, ...]:
        return registry.plan({"merge_method": "linear", "slices": list(slices)}).notes

    assert "leaves out those after the first 1" in notes(sources("a"), sources("a", "b"))[0]
    assert () == notes(sources("a", "b"), sources("a"))


def test_a_method_on_deltas_has_its_base_in_every_slice(
    models: dict[str, State], merged: Merge
) -> None:
    found, _ = merged(
        {
            "method": "task_arithmetic",
            "base": "z",
            "slices": [
                {"sources": [{"model": "a", "layers": [0, 2]}, {"model": "b", "layers": [0, 2]}]},
                {"sources": [{"model": "z", "layers": [1, 3]}, {"model": "b", "layers": [2, 4]}]},
                {"sources": [{"model": "z", "layers": [3, 4]}]},
            ],
        }
    )

    z, a, b = models["z"], models["a"], models["b"]
    for name, tensor in layer(found, 1).items():
        mean = layer(a, 1)[name] + layer(b, 1)[name] - layer(z, 1)[name]
        torch.testing.assert_close(tensor, mean)
    assert same_layer(found, 3, b, 3)
    assert same_layer(found, 4, z, 3) and torch.equal(z[HEAD], found[HEAD])


def test_lineage_has_the_models_and_replay_makes_the_bytes_again(
    models: dict[str, State], registry: Registry
) -> None:
    recipe = stacked(("a", 0, 3), ("b", 1, 4), ("a", 0, 4))
    recipe["slices"][1]["parameters"] = {"scale": {"gradient": [1, 2]}}

    version = registry.merge(recipe, name="tower")

    assert version is not None
    edges = registry.lineage(version.ref).edges
    assert ["a@1", "b@1"] == sorted(e["parent"] for e in edges)
    tensors = {t.name: t.digest for t in registry.catalog.tensors(version.id)}
    sources = {t.name: t.digest for t in registry.catalog.tensors(registry.get("a").id)}
    name = "model.layers.{}.mlp.down_proj.weight"
    assert sources[name.format(2)] == tensors[name.format(8)]
    assert registry.verify(version.ref, replay=True).ok


def test_a_merge_of_slices_draws_the_same_random_numbers_as_one_of_models(
    models: dict[str, State], merged: Merge
) -> None:
    whole = {"method": "dare", "base": "z", "parameters": {"density": 0.5}, "seed": 3}
    sources = [{"model": m, "layers": [0, 4]} for m in "ab"]

    one, _ = merged({**whole, "experts": ["a", "b"]})
    other, _ = merged({**whole, "slices": [{"sources": sources}]})

    assert same_bytes(one, other)


@pytest.fixture
def tied(register: Callable[..., zoo.Version]) -> dict[str, State]:
    found = {}
    for seed, name in enumerate("xy"):
        found[name] = llama(10 + seed, 2, tied=True)
        register(name, found[name], config=llama_config(2, tied=True))
    return found


def test_a_tied_head_of_another_model_becomes_a_head_of_its_own(
    tied: dict[str, State], merged: Merge
) -> None:
    apart, config = merged(stacked(("x", 0, 2), ("y", 0, 2)))
    still, tying = merged(stacked(("x", 0, 2), ("x", 0, 2)))

    assert torch.equal(tied["y"][EMBEDDINGS], apart[HEAD])
    assert config["tie_word_embeddings"] is False
    assert HEAD not in still and tying["tie_word_embeddings"] is True


def test_what_a_configuration_lists_per_layer_is_stacked_too(
    register: Callable[..., zoo.Version], merged: Merge
) -> None:
    def config(kinds: str, only: list[int]) -> dict[str, Any]:
        return {
            **llama_config(),
            "layer_types": [{"f": "full", "s": "sliding"}[k] for k in kinds],
            "mlp_only_layers": only,
            "max_window_layers": 4,
            "rope_theta": 4,
        }

    register("p", llama(1), config=config("fsfs", [0, 3]))
    register("q", llama(2), config=config("ffff", [1]))

    _, found = merged(stacked(("p", 1, 4), ("q", 0, 2)))

    assert 5 == found["num_hidden_layers"] == found["max_window_layers"]
    assert ["sliding", "full", "sliding", "full", "full"] == found["layer_types"]
    assert [2, 4] == found["mlp_only_layers"]
    assert 4 == found["rope_theta"]


def test_a_number_of_layers_that_no_key_says_is_noted(
    register: Callable[..., zoo.Version], registry: Registry
) -> None:
    register("p", llama(1), config={"model_type": "odd"})

    notes = registry.plan(stacked(("p", 0, 2))).notes

    assert any("make it 2 by hand" in n for n in notes)


WRONG: list[tuple[dict[str, Any], str]] = [
    (stacked(("a", 2, 5)), "slice 1 takes the layers from 2 to 4 of `a@1`, which has 4"),
    (stacked(("a", 0, 2), ("flat", 0, 1)), "`flat@1`, which has 0"),
    (stacked(("a", 0, 2), ("wide", 0, 1)), r"`model.norm.weight` are \[4\].*\[8\] in `wide@1`"),
    (stacked(("a", 0, 2), ("odd", 0, 1)), "no layer with a tensor like .*extra.* of `odd@1`"),
    ({**stacked(("a", 0, 2)), "method": "slerp", "parameters": {"t": 0.5}}, "2 or more experts"),
    (
        {"method": "linear", "slices": [{"sources": [{"model": m}]} for m in "ab"]},
        "slice 1 takes no layers, but all there is, and others follow",
    ),
    (stacked(("two", 0, 1)), "numbers layers under `decoder.layers.`, `encoder.layers.`.*modules"),
]


@pytest.mark.parametrize("recipe, message", WRONG, ids=lambda v: str(v)[:40])
def test_layers_that_do_not_fit_are_refused_before_anything_is_read(
    recipe: dict[str, Any],
    message: str,
    models: dict[str, State],
    register: Callable[..., zoo.Version],
    registry: Registry,
) -> None:
    register("flat", {EMBEDDINGS: torch.zeros(8, 4)})
    register("wide", llama(5, hidden=8), config=llama_config())
    register("odd", {**llama(6), "model.layers.0.extra.weight": torch.zeros(4)})
    register("two", {f"{s}.layers.0.w": torch.zeros(2) for s in ("encoder", "decoder")})

    with pytest.raises(IncompatibleModels, match=message):
        registry.merge(recipe, name="m")

    assert [] == left_behind(registry)


def test_ranges_of_one_slice_are_equally_long(models: dict[str, State], registry: Registry) -> None:
    sources = [{"model": "a", "layers": [0, 2]}, {"model": "b", "layers": [0, 3]}]

    with pytest.raises(IncompatibleModels, match=r"sources of 2 and 3 layers.*equally long"):
        registry.merge({"method": "linear", "slices": [{"sources": sources}]}, name="m")


def test_passthrough_takes_one_source(models: dict[str, State], registry: Registry) -> None:
    sources = [{"model": m, "layers": [0, 1]} for m in "ab"]

    with pytest.raises(IncompatibleModels, match="at most 1 experts, 2 given"):
        registry.merge({"method": "passthrough", "slices": [{"sources": sources}]}, name="m")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"slices": []}, "`slices` lists slices"),
        ({"slices": [{"sources": []}]}, "lists its `sources`"),
        ({"slices": [{"sources": [{"layers": [0, 1]}]}]}, "a map with `model` and `layers`"),
        ({"slices": [{"sources": [{"model": "a", "layers": [3, 1]}]}]}, r"\[3, 1\] is no range"),
        ({"slices": [{"sorces": []}]}, "Unknown key `sorces`.*Did you mean `sources`"),
        ({"experts": ["a"]}, "one of `experts`, `select` and `slices`"),
        ({"method": "ota", "base": "z"}, "takes whole models, not slices"),
    ],
    ids=str,
)
def test_a_mistake_in_slices_is_told(
    change: dict[str, Any], message: str, models: dict[str, State], registry: Registry
) -> None:
    with pytest.raises(InvalidRecipe, match=message):
        registry.merge({**stacked(("a", 0, 1)), **change}, name="m")


def test_options_override_parameters_of_slices_but_not_their_models(
    models: dict[str, State], registry: Registry, load: Callable[..., State], tmp_path: Path
) -> None:
    recipe = stacked(("a", 0, 2))
    recipe["slices"][0]["sources"][0]["scale"] = 3.0

    registry.merge(recipe, parameters={"scale": 2.0}, out=tmp_path / "out")

    torch.testing.assert_close(load(tmp_path / "out")[NORM], 2 * models["a"][NORM])
    for option in ({"experts": ["b"]}, {"base": "z"}, {"where": "kind = 'expert'"}):
        with pytest.raises(InvalidRecipe, match="slices say which models"):
            registry.plan(recipe, **option)


# A module is a part of a model under a name of its own.


@pytest.fixture
def seeing(register: Callable[..., zoo.Version]) -> dict[str, State]:
    """Two models of a language model, a vision tower and a projector."""
    found = {}
    for seed, name in ((20, "m"), (30, "n")):
        text = {f"language_model.{k}": t for k, t in llama(seed, 3).items()}
        tower = {
            f"vision_tower.encoder.layers.{i}.w": torch.randn(
                3, generator=torch.Generator().manual_seed(seed + 5 + i)
            )
            for i in range(2)
        }
        projector = {"multi_modal_projector.w": torch.full((2,), float(seed))}
        found[name] = {**text, **tower, **projector}
        register(
            name,
            found[name],
            config={
                "text_config": {"num_hidden_layers": 3},
                "vision_config": {"num_hidden_layers": 2},
            },
        )
    return found


def modular(**modules: Any) -> dict[str, Any]:
    return {"merge_method": "linear", "parameters": {"weight": 1.0}, "modules": modules}


BOTH = {"models": [{"model": "m"}, {"model": "n"}]}


def test_modules_are_merged_each_in_its_own_way(seeing: dict[str, State], merged: Merge) -> None:
    found, config = merged(
        modular(
            text_decoder={
                "slices": [
                    {"sources": [{"model": m, "layer_range": [0, 2]} for m in "mn"]},
                    {"sources": [{"model": "n", "layer_range": [1, 3]}]},
                ]
            },
            vision_tower={"models": [{"model": "n"}]},
            multi_modal_projector={**BOTH, "parameters": {"normalize": False}},
        )
    )

    m, n = seeing["m"], seeing["n"]
    assert {"num_hidden_layers": 4} == config["text_config"]
    assert {"num_hidden_layers": 2} == config["vision_config"]
    assert [50.0, 50.0] == found["multi_modal_projector.w"].tolist()
    for i in range(2):
        name = f"vision_tower.encoder.layers.{i}.w"
        assert torch.equal(n[name], found[name])
    name = "language_model.model.layers.{}.mlp.down_proj.weight"
    mean = (m[name.format(1)] + n[name.format(1)]) / 2
    torch.testing.assert_close(found[name.format(1)], mean)
    assert torch.equal(n[name.format(2)], found[name.format(3)])


def test_our_form_has_modules_too_and_the_card_says_them(
    seeing: dict[str, State], registry: Registry, merged: Merge
) -> None:
    both = [{"model": "m"}, {"model": "n", "weight": 3.0}]
    recipe = {
        "method": "linear",
        "slices": [
            {"module": "text_decoder", "sources": [{"model": "m", "layers": [0, 2]}]},
            {"module": "text_decoder", "sources": [{"model": "n", "layers": [0, 3]}]},
            {"module": "vision_tower", "sources": both},
            {"module": "multi_modal_projector", "sources": both},
        ],
    }

    found, config = merged(recipe)
    registry.merge(recipe, name="both")

    assert 5 == config["text_config"]["num_hidden_layers"]
    assert [27.5, 27.5] == found["multi_modal_projector.w"].tolist()
    again, _ = merged(recipe_on_the_card(registry.path("both")))
    assert same_bytes(found, again)


@pytest.mark.parametrize(
    "modules, message",
    [
        ({"vision_tower": BOTH, "text_decoder": BOTH}, "in none of the modules.*projector"),
        (
            {
                "vision_tower": BOTH,
                "text_decoder": BOTH,
                "multi_modal_projector": BOTH,
                "ear": BOTH,
            },
            "belongs to a module `ear`",
        ),
    ],
)
def test_modules_that_leave_something_out_are_refused(
    modules: dict[str, Any], message: str, seeing: dict[str, State], registry: Registry
) -> None:
    with pytest.raises(IncompatibleModels, match=message):
        registry.merge(modular(**modules), name="x")


# Models that do not fit


def test_tensors_an_expert_lacks_are_the_bases_where_that_is_allowed(
    models: dict[str, State],
    register: Callable[..., zoo.Version],
    registry: Registry,
    merged: Merge,
) -> None:
    name = "model.layers.2.self_attn.q_proj.weight"
    less = {n: t for n, t in models["a"].items() if n != name}
    register("less", {**less, "classifier.weight": torch.ones(2)}, config=llama_config())
    recipe = {"method": "task_arithmetic", "base": "z", "experts": ["less", "b"]}

    with pytest.raises(IncompatibleModels, match=r"`less@1` lacks the tensor.*missing: base"):
        registry.plan(recipe)
    found, _ = merged({**recipe, "missing": "base"})

    assert found.keys() == models["z"].keys()
    torch.testing.assert_close(found[name], models["b"][name])
    notes = registry.plan({**recipe, "missing": "base"}).notes
    assert any("stand for them" in n for n in notes) and any("left out" in n for n in notes)


def test_embeddings_of_different_sizes_are_cropped_where_that_is_allowed(
    models: dict[str, State],
    register: Callable[..., zoo.Version],
    registry: Registry,
    merged: Merge,
) -> None:
    more = llama(9, tokens=10)
    register("more", more, config=llama_config(tokens=10))
    recipe = {"method": "linear", "experts": ["more", "a"]}

    with pytest.raises(IncompatibleModels, match="mismatch: crop"):
        registry.plan(recipe)
    found, config = merged({**recipe, "mismatch": "crop"})

    assert 8 == config["vocab_size"]
    theirs = {"merge_method": "linear", "models": [{"model": "more"}, {"model": "a"}]}
    cropped, _ = merged({**theirs, "mismatch": "crop"})
    assert same_bytes(found, cropped)
    with pytest.raises(IncompatibleModels, match="mismatch: crop"):
        registry.plan(theirs)
    for name in (EMBEDDINGS, HEAD):
        torch.testing.assert_close(found[name], (more[name][:8] + models["a"][name]) / 2)


def test_an_embedding_stands_for_the_head_that_is_tied_to_it(
    models: dict[str, State], register: Callable[..., zoo.Version], merged: Merge
) -> None:
    tying = llama(9, tied=True)
    register("tying", tying, config=llama_config(tied=True))

    found, config = merged({"method": "linear", "experts": ["tying", "a"]})

    torch.testing.assert_close(found[HEAD], (tying[EMBEDDINGS] + models["a"][HEAD]) / 2)
    assert config["tie_word_embeddings"] is False


def test_it_does_not_matter_whether_an_expert_stores_a_head_that_is_tied(
    register: Callable[..., zoo.Version], merged: Merge
) -> None:
    for name, seed in (("b", 1), ("plain", 2)):
        register(name, llama(seed, tied=True), config=llama_config(tied=True))
    state = llama(2, tied=True)
    register("stores", state | {HEAD: state[EMBEDDINGS].clone()}, config=llama_config(tied=True))
    recipe = {"method": "ties", "base": "b", "parameters": {"density": 0.3}}

    found, config = merged({**recipe, "experts": ["stores"]})

    expected, _ = merged({**recipe, "experts": ["plain"]})
    assert same_bytes(expected, found)
    assert config["tie_word_embeddings"] is True


# What people see


def test_the_card_has_a_recipe_that_makes_the_model_again(
    models: dict[str, State], registry: Registry, load: Callable[..., State], tmp_path: Path
) -> None:
    recipe = stacked(("a", 0, 3), ("b", 1, 4))
    recipe["slices"][1]["parameters"] = {"scale": 2.0}
    registry.merge(recipe, name="tower")

    registry.merge(recipe_on_the_card(registry.path("tower")), out=tmp_path / "again")
    theirs = yaml.safe_load((registry.path("tower") / "mergekit_config.yml").read_text())
    registry.merge(theirs, out=tmp_path / "theirs")

    made = load(registry.path("tower"))
    assert same_bytes(made, load(tmp_path / "again"))
    assert same_bytes(made, load(tmp_path / "theirs"))


def recipe_on_the_card(directory: Path) -> dict[str, Any]:
    """The recipe that a model's card shows."""
    card = (directory / "README.md").read_text()
    found: dict[str, Any] = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    return found


@pytest.mark.parametrize("case", ["stack_two_ranges", "duplicate_layer", "scale"])
def test_golden_numbers(case: str, register: Callable[..., zoo.Version], merged: Merge) -> None:
    known = {c["case"]: c for c in json.loads(GOLDEN.read_text())}[case]
    for i, state in enumerate(known["models"]):
        register(f"m{i}", {n: torch.tensor(v) for n, v in state.items()})
    wanted = known["params"]
    ranges = [(f"m{s['model']}", *s["layers"]) for s in wanted.get("slices", [])]
    recipe = stacked(*(ranges or [("m0", 0, 3)]))
    if "scale" in wanted:
        rule = {"filter": wanted["filter"], "value": wanted["scale"]}
        recipe["parameters"] = {"scale": [rule, {"value": 1}]}

    found, _ = merged(recipe)

    assert known["expected"] == {n: t.tolist() for n, t in found.items()}
