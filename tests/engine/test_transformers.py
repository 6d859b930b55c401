"""Merges of transformers' models load where the originals did, and compute what they should."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import State

import zoo
from zoo import Registry
from zoo.plugins import Plugins

transformers = pytest.importorskip("transformers")

FAMILIES = ["llama", "llama-tied", "gpt2", "gpt2-tied"]
TOKENS = torch.tensor([[1, 5, 9, 2, 30], [7, 7, 3, 0, 63]])


def config_of(family: str) -> Any:
    tied = family.endswith("-tied")
    if family.startswith("llama"):
        return transformers.LlamaConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
            tie_word_embeddings=tied,
        )
    return transformers.GPT2Config(
        vocab_size=64,
        n_embd=16,
        n_layer=3,
        n_head=4,
        n_positions=32,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=0,
    )


@pytest.fixture(scope="module", params=FAMILIES)
def models(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, plugins: Plugins
) -> Iterator[tuple[Registry, dict[str, State], Any]]:
    """A zoo with a base and three experts of one family, their tensors, and the configuration."""
    place = tmp_path_factory.mktemp(request.param)
    config = config_of(request.param)
    states: dict[str, State] = {}
    with zoo.open(place / "registry.db", plugins=plugins) as registry:
        torch.manual_seed(0)
        base = transformers.AutoModelForCausalLM.from_config(config)
        for name in ("base", "a", "b", "c"):
            model = transformers.AutoModelForCausalLM.from_config(config)
            model.load_state_dict(base.state_dict())
            if name != "base":
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter += 0.05 * torch.randn_like(parameter)
            model.save_pretrained(place / name)
            states[name] = load_file(place / name / "model.safetensors")
            registry.register(place / name, name=name, base=None if name == "base" else "base")
        yield registry, states, config


def logits(directory: Path) -> torch.Tensor:
    """What the model in a directory makes of some tokens, loaded as anybody would."""
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        directory, output_loading_info=True, local_files_only=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        return model.eval()(TOKENS).logits


def by_hand(config: Any, state: State) -> torch.Tensor:
    """The same tokens through a model whose weights were merged by hand."""
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.load_state_dict(state, strict=not config.tie_word_embeddings)
    if config.tie_word_embeddings:
        model.tie_weights()
    with torch.no_grad():
        return model.eval()(TOKENS).logits


def linear(states: dict[str, State]) -> State:
    a, b = states["a"], states["b"]
    return {n: (0.25 * a[n].double() + 0.75 * b[n].double()).float() for n in a}


def task_arithmetic(states: dict[str, State]) -> State:
    base = states["base"]
    return {
        n: (
            base[n].double()
            + 0.5 * sum(states[e][n].double() - base[n].double() for e in ("a", "b", "c"))
        ).float()
        for n in base
    }


def slerp(states: dict[str, State]) -> State:
    merged = {}
    for n, a in states["a"].items():
        x, y = a.double().flatten(), states["b"][n].double().flatten()
        cosine = float(x @ y / x.norm() / y.norm())
        if abs(cosine) > 0.9995:
            first, second = 0.7, 0.3
        else:
            theta = math.acos(cosine)
            first, second = (math.sin(s * theta) / math.sin(theta) for s in (0.7, 0.3))
        merged[n] = (first * x + second * y).reshape(a.shape).float()
    return merged


def ties(states: dict[str, State]) -> State:
    """The whole model as one vector, names ascending."""
    names = sorted(states["base"])
    flat = {e: torch.cat([s[n].double().flatten() for n in names]) for e, s in states.items()}
    deltas = []
    for expert in ("a", "b", "c"):
        # As the engine subtracts: in float32.
        delta = (flat[expert].float() - flat["base"].float()).double()
        keep = int(0.3 * len(delta))
        order = delta.abs().argsort(descending=True, stable=True)[:keep]
        deltas.append(torch.zeros_like(delta).index_put((order,), delta[order]))
    stack = torch.stack(deltas)
    sign = stack.sum(0).sign()
    sign[sign == 0] = sign.sum().sign()
    agree = (stack.sign() == sign) & (stack != 0)
    mean = (stack * agree).sum(0) / agree.sum(0).clamp_min(1)
    merged = (flat["base"] + mean).float()
    sizes = [states["base"][n].numel() for n in names]
    return {
        n: piece.reshape(states["base"][n].shape)
        for n, piece in zip(names, merged.split(sizes), strict=True)
    }


MERGES: dict[str, tuple[Callable[[dict[str, State]], State], dict[str, Any]]] = {
    "linear": (linear, {"experts": ["a", "b"], "parameters": {"weight": [0.25, 0.75]}}),
    "slerp": (slerp, {"experts": ["a", "b"], "parameters": {"t": 0.3}}),
    "task_arithmetic": (
        task_arithmetic,
        {"experts": ["a", "b", "c"], "parameters": {"lambda": 0.5}},
    ),
    "ties": (ties, {"experts": ["a", "b", "c"], "parameters": {"density": 0.3}}),
}


@pytest.mark.parametrize("method", MERGES)
def test_an_exported_merge_loads_and_computes_what_a_merge_by_hand_does(
    method: str, models: tuple[Registry, dict[str, State], Any], tmp_path: Path
) -> None:
    registry, states, config = models
    hand, asked = MERGES[method]

    version = registry.merge(method=method, name=method, **asked)
    assert version is not None
    exported = registry.export(version.ref, tmp_path / "exported")

    expected = hand(states)
    merged = load_file(exported / "model.safetensors")
    assert expected.keys() == merged.keys()
    for name, value in expected.items():
        torch.testing.assert_close(merged[name], value, rtol=1e-5, atol=1e-6)
    found = logits(exported)
    torch.testing.assert_close(found, by_hand(config, expected), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, logits(registry.path("base")), atol=1e-3)
    torch.testing.assert_close(logits(registry.path(version.ref)), found, rtol=0, atol=0)


def test_a_scale_of_zero_computes_exactly_what_the_base_does(
    models: tuple[Registry, dict[str, State], Any],
) -> None:
    registry, _, _ = models

    registry.merge(method="ties", experts=["a", "b"], parameters={"lambda": 0.0}, name="nothing")

    assert registry.get("nothing").digest == registry.get("base").digest
    assert torch.equal(logits(registry.path("base")), logits(registry.path("nothing")))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_another_type_is_written_into_the_configuration(
    dtype: str, models: tuple[Registry, dict[str, State], Any]
) -> None:
    registry, states, _ = models

    registry.merge(
        {
            "method": "linear",
            "experts": ["a", "b"],
            "dtype": dtype,
            "parameters": {"weight": [0.25, 0.75]},
        },
        name=dtype,
    )

    path = registry.path(dtype)
    config = json.loads((path / "config.json").read_text())
    assert dtype == config.get("dtype", config.get("torch_dtype"))
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype="auto", local_files_only=True
    )
    assert {getattr(torch, dtype)} == {p.dtype for p in model.parameters()}
    merged = load_file(path / "model.safetensors")
    for name, value in linear(states).items():
        assert torch.equal(value.to(merged[name].dtype), merged[name]) or torch.allclose(
            value, merged[name].float(), rtol=2**-7
        )
    before = json.loads((registry.path("a") / "config.json").read_text())
    changed = {k for k in before.keys() | config if before.get(k) != config.get(k)}
    assert changed <= {"dtype", "torch_dtype"}


def test_a_head_stored_although_it_is_tied_counts_once_and_stays_tied(
    models: tuple[Registry, dict[str, State], Any], tmp_path: Path
) -> None:
    registry, states, config = models
    if not config.tie_word_embeddings:
        pytest.skip("its head is its own")
    embedding = next(n for n in states["base"] if n.endswith(("embed_tokens.weight", "wte.weight")))
    for name in ("base", "a", "b", "c"):
        directory = tmp_path / name
        directory.mkdir()
        state = {**states[name], "lm_head.weight": states[name][embedding].clone()}
        save_file(state, directory / "model.safetensors", {"format": "pt"})
        (directory / "config.json").write_text((registry.path(name) / "config.json").read_text())
        registry.register(directory, name=f"{name}-stored", kind="expert")

    asked = {
        "method": "ties",
        "base": "base-stored",
        "experts": ["a-stored", "b-stored", "c-stored"],
        "name": "stored",
    }
    each = {"density": 0.3, "scope": "tensor", "zero_sign": "positive"}
    registry.merge(**asked, parameters=each)
    merged = load_file(registry.path("stored") / "model.safetensors")
    assert torch.equal(merged["lm_head.weight"], merged[embedding])

    rules = [{"filter": embedding, "value": 0.0}, {"value": 1.0}]
    registry.merge(**asked, parameters={"lambda": rules})
    merged = load_file(registry.path("stored") / "model.safetensors")
    assert torch.equal(merged["lm_head.weight"], states["base"][embedding])

    registry.merge(**asked, parameters={"density": 0.3})

    merged = load_file(registry.path("stored") / "model.safetensors")
    assert torch.equal(merged["lm_head.weight"], merged[embedding])
    expected = ties(states)
    for name, value in expected.items():
        torch.testing.assert_close(merged[name], value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        logits(registry.path("stored")), by_hand(config, expected), rtol=1e-4, atol=1e-5
    )


def test_a_mergekit_document_names_layers_and_filters_as_transformers_does(
    models: tuple[Registry, dict[str, State], Any],
) -> None:
    registry, states, _ = models
    names = states["base"]
    attention = "self_attn" if any("self_attn" in n for n in names) else "attn"

    registry.merge(
        {
            "merge_method": "task_arithmetic",
            "base_model": "base",
            "slices": [
                {
                    "sources": [
                        {"model": "base", "layer_range": [0, 3]},
                        {"model": "a", "layer_range": [0, 3], "parameters": {"weight": 1.0}},
                    ]
                }
            ],
            "parameters": {
                "lambda": [
                    {"filter": attention, "value": [0.0, 0.5, 1.0]},
                    {"filter": "mlp", "value": 0.25},
                    {"value": [0.75, 0.1, 1.0]},
                ]
            },
        },
        name="layered",
    )

    merged = load_file(registry.path("layered") / "model.safetensors")
    for name, base in names.items():
        layer = next((int(p) for p in name.split(".") if p.isdigit()), None)
        if layer is None:
            scale = 0.75  # mergekit has all that is outside the layers at the beginning
        elif attention in name:
            scale = (0.0, 0.5, 1.0)[layer]
        elif "mlp" in name:
            scale = 0.25
        else:
            scale = (0.75, 0.1, 1.0)[layer]
        expected = base.double() + scale * (states["a"][name].double() - base.double())
        torch.testing.assert_close(merged[name], expected.float(), rtol=1e-5, atol=1e-6)
