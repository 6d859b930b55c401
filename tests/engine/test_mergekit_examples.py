"""The configurations of mergekit's examples, manual and test-suite, on models of this size.

The list is ours: the keys and shapes of theirs, with models of a few hundred numbers. Those about
tokenizers are in `test_tokenizers.py` with their tokenizers; here they are only read.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_models import State, write
from tiny_llamas import HEAD, llama, llama_config

import zoo
from zoo import Registry
from zoo.errors import InvalidRecipe, NotFound
from zoo.recipes.recipe import read_recipe

TWO = "models: [{model: a, parameters: {weight: 0.6}}, {model: b, parameters: {weight: 0.4}}]"
SLERP = """
parameters:
  t:
    - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
    - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}
    - value: 0.5
merge_method: slerp
base_model: a
dtype: float16
"""


def two(method: str, base: str | None = None, **parameters: Any) -> str:
    """Two weighted models, as most of the test-suite has them."""
    document: dict[str, Any] = {"merge_method": method, "dtype": "bfloat16", **yaml.safe_load(TWO)}
    if base is not None:
        document["base_model"] = base
    if parameters:
        document["parameters"] = parameters
    return yaml.safe_dump(document)


def nuslerp(base: str | None, rows: bool, flat: bool) -> str:
    return two("nuslerp", base, nuslerp_row_wise=rows, nuslerp_flatten=flat)


EXAMPLES = {
    "arcee_fusion": """
        models: [{model: a}, {model: b}]
        merge_method: arcee_fusion
        base_model: a
        dtype: bfloat16
    """,
    "bio-merge": """
        models:
          - {model: a, parameters: {density: 0.5, weight: 0.5}}
          - {model: b, parameters: {density: 0.5, weight: 0.5}}
        merge_method: ties
        base_model: z
        parameters: {normalize: false, int8_mask: true}
        dtype: float16
    """,
    "gradient-slerp": """
        slices:
          - sources:
              - {model: a, layer_range: [0, 4]}
              - {model: b, layer_range: [0, 4]}
    """,
    "gradient-slerp with models": "models: [{model: a}, {model: b}]",
    "linear": """
        models:
          - {model: a, parameters: {weight: 1.0}}
          - {model: b, parameters: {weight: 0.3}}
          - {model: z, parameters: {weight: 0.5}}
        merge_method: linear
        dtype: float16
    """,
    "two stacked ranges": """
        slices:
          - sources: [{model: a, layer_range: [0, 3]}]
          - sources: [{model: b, layer_range: [2, 4]}]
        merge_method: passthrough
        dtype: float16
    """,
    "ties with gradients and a filter": """
        models:
          - {model: a, parameters: {density: [1, 0.7, 0.1], weight: 1.0}}
          - {model: b, parameters: {density: 0.5, weight: [0, 0.3, 0.7, 1]}}
          - model: c
            parameters:
              density: 0.33
              weight: [{filter: mlp, value: 0.5}, {value: 0}]
        merge_method: ties
        base_model: z
        parameters: {normalize: true, int8_mask: true}
        dtype: float16
    """,
}
for name in ("gradient-slerp", "gradient-slerp with models"):
    EXAMPLES[name] = textwrap.dedent(EXAMPLES[name]) + SLERP
SUITE = {
    "copy": "{merge_method: passthrough, models: [{model: a}], dtype: bfloat16}",
    "linear": two("linear"),
    "slerp": two("slerp", "a", t=0.35),
    "copy of gpt2": "{merge_method: passthrough, models: [{model: gpt}], dtype: bfloat16}",
    "passthrough with scale": """
        merge_method: passthrough
        models:
          - model: a
            parameters: {scale: [{filter: o_proj, value: 0}, {value: 1}]}
    """,
    **{
        f"nuslerp {base} {rows} {flat}": nuslerp(base, rows, flat)
        for base in (None, "c")
        for rows in (False, True)
        for flat in (False, True)
    },
    "nuslerp with weights that sum to zero": nuslerp("c", False, False)
    .replace("0.6", "-0.5")
    .replace("0.4", "0.5"),
    "task_arithmetic": two("task_arithmetic", "z"),
    "breadcrumbs": two("breadcrumbs", "z"),
    "breadcrumbs_ties": two("breadcrumbs_ties", "z", gamma=0.05, density=0.7),
    "ties": two("ties", "z", density=0.3),
    "sce": two("sce", "z", select_topk=0.5),
    "ram": two("ram", "z"),
    "ramplus_tl": two("ramplus_tl", "z", r=0.05, alpha=1.0),
    "multislerp": two("multislerp", "z"),
    "dare_ties": two("dare_ties", "z", density=0.66),
    "dare_linear": two("dare_linear", "z", density=0.66),
    "model_stock": two("model_stock", "z"),
    "model_stock filter-wise": two("model_stock", "z", filter_wise=True),
    "arcee_fusion": two("arcee_fusion", "a"),
    "nearswap": two("nearswap", "a", t=0.0001),
    "della": two("della", "z", density=0.66, epsilon=0.05, **{"lambda": 0.5}),
    "della_linear": two("della_linear", "z", density=0.66, epsilon=0.05),
    "karcher": two("karcher", "z", max_iter=5, tol="1e-5"),
}
SEEING = {
    "linear": two("linear"),
    "slerp": two("slerp", "a", t=0.35),
    "nuslerp": nuslerp("c", True, False),
    "task_arithmetic": two("task_arithmetic", "c"),
    "breadcrumbs": two("breadcrumbs", "c"),
    "ties": two("ties", "c", density=0.3),
    "dare_ties": two("dare_ties", "c", density=0.66),
    "model_stock": two("model_stock", "c"),
}
ABOUT_TOKENIZERS = {
    "legacy": "{}",
    "source base": "{tokenizer_source: base}",
    "source union": "{tokenizer_source: union}",
    "source of a model": "{tokenizer_source: b}",
    "forced token": """
        tokenizer:
          source: base
          tokens:
            _tok_10: {source: b, force: true}
    """,
    "tokens of a model": """
        tokenizer:
          source: base
          tokens:
            _tok_10: {source: {kind: model_token, model: b, token: "<|im_start|>"}}
            _tok_20: {source: {kind: model_token, model: b, token_id: 64}, force: true}
            _tok_11: {source: {kind: zero}, force: true}
    """,
    "padded": "{tokenizer: {source: union, pad_to_multiple_of: 16}}",
    "a template by name": "{chat_template: chatml}",
    "a template": "{chat_template: \"{{messages[0]['content']}}\"}",
    "the usual template": "{chat_template: auto}",
}


@pytest.fixture(scope="module")
def small_zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """`z`, `a`, `b`, `c` of one family, and a `gpt`."""
    root = tmp_path_factory.mktemp("examples")
    with zoo.open(root / "registry.db") as registry:
        start = llama(0)
        for seed, name in enumerate("zabc"):
            step = llama(seed)
            state = {n: t + 0.1 * step[n] for n, t in start.items()}
            registry.register(write(root / name, state, **llama_config()), name=name)
        gpt = {
            "transformer.wte.weight": torch.ones(8, 4),
            "transformer.ln_f.weight": torch.full((4,), 2.0),
            **{
                f"transformer.h.{i}.attn.c_attn.weight": torch.full((4, 4), float(i))
                for i in range(3)
            },
        }
        config = {"architectures": ["GPT2LMHeadModel"], "n_layer": 3}
        registry.register(write(root / "gpt", gpt, **config), name="gpt")
        yield registry


@pytest.fixture
def run(small_zoo: Registry, load: Callable[..., State], tmp_path: Path) -> Callable[..., State]:
    """Merge a document; the tensors, all of which are finite."""

    def merged(text: str, registry: Registry = small_zoo) -> State:
        registry.merge(yaml.safe_load(text), out=tmp_path / "out")
        found = load(tmp_path / "out")
        assert all(t.isfinite().all() for t in found.values())
        return found

    return merged


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run_as_they_are(name: str, run: Callable[..., State]) -> None:
    found = run(EXAMPLES[name])

    asked = yaml.safe_load(EXAMPLES[name])["dtype"]
    assert {getattr(torch, asked)} == {t.dtype for t in found.values()}
    layers = 5 if name == "two stacked ranges" else 4
    assert set(llama(0, layers)) == set(found)


def test_both_spellings_of_an_example_are_one_merge(
    small_zoo: Registry, load: Callable[..., State], tmp_path: Path
) -> None:
    for name in ("gradient-slerp", "gradient-slerp with models"):
        small_zoo.merge(yaml.safe_load(EXAMPLES[name]), out=tmp_path / name)
    one, other = (load(tmp_path / n) for n in ("gradient-slerp", "gradient-slerp with models"))

    assert all(torch.equal(one[n], other[n]) for n in one | other)


@pytest.mark.parametrize("name", SUITE)
def test_configurations_of_the_suite_run_as_they_are(name: str, run: Callable[..., State]) -> None:
    document = yaml.safe_load(SUITE[name])

    found = run(SUITE[name])

    wanted = torch.bfloat16 if "dtype" in document else torch.float32
    assert {wanted} == {t.dtype for t in found.values()}
    if name == "passthrough with scale":
        assert {0.0} == {float(t.abs().max()) for n, t in found.items() if "o_proj" in n}
        assert found[HEAD].count_nonzero() > 0


def test_a_gpt2_stacked_on_itself_has_twice_the_layers(
    small_zoo: Registry, load: Callable[..., State], tmp_path: Path
) -> None:
    half = {"sources": [{"model": "gpt", "layer_range": [0, 3]}]}
    document = {"merge_method": "passthrough", "slices": [half] * 2, "dtype": "bfloat16"}

    small_zoo.merge(document, out=tmp_path / "out")

    assert 6 == json.loads((tmp_path / "out" / "config.json").read_text())["n_layer"]
    found = load(tmp_path / "out")
    assert 2.0 == float(found["transformer.h.5.attn.c_attn.weight"][0, 0])


def test_an_impossible_epsilon_is_refused(run: Callable[..., State]) -> None:
    with pytest.raises(InvalidRecipe, match="epsilon"):
        run(two("della", "z", density=0.66, epsilon=1.35, **{"lambda": 0.5}))


def test_a_parameter_of_another_method_has_no_effect_and_is_noted(small_zoo: Registry) -> None:
    notes = small_zoo.plan(yaml.safe_load(SUITE["slerp"])).notes

    assert "`weight` has no effect in mergekit's `slerp`." in notes


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """`a`, `b`, `c` that have eyes: a language model, a tower and a projector."""
    root = tmp_path_factory.mktemp("seeing")
    with zoo.open(root / "registry.db") as registry:
        for seed, name in enumerate("abc"):
            text = {f"language_model.{k}": t for k, t in llama(seed, 2).items()}
            tower = llama(seed + 5, 2)
            tower = {f"vision_tower.{k.removeprefix('model.')}": t for k, t in tower.items()}
            rest = {"multi_modal_projector.linear_1.weight": torch.randn(4, 4)}
            registry.register(write(root / name, {**text, **tower, **rest}), name=name)
        yield registry


@pytest.mark.parametrize("name", SEEING)
def test_models_of_several_modules_run_as_they_are(
    name: str, seeing: Registry, run: Callable[..., State]
) -> None:
    assert 3 * 2 + 2 * 2 * 4 + 1 == len(run(SEEING[name], seeing))


def test_the_manual_s_three_stages_run(
    small_zoo: Registry, load: Callable[..., State], tmp_path: Path
) -> None:
    path = tmp_path / "stages.yaml"
    path.write_text(
        """
