"""What speaks against a mixture is told before anything is read or written, all at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_siblings import WORDS, dense, tokenizer

from zoo import Registry
from zoo.errors import IncompatibleModels, InvalidRecipe, NotFound

Siblings = Callable[[str], list[Path]]


def document(base: Path, experts: list[Path], **more: Any) -> dict[str, Any]:
    prompts = [["w1 w2"], ["w5"], ["w9"], ["w4"]]
    said = [
        {"source_model": str(e), "positive_prompts": p}
        for e, p in zip(experts, prompts, strict=False)
    ]
    return {"base_model": str(base), "experts": said, **more}


def problems(registry: Registry, asked: dict[str, Any], out: Path) -> list[str]:
    with pytest.raises(IncompatibleModels) as caught:
        registry.upcycle(asked, out=out)

    assert not out.exists()
    found: list[str] = caught.value.problems
    return found


def changed(source: Path, target: Path, **config: Any) -> Path:
    """A copy of a model that says something else of itself; None takes a word away."""
    shutil.copytree(source, target)
    own = {**json.loads((target / "config.json").read_text()), **config}
    (target / "config.json").write_text(json.dumps({k: v for k, v in own.items() if v is not None}))
    return target


def with_tensors(model: Path, **more: torch.Tensor | None) -> Path:
    file = model / "model.safetensors"
    state = {**load_file(file), **{k.replace("__", "."): v for k, v in more.items()}}
    save_file({k: v for k, v in state.items() if v is not None}, file, {"format": "pt"})
    return model


def test_all_problems_are_told_at_once(registry: Registry, siblings: Siblings, tmp_path: Path):
    base, math, *_ = siblings("llama")
    other = dense("llama", tmp_path / "other", 7, num_hidden_layers=2)
    asked = document(base, [math, other], experts_per_token=5)
    del asked["experts"][0]["positive_prompts"]

    found = problems(registry, asked, tmp_path / "out")

    assert [
        f"`{other}` has num_hidden_layers 2, and the base 3",
        "`experts_per_token` is 5, and there are 2 experts",
        f"expert 0, `{math}`, has no `positive_prompts`, which `gate_mode: hidden` needs: write "
        "some, or choose `gate_mode: random`",
    ] == found


def test_experts_of_another_architecture_are_refused(
    registry: Registry, siblings: Siblings, tmp_path: Path
):
    base, math, *_ = siblings("llama")
    stranger = siblings("qwen2")[1]

    (found,) = problems(registry, document(base, [math, stranger]), tmp_path / "out")

    assert f"`{stranger}` is `qwen2` and the base is `llama`" in found


def test_a_base_that_no_layout_is_made_of_is_refused_with_those_that_are(
    registry: Registry, siblings: Siblings, tmp_path: Path
):
    base = changed(siblings("llama")[0], tmp_path / "gpt", model_type="gpt2")

    found = problems(registry, document(base, siblings("llama")[1:3]), tmp_path / "out")

    assert (
        "the base is `gpt2`, and mixtures are made of `llama`, `mistral`, `qwen2`, `qwen3`"
        == found[0]
    )


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("mixtrl", "there is no layout `mixtrl`; Did you mean `mixtral`?"),
        ("deepseek", "there is no layout `deepseek`; Known: `mixtral`, `qwen2_moe`, `qwen3_moe`"),
        ("qwen3", "the base is `llama`, and `qwen3_moe` is made of `qwen3`"),
        ("", "there is no layout ``"),
    ],
)
def test_a_layout_that_is_not_there_is_refused_with_those_that_are(
    word: str, said: str, registry: Registry, siblings: Siblings, tmp_path: Path
):
    base, *experts = siblings("llama")

    (found,) = problems(registry, document(base, experts, architecture=word), tmp_path / "out")

    assert said in found


def test_a_layout_without_shared_experts_is_refused_for_one(
    registry: Registry, siblings: Siblings, tmp_path: Path
):
    base, math, code, prose = siblings("qwen3")
    asked = document(base, [math, code], shared_experts=[{"source_model": str(prose)}])

    assert ["`qwen3_moe` has no shared expert, and 1 are given"] == problems(
        registry, asked, tmp_path / "out"
    )


@pytest.mark.parametrize(
    ("kind", "config", "said"),
    [
        ("llama", {"attention_bias": True}, "the attention of the base"),
        ("llama", {"mlp_bias": True}, "and no mixture has them"),
        ("qwen3", {"use_sliding_window": True}, "set `use_sliding_window` to false"),
        ("llama", {"quantization_config": {"bits": 4}}, "is quantized"),
        ("llama", {"num_hidden_layers": 9}, "lacks `model.layers.3.input_layernorm.weight`"),
        ("llama", {"num_hidden_layers": 10**12}, "says 1000000000000 layers for 30 tensors"),
        ("llama", {"num_hidden_layers": "3"}, "has no usable `num_hidden_layers`"),
        ("llama", {"hidden_size": None}, "has no usable `hidden_size`"),
    ],
)
def test_a_base_with_what_no_mixture_has_is_refused(
    kind: str,
    config: dict[str, Any],
    said: str,
    registry: Registry,
    siblings: Siblings,
    tmp_path: Path,
):
    base = changed(siblings(kind)[0], tmp_path / "base", **config)

    found = problems(registry, document(base, siblings(kind)[1:3]), tmp_path / "out")

    assert any(said in problem for problem in found), found


def test_tensors_that_are_missing_left_over_or_misshapen_are_named(
    registry: Registry, siblings: Siblings, tmp_path: Path
):
    base, math, code, prose = (changed(m, tmp_path / m.name) for m in siblings("llama"))
    with_tensors(base, model__layers__1__adapter__weight=torch.ones(2))
    with_tensors(math, model__layers__2__mlp__up_proj__weight=None)
    with_tensors(code, model__layers__0__mlp__down_proj__weight=torch.ones(3, 3))
    with_tensors(prose, model__layers__0__mlp__down_proj__weight=torch.ones(16, 24).to(torch.int8))

    found = problems(registry, document(base, [math, code, prose]), tmp_path / "out")

    assert [
        f"the base `{base}` has `model.layers.1.adapter.weight`, for which a mixture has no place: "
        "remove it, or choose another base",
        f"`{math}` lacks `model.layers.2.mlp.up_proj.weight`",
        f"`model.layers.0.mlp.down_proj.weight` of `{code}` is (3, 3), not (16, 24)",
        f"`{prose}` has MLPs of `I8`: give it dequantized",
    ] == found


def test_what_follows_from_the_configuration_is_left_behind(
    registry: Registry, siblings: Siblings, tmp_path: Path
):
    base = changed(siblings("llama")[0], tmp_path / "base")
    with_tensors(base, model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(2))

    registry.upcycle(document(base, siblings("llama")[1:3]), out=tmp_path / "moe")

    assert not any("inv_freq" in n for n in load_file(tmp_path / "moe/model.safetensors"))


def test_experts_of_different_width_are_refused(
    registry: Registry, siblings: Siblings, tmp_path: Path
):
    base, math, *_ = siblings("llama")
    wide = dense("llama", tmp_path / "wide", 7, intermediate_size=40)

    found = problems(registry, document(base, [math, wide]), tmp_path / "out")

    assert [f"the MLPs of the experts differ in width: `{math}` 24, `{wide}` 40"] == found


def test_tokens_that_moved_are_refused_and_tokens_added_are_noted(
    registry: Registry, siblings: Siblings, tmp_path: Path
):
    base, math, code, _ = siblings("llama")
    moved = tokenizer(changed(math, tmp_path / "moved"), [*WORDS[:3], *WORDS[:2:-1]])
    more = tokenizer(changed(code, tmp_path / "more"), added=["<|im_start|>"])

    (found,) = problems(registry, document(base, [moved, more]), tmp_path / "out")
    plan = registry.plan_upcycle(document(base, [math, more]))

    assert f"`{moved}` and the base number their tokens differently: `w28` (31 and 3)" in found
    assert [f"`{more}` knows 33 tokens and the base 32; the mixture knows the base's"] == plan[
        "notes"
    ]["notes"]


def test_embeddings_of_another_size_without_a_tokenizer_are_refused(
    registry: Registry, siblings: Siblings, tmp_path: Path
):
    base, math, *_ = siblings("llama")
    large = dense("llama", tmp_path / "large", 7, vocab_size=40)
    (large / "tokenizer.json").unlink()

    (found,) = problems(registry, document(base, [math, large]), tmp_path / "out")

    assert f"`{large}` has 40 token embeddings and the base 32" in found


def test_prompts_need_the_tokenizer_of_the_base(
    registry: Registry, siblings: Siblings, tmp_path: Path
):
    base, math, code, _ = siblings("llama")
    bare = changed(base, tmp_path / "bare")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).unlink()
    broken = changed(base, tmp_path / "broken")
    (broken / "tokenizer.json").write_text('{"model": {"type": "No", "vocab": {}}}')
    long = tokenizer(changed(base, tmp_path / "long"), [*WORDS, *(f"x{i}" for i in range(9))])
    foreign = document(long, [math, code])
    foreign["experts"][0]["positive_prompts"] = ["x3"]

    (without,) = problems(registry, document(bare, [math, code]), tmp_path / "out")
    unread = problems(registry, document(broken, [math, code]), tmp_path / "out")
    (beyond,) = problems(registry, foreign, tmp_path / "out")

    assert f"the base `{bare}` has no tokenizer beside its weights" in without
    assert any(f"the tokenizer of the base `{broken}` cannot be used" in p for p in unread), unread
    assert "token 35 of the prompt 'x3' has no embedding" in beyond


@pytest.mark.parametrize(
    ("module", "library"), [("prompts", "tokenizers"), ("hidden", "transformers")]
)
def test_a_missing_library_is_told_with_the_remedy(
    module: str,
    library: str,
    registry: Registry,
    siblings: Siblings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    base, math, code, _ = siblings("llama")
    monkeypatch.setattr(f"zoo.moe.{module}.find_spec", lambda name: None)

    (found,) = problems(registry, document(base, [math, code]), tmp_path / "out")

    assert f"`pip install {library}`" in found


def test_a_base_that_transformers_cannot_build_is_refused_before_its_states_are_asked_for(
    registry: Registry, siblings: Siblings, tmp_path: Path
):
    base = changed(siblings("llama")[0], tmp_path / "base", hidden_act="no such thing")
    experts = [
        changed(m, tmp_path / m.name, hidden_act="no such thing") for m in siblings("llama")[1:3]
    ]

    (found,) = problems(registry, document(base, experts), tmp_path / "out")

    assert f"transformers cannot build the base `{base}`" in found


def test_prompts_that_say_nothing_or_the_same_are_refused(
    registry: Registry, siblings: Siblings, tmp_path: Path
):
    base, math, code, _ = siblings("llama")
    same = document(base, [math, code])
    same["experts"][1]["positive_prompts"] = ["w1 w2"]
    (base_of_none := changed(base, tmp_path / "none")).joinpath("tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast"}'
    )
    empty = document(base_of_none, [math, code])
    empty["experts"][0]["positive_prompts"] = [""]

    assert "all experts have the same prompts" in problems(registry, same, tmp_path / "o")[0]
    assert "the prompt '' has no tokens" in problems(registry, empty, tmp_path / "o")[0]


def test_a_model_without_a_configuration_is_refused(
    registry: Registry, siblings: Siblings, tmp_path: Path
):
    base, math, code, _ = siblings("llama")
    bare = changed(base, tmp_path / "bare")
    (bare / "config.json").unlink()

    found = problems(registry, document(bare, [math, code]), tmp_path / "out")

    assert [f"`{bare}` has no `config.json`: put it beside the weights"] == found


def test_what_makes_a_mixture_useless_untrained_is_noted(registry: Registry, siblings: Siblings):
    base, *_ = siblings("llama")

    plan = registry.plan_upcycle(document(base, [base] * 3, gate_mode="random"))

    assert [
        "3 experts are no power of two: llama.cpp will not run the mixture",
        "all experts are one model: the mixture does what it does, until it is trained",
        "the router is drawn at random: train it before use",
    ] == plan["notes"]["notes"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base_modl: a", "Unknown key `base_modl` in the configuration of a mixture. Did you mean"),
        ("experts: [{source_model: a}]", "`base_model` must name a model, not None"),
        ("base_model: a", "A mixture needs two experts or more, and `experts` lists 0"),
        ("base_model: a\nexperts: {a: b}", "`experts` must be a list"),
        ("base_model: a\nexperts: [a, b]", "`experts[0]` must be a map, not 'a'"),
        (
            "base_model: a\nexperts: [{source_model: b, positive_prompt: [x]}]",
            "Unknown key `positive_prompt` in `experts[0]`. Did you mean `positive_prompts`",
        ),
        (
            "base_model: a\nexperts: [{source_model: b, positive_prompts: x}]",
            "`experts[0].positive_prompts` must be a list, not 'x'",
        ),
        (
            "base_model: a\nexperts: [{source_model: b, positive_prompts: [2 + 2, 4]}]",
            "`experts[0].positive_prompts` has 4, which is no text. Put quotes around each prompt",
        ),
        ("base_model: {path: a, revison: b}", "`base_model` must name a model"),
        ("base_model: [", "is not YAML"),
        ("--- {}\n--- {}", "holds 2 documents"),
        ("- base_model", "must be a map"),
    ],
)
def test_a_configuration_is_read_strictly(text: str, said: str, registry: Registry, tmp_path: Path):
    path = tmp_path / "mixture.yaml"
    path.write_text(text)

    with pytest.raises(InvalidRecipe) as caught:
        registry.upcycle(path, out=tmp_path / "out")

    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"gate_mode": "hiden"}, "cannot take `gate_mode`"),
        ({"experts_per_token": 0}, "cannot take `experts_per_token`"),
        ({"dtype": "int7"}, "`int7` is no type a merge can have"),
        ({"noise": -1.0}, "cannot take `experts.0.noise_scale`"),
        ({"noise": float("nan")}, "cannot take `experts.0.noise_scale`"),
        ({"seed": "x"}, "cannot take `seed`"),
    ],
)
def test_values_out_of_range_are_refused(
    more: dict[str, Any], said: str, registry: Registry, siblings: Siblings, tmp_path: Path
):
    base, *experts = siblings("llama")
    noise = more.pop("noise", None)
    asked = document(base, experts, **more)
    asked["experts"][0]["noise_scale"] = noise

    with pytest.raises(InvalidRecipe) as caught:
        registry.upcycle(asked, out=tmp_path / "out")

    assert said in str(caught.value)


def test_a_yaml_bomb_is_refused(registry: Registry, tmp_path: Path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    (path := tmp_path / "bomb.yaml").write_text("\n".join(lines))

    with pytest.raises(InvalidRecipe, match="unfolds to more than"):
        registry.upcycle(path, out=tmp_path / "out")


def test_models_that_are_nowhere_are_named(registry: Registry, siblings: Siblings, tmp_path: Path):
    base, math, *_ = siblings("llama")

    with pytest.raises(NotFound, match="mistral-math"):
        registry.upcycle(document(base, [math, Path("mistral-math")]), out=tmp_path / "out")
