"""Adapters in PEFT's layout: every variant is what peft itself merges."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_models import (
    Convolutions,
    Make,
    classifier,
    gpt2,
    largest_difference,
    llama,
    peft_adapter,
    save_state,
)

import zoo
from zoo.errors import IncompatibleModels, NotFound

peft = pytest.importorskip("peft")


def adapted(tmp_path: Path, make: Make, config: Any) -> tuple[dict[str, torch.Tensor], Any]:
    """(what a merge of the one adapter has, what peft has)."""
    model = make()
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(tmp_path / "base")
    else:
        save_state(model, tmp_path / "base")
    theirs = peft_adapter(model, config, tmp_path / "adapter")
    with zoo.open(tmp_path / "r.db") as registry:
        registry.register(tmp_path / "base", name="base", kind="base")
        version = registry.register(tmp_path / "adapter", name="a", base="base")

        assert version.kind == "adapter"
        assert version.base == "base@1"

        merged = registry.merge(method="linear", experts=["a"], name="merged")
        assert merged is not None
        return registry.load_state(merged.ref), theirs


def lora(**settings: Any) -> Any:
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 6, **settings})


CASES = {
    "plain": (llama, lambda: lora(target_modules=["q_proj", "v_proj"])),
    "all linear layers": (llama, lambda: lora(target_modules="all-linear", task_type="CAUSAL_LM")),
    "rank stabilized": (llama, lambda: lora(target_modules=["q_proj"], use_rslora=True)),
    "patterns of ranks and alphas": (
        llama,
        lambda: lora(
            target_modules=["q_proj", "k_proj", "down_proj"],
            rank_pattern={
                "q_proj": 2,
                r"layers\.1\..*k_proj": 7,
                "^model.layers.0.mlp.down_proj": 3,
            },
            alpha_pattern={"k_proj": 9, r"layers.[1-9].self_attn.q_proj": 5},
        ),
    ),
    "patterns, stabilized": (
        llama,
        lambda: lora(
            target_modules=["q_proj", "o_proj"],
            rank_pattern={"o_proj": 9},
            alpha_pattern={"layers.0.self_attn.q_proj": 1},
            use_rslora=True,
        ),
    ),
    "more than 32 ranks": (llama, lambda: lora(target_modules=["up_proj"], r=40, lora_alpha=3)),
    "some layers": (
        llama,
        lambda: lora(target_modules=["q_proj"], layers_to_transform=[1], layers_pattern="layers"),
    ),
    "DoRA": (llama, lambda: lora(target_modules=["q_proj", "down_proj"], use_dora=True)),
    "embeddings": (llama, lambda: lora(target_modules=["embed_tokens", "q_proj"])),
    "embeddings, DoRA": (llama, lambda: lora(target_modules=["embed_tokens"], use_dora=True)),
    "new tokens": (
        llama,
        lambda: lora(target_modules=["q_proj"], trainable_token_indices=[3, 17, 40]),
    ),
    "modules to save": (
        llama,
        lambda: lora(target_modules=["q_proj"], modules_to_save=["lm_head", "norm"]),
    ),
    "Conv1D": (gpt2, lambda: lora(target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)),
    "Conv1D, unsaid": (gpt2, lambda: lora(target_modules=["c_proj"])),
    "Conv1D, DoRA": (
        gpt2,
        lambda: lora(target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, use_dora=True),
    ),
    "biases, all": (classifier, lambda: lora(target_modules=["query"], bias="all")),
    "biases, of targets": (classifier, lambda: lora(target_modules=["query"], bias="lora_only")),
    "biases of factors": (classifier, lambda: lora(target_modules=["query"], lora_bias=True)),
    "a classifier": (
        classifier,
        lambda: lora(target_modules=["query", "value"], task_type="SEQ_CLS"),
    ),
    "convolutions": (Convolutions, lambda: lora(target_modules=["wide", "point", "line", "head"])),
    "convolutions, DoRA": (
        Convolutions,
        lambda: lora(target_modules=["wide", "point", "line"], use_dora=True),
    ),
    "LoHa": (llama, lambda: peft.LoHaConfig(r=4, alpha=6, target_modules=["q_proj", "k_proj"])),
    "LoHa, convolutions": (
        Convolutions,
        lambda: peft.LoHaConfig(r=2, alpha=3, target_modules=["wide", "point", "head"]),
    ),
    "LoHa, Tucker": (
        Convolutions,
        lambda: peft.LoHaConfig(r=2, alpha=3, target_modules=["wide"], use_effective_conv2d=True),
    ),
    "LoKr": (llama, lambda: peft.LoKrConfig(r=2, alpha=3, target_modules=["q_proj", "down_proj"])),
    "LoKr, both decomposed": (
        llama,
        lambda: peft.LoKrConfig(
            r=2, alpha=3, target_modules=["q_proj", "up_proj"], decompose_both=True
        ),
    ),
    "LoKr, convolutions": (
        Convolutions,
        lambda: peft.LoKrConfig(r=1, alpha=3, target_modules=["wide", "point", "head"]),
    ),
    "LoKr, Tucker": (
        Convolutions,
        lambda: peft.LoKrConfig(r=1, alpha=3, target_modules=["wide"], use_effective_conv2d=True),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_is_what_peft_merges(case: str, tmp_path: Path) -> None:
    make, config = CASES[case]

    ours, theirs = adapted(tmp_path, make, config())

    base = make().state_dict()
    changed = [n for n, t in ours.items() if not torch.equal(t, base[n])]
    assert changed, "the adapter did nothing"
    assert largest_difference(ours, theirs) < 1e-6


def test_a_torch_file_of_an_older_peft_is_the_same_adapter(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = llama()
    model.save_pretrained(tmp_path / "base")
    peft_adapter(model, lora(target_modules=["q_proj"]), tmp_path / "new")
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    weights = tmp_path / "old" / "adapter_model.safetensors"
    torch.save(load_file(weights), tmp_path / "old" / "adapter_model.bin")
    weights.unlink()
    with zoo.open(tmp_path / "r.db") as registry:
        registry.register(tmp_path / "base", name="base", kind="base")

        new = registry.register(tmp_path / "new", name="new", base="base")
        old = registry.register(tmp_path / "old", name="old", base="base")

        assert new.digest == old.digest
        assert new.base == old.base == "base@1"
        assert (registry.path("old") / "adapter_model.safetensors").is_file()


def test_the_base_is_the_version_that_was_registered_from_what_the_adapter_names(
    tmp_path: Path,
) -> None:
    from transformers import LlamaForCausalLM

    llama().save_pretrained(tmp_path / "base")  # type: ignore[operator]
    model = LlamaForCausalLM.from_pretrained(tmp_path / "base")
    peft_adapter(model, lora(target_modules=["q_proj"]), tmp_path / "a")
    with zoo.open(tmp_path / "r.db") as registry:
        with pytest.raises(NotFound, match="--base REF"):
            registry.register(tmp_path / "a", name="a")
        assert registry.select() == []

        registry.register(tmp_path / "base", name="other", kind="base")
        by_source = registry.register(tmp_path / "a", name="a")
        config = tmp_path / "a" / "adapter_config.json"
        content = json.loads(config.read_text())
        config.write_text(json.dumps({**content, "base_model_name_or_path": "other"}))
        by_name = registry.register(tmp_path / "a", name="a")

        assert "other@1" == by_source.base == by_name.base


def test_factors_and_configuration_are_kept_byte_for_byte(tmp_path: Path) -> None:
    model = llama()
    model.save_pretrained(tmp_path / "base")
    peft_adapter(model, lora(target_modules=["q_proj"]), tmp_path / "a")
    with zoo.open(tmp_path / "r.db") as registry:
        registry.register(tmp_path / "base", name="base", kind="base")
        registry.register(tmp_path / "a", name="a", base="base")

        kept = registry.path("a")

        for name in ("adapter_config.json", "adapter_model.safetensors"):
            assert (tmp_path / "a" / name).read_bytes() == (kept / name).read_bytes()
        assert registry.get("a").notes["adapter"] == {
            "layout": "peft",
            "method": "LORA",
            "targets": 2,
            "rank": 4,
        }


def test_names_that_hand_saved_adapters_have_are_read(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = llama()
    model.save_pretrained(tmp_path / "base")
    theirs = peft_adapter(model, lora(target_modules=["q_proj"]), tmp_path / "a")
    weights = tmp_path / "a" / "adapter_model.safetensors"
    named = {
        n.removeprefix("base_model.model.").replace(".weight", ".default.weight"): t
        for n, t in load_file(weights).items()
    }
    save_file(named, weights)
    with zoo.open(tmp_path / "r.db") as registry:
        registry.register(tmp_path / "base", name="base", kind="base")
        registry.register(tmp_path / "a", name="a", base="base")

        merged = registry.merge(method="linear", experts=["a"], name="m")

        assert merged is not None
        assert largest_difference(registry.load_state(merged.ref), theirs) < 1e-6


def test_a_base_saved_without_its_head_is_found_below_other_names(tmp_path: Path) -> None:
    model = llama()
    model.model.save_pretrained(tmp_path / "base")  # type: ignore[union-attr,operator]
    theirs = peft_adapter(model, lora(target_modules=["q_proj", "up_proj"]), tmp_path / "a")
    with zoo.open(tmp_path / "r.db") as registry:
        registry.register(tmp_path / "base", name="base", kind="base")
        registry.register(tmp_path / "a", name="a", base="base")

        merged = registry.merge(method="linear", experts=["a"], name="m")

        assert merged is not None
        ours = registry.load_state(merged.ref)
        assert largest_difference({f"model.{n}": t for n, t in ours.items()}, theirs) < 1e-6


def test_a_tied_head_that_is_the_embeddings_is_no_head(tmp_path: Path) -> None:
    make = llama(tie_word_embeddings=True)
    make.save_pretrained(tmp_path / "base")  # type: ignore[operator]
    config = lora(target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    theirs = peft_adapter(make, config, tmp_path / "a")
    weights = tmp_path / "a" / "adapter_model.safetensors"
    from safetensors.torch import load_file, save_file

    state = load_file(weights)
    embeddings = next(t for n, t in state.items() if n.endswith("embed_tokens.weight"))
    save_file({**state, "base_model.model.lm_head.weight": embeddings.clone()}, weights)
    with zoo.open(tmp_path / "r.db") as registry:
        registry.register(tmp_path / "base", name="base", kind="base")
        registry.register(tmp_path / "a", name="a", base="base")
        merged = registry.merge(method="linear", experts=["a"], name="m")
        assert merged is not None
        ours = registry.load_state(merged.ref)

        assert "lm_head.weight" not in ours
        assert largest_difference(ours, theirs) < 1e-6

        save_file({**state, "base_model.model.lm_head.weight": embeddings + 1}, weights)
        with pytest.raises(IncompatibleModels, match="ties its head"):
            registry.register(tmp_path / "a", name="b", base="base")


def test_an_adapter_with_more_tokens_grows_the_model_and_its_configuration(tmp_path: Path) -> None:
    model = llama()
    model.save_pretrained(tmp_path / "base")  # type: ignore[operator]
    model.resize_token_embeddings(52)  # type: ignore[operator]
    config = lora(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    theirs = peft_adapter(model, config, tmp_path / "a")
    (tmp_path / "a" / "special_tokens_map.json").write_text("{}")
    with zoo.open(tmp_path / "r.db") as registry:
        registry.register(tmp_path / "base", name="base", kind="base")
        registry.register(tmp_path / "a", name="a", base="base")

        merged = registry.merge(method="linear", experts=["a"], name="m")

        assert merged is not None
        assert largest_difference(registry.load_state(merged.ref), theirs) < 1e-6
        folder = registry.path(merged.ref)
        assert json.loads((folder / "config.json").read_text())["vocab_size"] == 52
        assert (folder / "special_tokens_map.json").read_text() == "{}"


def test_a_merge_is_nearer_to_the_dense_truth_than_peft_is_by_factors(tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers import LlamaForCausalLM

    llama().save_pretrained(tmp_path / "base")  # type: ignore[operator]
    truth: dict[str, torch.Tensor] = {}
    base = load_file(tmp_path / "base" / "model.safetensors")
    for seed, name in ((1, "a"), (2, "b")):
        dense = peft_adapter(llama(), lora(target_modules=["q_proj"]), tmp_path / name, seed)
        for key in base:
            delta = (dense[key].double() - base[key].double()) / 2
            truth[key] = truth.get(key, base[key].double()) + delta
    with zoo.open(tmp_path / "r.db") as registry:
        registry.register(tmp_path / "base", name="base", kind="base")
        for name in "ab":
            registry.register(tmp_path / name, name=name, base="base")
        registry.merge(method="linear", experts=["a", "b"], name="m")
        ours = registry.load_state("m")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft calls what transformers no longer wants called
        loaded = LlamaForCausalLM.from_pretrained(tmp_path / "base")
        wrapped = peft.PeftModel.from_pretrained(loaded, str(tmp_path / "a"), "a")
        wrapped.load_adapter(str(tmp_path / "b"), "b")
    wrapped.add_weighted_adapter(["a", "b"], [0.5, 0.5], "m", combination_type="linear")
    wrapped.set_adapter("m")
    theirs = wrapped.merge_and_unload().state_dict()

    assert largest_difference(ours, truth) < 1e-6
    assert largest_difference({n: theirs[n] for n in base}, truth) > 1e-2


def test_an_adapter_loads_as_the_model_it_makes_of_its_base(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "base")  # type: ignore[operator]
    theirs = peft_adapter(llama(), lora(target_modules=["q_proj"]), tmp_path / "a")
    with zoo.open(tmp_path / "r.db") as registry:
        registry.register(tmp_path / "base", name="base", kind="base")
        registry.register(tmp_path / "a", name="a", base="base")

        model = registry.load("a")
        state = registry.load_state("a")

    assert "LlamaForCausalLM" == type(model).__name__
    assert largest_difference({n: t.detach() for n, t in model.state_dict().items()}, theirs) < 1e-6
    assert largest_difference(state, theirs) < 1e-6