name: first-merge
merge_method: linear
models:
  - model: a
  - model: b
parameters: {weight: 0.5}
---
name: second-merge
merge_method: slerp
base_model: first-merge
models: [{model: c}]
parameters: {t: 0.5}
---
merge_method: dare_ties
base_model: z
models:
  - {model: second-merge, parameters: {density: 0.6, weight: 0.5}}
  - {model: c, parameters: {density: 0.8, weight: 0.5}}
"""
    )

    small_zoo.merge(path, out=tmp_path / "out")

    assert set(llama(0)) == set(load(tmp_path / "out"))


@pytest.mark.parametrize("name", ABOUT_TOKENIZERS)
def test_configurations_about_tokenizers_are_read(name: str, small_zoo: Registry) -> None:
    document = {**yaml.safe_load(two("linear", "a")), **yaml.safe_load(ABOUT_TOKENIZERS[name])}

    recipe = read_recipe(document, small_zoo.plugins.methods)

    asked = any(k in document for k in ("tokenizer", "tokenizer_source"))
    assert asked == (recipe.tokenizer is not None)
    assert document.get("chat_template") == recipe.chat_template


def test_a_model_on_a_hub_is_answered_with_how_to_write_it(small_zoo: Registry) -> None:
    document = {"merge_method": "linear", "models": [{"model": "user/model@v1"}]}

    with pytest.raises(NotFound, match=r"no entry and no directory.*write `hf://user/model@v1`"):
        small_zoo.plan(document)


REFERENCES = [
    ("a", "a"),
    ({"model": "a"}, "a"),
    ({"model": {"path": "a"}}, "a"),
    ({"model": {"path": "a", "revision": "1"}, "lora": None}, "a@1"),
    ({"model": {"path": "a", "revision": "1"}, "lora": "b"}, "a@1+b"),
    ({"path": "a", "revision": None}, "a"),
    ("user/model@v0.0.1", "user/model@v0.0.1"),
]


@pytest.mark.parametrize("written, named", REFERENCES, ids=str)
def test_models_are_named_in_any_form_that_mergekit_reads(
    written: Any, named: str, small_zoo: Registry
) -> None:
    document = {"merge_method": "linear", "models": [{"model": written}], "dtype": "torch.float16"}

    recipe = read_recipe(document, small_zoo.plugins.methods)

    assert [named] == [e.model for e in recipe.experts] and "F16" == recipe.dtype


_TASK_VECTORS = frozenset({"weight", "density", "normalize", "rescale", "lambda", "int8_mask"})
THEIRS = {
    "linear": {"weight", "normalize"},
    "slerp": {"t"},
    "nuslerp": {"weight", "nuslerp_row_wise", "nuslerp_flatten"},
    "multislerp": {"weight", "normalize_weights", "eps"},
    "karcher": {"max_iter", "tol"},
    "model_stock": {"filter_wise"},
    "passthrough": {"scale"},
    "arcee_fusion": set(),
    "nearswap": {"t"},
    "sce": {"int8_mask", "select_topk"},
    "ram": {"epsilon"},
    "ramplus_tl": {"epsilon", "r", "alpha"},
    "task_arithmetic": _TASK_VECTORS,
    "ties": _TASK_VECTORS,
    "dare_linear": _TASK_VECTORS,
    "dare_ties": _TASK_VECTORS,
    "breadcrumbs": _TASK_VECTORS | {"gamma"},
    "breadcrumbs_ties": _TASK_VECTORS | {"gamma"},
    "della": _TASK_VECTORS | {"epsilon"},
    "della_linear": _TASK_VECTORS | {"epsilon"},
}
"""The parameters each of mergekit's methods defines."""


@pytest.mark.parametrize("name", THEIRS)
def test_every_method_of_mergekit_is_here_with_all_its_parameters(
    name: str, small_zoo: Registry
) -> None:
    methods = small_zoo.plugins.methods.values()
    known = {entry.name: entry for m in methods for entry in m.mergekit}

    assert THEIRS[name] == set(known[name].names)
