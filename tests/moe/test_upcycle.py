"""Mixtures of dense siblings compute what their parts say, as transformers loads them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny_siblings import HIDDEN, INNER, KINDS, LAYERS, dense, logits

import zoo
from zoo import Registry
from zoo.moe.dense import KINDS as DENSE
from zoo.moe.dense import spoken
from zoo.moe.draws import normal

Siblings = Callable[[str], list[Path]]
PROMPTS = [["w1 w2", "w7 w3 w4 w5"], ["w20"], ["w11 w13 w12"]]
LAYOUT = {"llama": "mixtral", "mistral": "mixtral", "qwen2": "qwen2_moe", "qwen3": "qwen3_moe"}


def config(models: list[Path], **more: Any) -> dict[str, Any]:
    """A configuration with prompts: the first model is the base, each other an expert."""
    experts = [
        {"source_model": str(m), "positive_prompts": p}
        for m, p in zip(models[1:], PROMPTS, strict=False)
    ]
    return {"base_model": str(models[0]), "experts": experts, **more}


def built(document: dict[str, Any], registry: Registry, folder: Path) -> Path:
    registry.upcycle(document, out=folder)
    return folder


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def gates(directory: Path, kind: str = "llama") -> torch.Tensor:
    """Shape (layers, experts, d)."""
    inner = "block_sparse_moe" if LAYOUT[kind] == "mixtral" else "mlp"
    state = tensors(directory)
    return torch.stack([state[f"model.layers.{i}.{inner}.gate.weight"] for i in range(LAYERS)])


@pytest.mark.parametrize(
    ("kind", "mode"), [*((kind, "hidden") for kind in KINDS), ("llama", "random")]
)
def test_a_mixture_of_copies_says_what_the_dense_model_says(
    kind: str, mode: str, registry: Registry, siblings: Siblings, tmp_path: Path
):
    base = siblings(kind)[0]

    made = built(config([base] * 4, gate_mode=mode), registry, tmp_path / "moe")

    assert LAYOUT[kind] == json.loads((made / "config.json").read_text())["model_type"]
    torch.testing.assert_close(logits(base), logits(made), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 777.0}}),
        ("mistral", {"sliding_window": 2}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 2, "max_window_layers": 1}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen3", {"attention_bias": True}),
        ("qwen3", {"rms_norm_eps": 0.1}),
    ],
)
def test_what_a_configuration_says_of_attention_stays(
    kind: str, more: dict[str, Any], registry: Registry, tmp_path: Path
):
    base = dense(kind, tmp_path / "base", 5, **more)

    made = built(config([base] * 3, gate_mode="random"), registry, tmp_path / "moe")

    torch.testing.assert_close(logits(base), logits(made), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_silence_in_a_configuration_means_what_it_meant(
    kind: str, registry: Registry, tmp_path: Path
):
    base = dense(kind, tmp_path / "base", 5, num_key_value_heads=4, head_dim=4)
    path = base / "config.json"
    full = json.loads(path.read_text())
    kept = {"architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size"}
    kept |= {"num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"}
    path.write_text(json.dumps({k: v for k, v in full.items() if k in kept}))

    made = built(config([base] * 3, gate_mode="random"), registry, tmp_path / "moe")

    torch.testing.assert_close(logits(base), logits(made), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_defaults_of_dense_kinds_are_those_of_transformers(kind: str):
    import transformers

    theirs = getattr(transformers, f"{KINDS[kind]}Config")(num_attention_heads=32)
    ours = spoken(DENSE[kind], {"num_attention_heads": 32})

    assert theirs.rope_parameters["rope_theta"] == ours.pop("rope_theta")
    if kind.startswith("qwen"):  # the class forgets a window that is not used
        assert ours.pop("sliding_window")
    assert {k: getattr(theirs, k) for k in ours} == ours


@pytest.mark.parametrize("kind", KINDS)
def test_under_equal_gates_the_output_is_the_mean_of_the_experts(
    kind: str, registry: Registry, siblings: Siblings, tmp_path: Path
):
    import transformers

    models = siblings(kind)[:4]
    made = built(config(models, experts_per_token=3), registry, tmp_path / "moe")
    mixture = transformers.AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32)
    x = torch.randn(1, 7, HIDDEN, generator=torch.Generator().manual_seed(0))
    for layer in range(LAYERS):
        block = mixture.model.layers[layer].mlp
        outputs = []
        for directory in models[1:]:
            state = tensors(directory)
            prefix = f"model.layers.{layer}.mlp."
            gate, up, down = (state[f"{prefix}{p}_proj.weight"] for p in ("gate", "up", "down"))
            outputs.append((torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T)
        with torch.no_grad():
            block.gate.weight.zero_()
            out = block(x)

        torch.testing.assert_close(torch.stack(outputs).mean(dim=0), out, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [*((kind, "hidden") for kind in KINDS), ("llama", "hidden_avg"), ("llama", "hidden_last")],
)
def test_hidden_gates_are_the_states_that_transformers_gives(
    kind: str, mode: str, registry: Registry, siblings: Siblings, tmp_path: Path
):
    import transformers

    models = siblings(kind)[:3]
    document = config(models, gate_mode=mode)
    document["experts"][1]["negative_prompts"] = ["w1 w2 w3", "w15"]
    base = transformers.AutoModel.from_pretrained(models[0], dtype=torch.float32)

    def state(prompts: list[str]) -> torch.Tensor:
        found = []
        for prompt in prompts:
            ids = [1, *(int(w[1:]) + 3 for w in prompt.split())]  # `<s>` is the first
            with torch.no_grad():
                hidden = base(torch.tensor([ids]), output_hidden_states=True).hidden_states
            entering = torch.stack(hidden[:LAYERS])[:, 0]
            found.append(entering.mean(dim=1) if mode == "hidden_avg" else entering[:, -1])
        return torch.stack(found).mean(dim=0)

    rows = [state(PROMPTS[0]), state(PROMPTS[1]) - state(["w1 w2 w3", "w15"])]
    expected = torch.stack([r / r.norm(dim=-1, keepdim=True) for r in rows], dim=1)

    made = gates(built(document, registry, tmp_path / "moe"), kind)

    torch.testing.assert_close(expected, made, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.ones(LAYERS, 2), made.norm(dim=-1))


def test_a_base_in_half_precision_is_run_in_single(registry: Registry, tmp_path: Path):
    import transformers

    models = [dense("qwen2", tmp_path / f"m{i}", i, "bfloat16") for i in range(3)]
    base = transformers.AutoModel.from_pretrained(models[0], dtype=torch.float32)
    with torch.no_grad():
        hidden = base(torch.tensor([[1, 23]]), output_hidden_states=True).hidden_states
    expected = torch.stack([h[0, -1] / h[0, -1].norm() for h in hidden[:LAYERS]])
    asked = config(models, dtype="float32")

    made = gates(built(asked, registry, tmp_path / "moe"), "qwen2")

    torch.testing.assert_close(expected, made[:, 1], rtol=1e-4, atol=1e-5)


def test_cheap_gates_are_sums_of_embeddings_in_every_layer(
    registry: Registry, siblings: Siblings, tmp_path: Path
):
    models = siblings("llama")[:3]
    document = config(models, gate_mode="cheap_embed")
    document["experts"][0]["negative_prompts"] = ["w3"]
    table = tensors(models[0])["model.embed_tokens.weight"].double().numpy()

    def sums(prompts: list[str]) -> Any:
        total = sum(
            table[1] + sum(table[int(w[1:]) + 3] for w in prompt.split()) for prompt in prompts
        )
        return total / np.linalg.norm(total)

    first = sums(PROMPTS[0]) - sums(["w3"])
    expected = np.stack([first / np.linalg.norm(first), sums(PROMPTS[1])])

    made = gates(built(document, registry, tmp_path / "moe"))

    for layer in range(LAYERS):
        np.testing.assert_allclose(expected, made[layer].numpy(), atol=1e-6)


def test_drawn_gates_follow_the_expert_and_the_seed(
    registry: Registry, siblings: Siblings, tmp_path: Path
):
    base, math, code, prose = siblings("llama")

    def drawn(experts: list[Path], mode: str = "random", seed: int = 0) -> torch.Tensor:
        document = config([base, *experts], gate_mode=mode, seed=seed)
        for e in document["experts"]:
            del e["positive_prompts"]
        folder = tmp_path / f"moe-{len(list(tmp_path.iterdir()))}"
        return gates(built(document, registry, folder))

    one = drawn([math, code, prose])

    assert torch.equal(one[:, [2, 0, 1]], drawn([prose, math, code]))
    assert not torch.equal(one, drawn([math, code, prose], seed=1))
    copies = drawn([math, math, math])
    assert 3 == len({tuple(row) for row in copies[0].tolist()})
    bound = HIDDEN**-0.5
    flat = drawn([math, code, prose], "uniform_random")
    assert bound * 0.9 < flat.abs().max() <= bound


def test_normal_numbers_are_normal_and_do_not_depend_on_where_one_begins():
    found = normal(3, "t", "key", 0, 40_000)

    assert np.array_equal(found[1001:1010], normal(3, "t", "key", 1001, 9))
    assert abs(found.mean()) < 0.02
    assert abs(found.std() - 1) < 0.02
    below = [(found < x).mean() for x in (-1.0, 0.0, 1.0)]
    np.testing.assert_allclose([0.1587, 0.5, 0.8413], below, atol=0.01)


def test_an_expert_is_copied_byte_for_byte_unless_it_is_changed(
    registry: Registry, siblings: Siblings, tmp_path: Path
):
    models = siblings("llama")[:3]
    document = config(models, gate_mode="random", seed=9)
    document["experts"][1] |= {"noise_scale": 0.05, "residual_scale": 0.5}

    made = tensors(built(document, registry, tmp_path / "moe"))

    plain, changed = tensors(models[1]), tensors(models[2])
    for layer in range(LAYERS):
        for part, name in (("gate", "w1"), ("down", "w2"), ("up", "w3")):
            inner = f"model.layers.{layer}.mlp.{part}_proj.weight"
            block = f"model.layers.{layer}.block_sparse_moe.experts"
            assert torch.equal(plain[inner], made[f"{block}.0.{name}.weight"])
            factor = 0.5 if part == "down" else 1.0
            noise = made[f"{block}.1.{name}.weight"] / factor - changed[inner]
            assert 0.035 < noise.std() < 0.065


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_type_that_is_asked_for_is_that_of_all_tensors(
    dtype: str, registry: Registry, siblings: Siblings, tmp_path: Path
):
    models = siblings("qwen2")[:3]

    made = built(config(models, dtype=dtype), registry, tmp_path / "moe")

    wanted = getattr(torch, dtype)
    assert {wanted} == {t.dtype for t in tensors(made).values()}
    original = tensors(models[1])["model.layers.1.mlp.up_proj.weight"].to(wanted)
    assert torch.equal(original, tensors(made)["model.layers.1.mlp.experts.0.up_proj.weight"])
    logits(made)


def test_experts_of_another_type_get_that_of_the_base(registry: Registry, tmp_path: Path):
    base = dense("llama", tmp_path / "base", 0, "bfloat16")
    experts = [dense("llama", tmp_path / f"e{i}", i, "float32") for i in (1, 2)]

    made = built(config([base, *experts]), registry, tmp_path / "moe")

    assert {torch.bfloat16} == {t.dtype for t in tensors(made).values()}


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_a_shared_expert_is_weighed_by_its_own_gate(
    kind: str, registry: Registry, siblings: Siblings, tmp_path: Path
):
    import transformers

    base, math, code, prose = siblings(kind)
    document = config([base, math, code], architecture="qwen")
    document["shared_experts"] = [{"source_model": str(prose), "positive_prompts": ["w4 w2"]}]

    made = built(document, registry, tmp_path / "moe")

    logits(made)
    state, shared = tensors(made), tensors(prose)
    mixture = transformers.AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32)
    x = torch.randn(1, 5, HIDDEN, generator=torch.Generator().manual_seed(0))
    block = mixture.model.layers[1].mlp
    prefix = "model.layers.1.mlp."
    gate, up, down = (shared[f"{prefix}{p}_proj.weight"] for p in ("gate", "up", "down"))
    out = (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T
    weight = torch.sigmoid(x @ state[f"{prefix}shared_expert_gate.weight"].T)
    with torch.no_grad():
        whole = block(x)
        block.shared_expert.down_proj.weight.zero_()
        rest = block(x)

    torch.testing.assert_close(weight * out, whole - rest, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        torch.ones(1), state[f"{prefix}shared_expert_gate.weight"].norm(dim=-1)
    )


def test_experts_wider_than_the_base_make_a_wider_mixture(registry: Registry, tmp_path: Path):
    base = dense("llama", tmp_path / "base", 0)
    experts = [dense("llama", tmp_path / f"e{i}", i, intermediate_size=40) for i in (1, 2)]

    made = built(config([base, *experts]), registry, tmp_path / "moe")

    assert 40 == json.loads((made / "config.json").read_text())["intermediate_size"]
    logits(made)


def test_a_mixture_is_a_version_that_replays_byte_for_byte(registry: Registry, siblings: Siblings):
    document = config(siblings("llama")[:3], seed=4)
    document["experts"][0]["noise_scale"] = 0.1

    version = registry.upcycle(document, name="moe", tags={"for": "test"})

    assert version is not None
    assert ("merge", "base@1", "mixtral") == (version.kind, version.base, version.architecture)
    roles = sorted((e["parent"], e["role"]) for e in registry.lineage("moe").edges)
    assert [("base@1", "base"), ("code@1", "expert"), ("math@1", "expert")] == roles
    verdict = registry.verify("moe", replay=True)
    assert (True, "platform") == (verdict.ok, verdict.replay_class)
    again = registry.upcycle(document, name="again", threads=1)
    assert again is not None
    assert version.digest == again.digest
    assert LAYERS == len(version.notes["router_condition"])
    module = zoo.load("moe", registry=registry)
    files = {p.name for p in registry.path("moe").iterdir()}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "zoo_recipe.json"} < files
    assert "MixtralForCausalLM" == type(module).__name__


def test_prompts_alike_are_noted_with_the_layers_they_spoil(registry: Registry, siblings: Siblings):
    document = config(siblings("llama")[:3], gate_mode="cheap_embed")
    document["experts"][0]["positive_prompts"] = ["w2 w9 w9 w9 w9 w12", "w20 w11"]
    document["experts"][1]["positive_prompts"] = ["w3 w9 w9 w9 w9 w12", "w20 w11"]

    version = registry.upcycle(document, name="moe")

    assert version is not None
    state = zoo.load_state("moe", registry=registry)
    first = state["model.layers.0.block_sparse_moe.gate.weight"].double().numpy()
    condition = np.linalg.cond(first)
    assert condition > 5
    assert [pytest.approx(condition, rel=1e-3)] * LAYERS == version.notes["router_condition"]
    (note,) = version.notes["notes"]
    assert note.startswith("the router hardly tells the experts apart in every layer")


def test_a_mixture_of_any_mode_needs_the_memory_of_one_layer(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import zoo.moe.hidden as hidden

    models = [dense("llama", tmp_path / f"m{i}", i, num_hidden_layers=6) for i in range(3)]
    read: list[str] = []
    whole = hidden.tensor_of

    def watched(checkpoint: Any, info: Any) -> torch.Tensor:
        read.append(info.name)
        return whole(checkpoint, info)

    monkeypatch.setattr(hidden, "tensor_of", watched)
    registry.upcycle(config(models), out=tmp_path / "moe")

    layers = [int(name.split(".")[2]) for name in read]
    assert sorted(layers) == layers  # one after the other, each once
    assert set(range(5)) == set(layers)  # what leaves the last is not asked for
    assert len(set(read)) == len(read)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, HIDDEN * INNER * 2), max_size=6), noise=st.booleans())
def test_bytes_do_not_depend_on_how_they_are_read(cuts: list[int], noise: bool):
    from zoo.checkpoint import MemoryCheckpoint
    from zoo.moe.elements import computed, elements

    weights = torch.arange(HIDDEN * INNER, dtype=torch.float32) / 7
    source = MemoryCheckpoint({"w": weights})

    def make(start: int, count: int) -> torch.Tensor:
        found = elements(source, source.tensors["w"], start, count)
        return found + torch.from_numpy(normal(1, "w", "k", start, count)) if noise else found

    read = computed("BF16", make)
    whole, parts = bytearray(HIDDEN * INNER * 2), bytearray(HIDDEN * INNER * 2)
    read(0, memoryview(whole))
    edges = [0, *sorted(cuts), len(parts)]
    for a, b in pairwise(edges):
        read(a, memoryview(parts)[a:b])

    assert hashlib.sha256(whole).digest() == hashlib.sha256(parts).digest()
    expected = make(0, HIDDEN * INNER).to(torch.bfloat16).view(torch.uint8).numpy().tobytes()
    assert expected == bytes(whole)
