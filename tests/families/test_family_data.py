"""What the data says of families, beside what transformers' own classes say of themselves."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import zlib
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.engine.layer_config import LayersOf, with_layers
from zoo.families import Family, data, family_of
from zoo.recipes.schedule import depths

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
from transformers.core_model_loading import (  # noqa: E402
    WeightConverter,
    WeightRenaming,
    rename_source_key,
    revert_weight_conversion,
)

FIXED = [
    ("llama", "LlamaForCausalLM"),
    ("qwen3_moe", "Qwen3MoeForCausalLM"),
    ("deepseek_v3", "DeepseekV3ForCausalLM"),
    ("jamba", "JambaForCausalLM"),
    ("mamba2", "Mamba2ForCausalLM"),
    ("bert", "BertForMaskedLM"),
    ("albert", "AlbertForMaskedLM"),
    ("t5", "T5ForConditionalGeneration"),
    ("bart", "BartForConditionalGeneration"),
    ("whisper", "WhisperForConditionalGeneration"),
    ("vit", "ViTForImageClassification"),
    ("swin", "SwinForImageClassification"),
    ("clip", "CLIPModel"),
    ("llava", "LlavaForConditionalGeneration"),
    ("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration"),
    ("gemma3", "Gemma3ForConditionalGeneration"),
]


def drawn(count: int) -> list[tuple[str, str]]:
    """Classes of the data, the same in every run; asked for by name, as `hasattr` imports each."""
    every = [(k, c) for k in data.kinds() for c in (data.kind(k) or {})["classes"]]
    there = set(dir(transformers))
    return sorted(random.Random(20).sample([e for e in every if e[1] in there], count))


def built(name: str, **changes: Any) -> Any:
    """A module without memory."""
    from transformers.initialization import no_init_weights

    kind = getattr(transformers, name)
    with torch.device("meta"), no_init_weights():
        return kind(kind.config_class(**changes))


def family_of_model(model: Any, name: str) -> Family:
    said = {**json.loads(model.config.to_json_string()), "architectures": [name]}
    found = family_of(said, list(model.state_dict()))

    assert found is not None
    return found


@pytest.mark.parametrize(("kind", "name"), [*FIXED, *drawn(8)])
def test_a_family_has_the_tensors_that_transformers_has(kind: str, name: str) -> None:
    model = built(name)
    family = family_of_model(model, name)

    names = list(model.state_dict())
    found = family.compare(names)

    assert (True, kind, name) == (family.known, family.name, family.architecture)
    assert ((), ()) == (found.missing, found.unexpected)
    assert dict(model.all_tied_weights_keys) == dict(family.tied)
    old = revert_weight_conversion(model, dict(model.state_dict())).keys()
    assert family.compare(list(old)).none


@pytest.mark.parametrize("kind", ["llava", "mixtral", "vit", "qwen2_vl", "gpt_neox", "clip"])
def test_names_are_changed_as_transformers_changes_them(kind: str) -> None:
    from transformers.conversion_mapping import get_model_conversion_mapping

    name = next(c for k, c in [*_NAMED] if k == kind)
    model = built(name)
    state = model.state_dict()
    rules = get_model_conversion_mapping(model)
    renamings = [r for r in rules if isinstance(r, WeightRenaming)]
    converters = [r for r in rules if isinstance(r, WeightConverter)]
    old = list(revert_weight_conversion(model, dict(state)))
    expected = {
        n: rename_source_key(n, renamings, converters, model.base_model_prefix, state)[0]
        for n in old
    }

    called = family_of_model(model, name).called(old)

    targets = dict(called.names)
    targets |= {n: t for t, parts in called.fused.items() for n in parts.names}
    targets |= {n: parts.names[0] for n, parts in called.split.items()}
    assert expected == targets


_NAMED = [
    ("llava", "LlavaForConditionalGeneration"),
    ("mixtral", "MixtralForCausalLM"),
    ("vit", "ViTForImageClassification"),
    ("qwen2_vl", "Qwen2VLForConditionalGeneration"),
    ("gpt_neox", "GPTNeoXForCausalLM"),
    ("clip", "CLIPModel"),
]


CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 3,
    "tie_word_embeddings": False,
}


def llama(**config: Any) -> tuple[Family, list[str]]:
    model = built("LlamaForCausalLM", num_hidden_layers=3, **config)
    family = family_of({**CONFIG, **config}, [])

    assert family is not None
    return family, list(model.state_dict())


@given(st.data())
def test_what_is_taken_away_is_missing_and_what_is_added_unexpected(example: Any) -> None:
    family, names = LLAMA
    gone = example.draw(st.sets(st.sampled_from(names), max_size=4))
    layer = example.draw(st.integers(3, 99))
    more = {f"model.layers.{layer}.mlp.up_proj.weight", "model.embed_tokens.bias"}

    found = family.compare([n for n in names if n not in gone] + sorted(more))

    assert sorted(gone) == list(found.missing)
    assert sorted(more) == list(found.unexpected)


LLAMA = llama()


def test_biases_are_wanted_where_the_configuration_has_them_and_nowhere_else() -> None:
    plain, names = LLAMA
    biased, more = llama(attention_bias=True)

    assert 12 == len(biased.compare(names).missing)
    assert 12 == len(plain.compare(more).unexpected)


def test_a_head_that_is_tied_is_not_missed() -> None:
    family, names = llama(tie_word_embeddings=True)

    assert {"lm_head.weight": "model.embed_tokens.weight"} == family.tied
    assert family.compare([n for n in names if n != "lm_head.weight"]).none
    assert family.compare([n for n in names if n != "model.embed_tokens.weight"]).none


def test_a_text_model_other_than_the_usual_has_its_own_tensors() -> None:
    text = {"model_type": "gpt2", "n_layer": 2, "n_embd": 16, "n_head": 2}
    config = {"model_type": "blip-2", "architectures": ["Blip2ForConditionalGeneration"]}
    family = family_of({**config, "text_config": text}, [])

    assert family is not None
    expected = family.compare(["language_model.transformer.h.1.attn.c_attn.weight"])
    assert not expected.unexpected


def test_tensors_that_transformers_computes_are_passed_over() -> None:
    family, names = LLAMA
    old = [f"model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in range(3)]

    found = family.compare([*names, *old])

    assert (tuple(old), True) == (found.ignored, found.none)


def test_a_class_that_transformers_lacks_is_the_nearest_of_its_type() -> None:
    model = built("BertForMaskedLM")
    config = {**json.loads(model.config.to_json_string()), "architectures": ["BertOfMine"]}

    found = family_of(config, list(model.state_dict()))

    assert found is not None
    assert "BertForMaskedLM" == found.architecture


def test_the_data_is_small_and_asking_loads_neither_torch_nor_transformers() -> None:
    text = (data._text(),)
    code = (
        "import sys, zoo.families as f; "
        "assert f.family_of({'model_type': 'llama'}, ['lm_head.weight']).known; "
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert len(zlib.compress(text[0])) < 500_000
    assert "[]" == said.stdout.strip()


def test_depth_follows_stacks_that_only_the_data_knows() -> None:
    config = {"model_type": "xlm", "architectures": ["XLMModel"], "n_layers": 3}
    names = [f"{kind}.{i}.q_lin.weight" for kind in ("attentions", "ffns") for i in range(3)]

    found = depths([*names, "embeddings.weight"], config)

    assert [0.0, 0.5, 1.0] * 2 == [found[n] for n in names]
    assert {1.0} == set(depths(names).values())


def test_layers_are_counted_where_the_family_says() -> None:
    config = {
        "model_type": "xlm",
        "architectures": ["XLMModel"],
        "n_layers": 3,
        "num_layers": 3,
        "decoder": {"num_layers": 3},
    }

    found, notes = with_layers(config, [LayersOf(config, 0, 2, 3)], 3)

    assert ([], 2) == (notes, found["n_layers"])
