"""The complaints of people who merge models, as they are told before anything is done.

Numbers are those of the list of user pains: 1 architectures, 2 vocabularies, 3 memory, 4 mixtures
of experts, 5 late failures, 6 adapters, 7 tied heads, 8 several modules, 10 silent loss, 13 damaged
files, 15 quantized files, 17 cards and licences, 18 types, 19 pickles.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checked_models import CONFIG, EMBEDDINGS, HEAD, State, llama, words, write
from safetensors.torch import save_file

from zoo import Registry
from zoo.compatibility import Problem, Report
from zoo.errors import InvalidRecipe, NotFound

Check = Callable[..., Report]
Refused = Callable[..., list[Problem]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are called what their directories are."""
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path / "models")


@pytest.fixture
def one() -> State:
    """The tensors of `a`, which is there."""
    state, config = llama(1)
    write(Path("a"), state, config, words())
    return state


def only(problems: list[Problem]) -> Problem:
    assert 1 == len(problems), [str(p) for p in problems]
    return problems[0]


def codes(report: Report) -> list[tuple[str, str]]:
    return [(p.severity, p.code) for p in report.problems]


def test_models_that_fit_have_no_problems(one: State, check: Check) -> None:
    write(Path("b"), *llama(2, near=one), words())

    report = check("a", "b")

    assert report.ok and () == report.problems and ("a", "b") == report.models


# 1: architectures


def test_networks_of_different_architectures_are_told_apart_in_one_line(
    one: State, refused: Refused
) -> None:
    gpt = {f"transformer.h.{i}.attn.c_attn.weight": torch.ones(8, 24) for i in range(2)}
    write(Path("gpt"), gpt, {"model_type": "gpt2"})

    found = only(refused("a", "gpt"))

    assert "architecture" == found.code
    assert str(found) == (
        "`a` (llama) and `gpt` (gpt2) have 0 tensor names in common, of 21 and 2: a merge pairs "
        "tensors by name, and these are different networks. Choose models of one architecture; "
        "`zoo ls --where \"architecture = 'llama'\"` lists some."
    )


def test_a_kind_that_nobody_knows_merges_by_names_and_is_no_error(one: State, check: Check) -> None:
    state, config = llama(2, near=one)
    write(Path("b"), state, {**config, "model_type": "frobnicator9"}, words())

    report = check("a", "b")

    assert report.ok and [("warning", "architecture")] == codes(report)
    assert str(report.problems[0]) == (
        "the architecture is llama in `a` and frobnicator9 in `b`: tensors of one name may mean "
        "something else in another network. The result is described as `a` is; `donor: REF` in "
        "the recipe takes another's description."
    )


def test_models_of_different_classes_have_different_heads(one: State, check: Check) -> None:
    state, config = llama(2, near=one)
    del state[HEAD]
    state["score.weight"] = torch.ones(3, 8)
    classes = ["LlamaForSequenceClassification"]
    write(Path("b"), state, {**config, "architectures": classes, "num_labels": 3}, words())

    report = check("a", "b")

    assert [("error", "head"), ("error", "names"), ("warning", "architecture")] == codes(report)
    assert "`b` lacks the tensor `lm_head.weight`, which `a` has" in str(report.problems[0])
    assert "`a` lacks the tensor `score.weight`, which `b` has" in str(report.problems[1])
    assert "LlamaForCausalLM in `a` and LlamaForSequenceClassification in `b`" in str(
        report.problems[2]
    )


def test_tensors_that_are_missing_are_listed_with_a_recipe_that_works(
    one: State, refused: Refused, registry: Registry
) -> None:
    state, config = llama(2, near=one)
    gone = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(2)]
    write(Path("b"), {n: t for n, t in state.items() if n not in gone}, config, words())

    found = only(refused("a", "b"))

    assert tuple(gone) == found.tensors and ("b",) == found.models
    assert str(found) == (
        f"`b` lacks 2 tensors (`{gone[0]}`, `{gone[1]}`), which `a` has. `missing: base` in the "
        "recipe takes those of `a`."
    )
    registry.plan({"method": "linear", "experts": ["a", "b"], "missing": "base"})


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("module.", "It was saved out of DataParallel."),
        ("_orig_mod.", "It was saved out of torch.compile."),
    ],
)
def test_names_with_a_wrapper_before_them_are_recognised(
    prefix: str, said: str, one: State, refused: Refused
) -> None:
    state, config = llama(2, near=one)
    write(Path("b"), {prefix + n: t for n, t in state.items()}, config, words())

    found = only(refused("a", "b"))

    assert found.what == (
        f"`b` calls 21 tensors what `a` calls them, with `{prefix}` before it "
        f"(`{prefix}lm_head.weight`)"
    )
    assert found.remedy.startswith(said)


def test_a_model_without_its_head_has_the_same_tensors_otherwise(
    one: State, refused: Refused
) -> None:
    state, config = llama(2, near=one)
    bare = {n.removeprefix("model."): t for n, t in state.items() if n != HEAD}
    write(Path("bare"), bare, {**config, "architectures": ["LlamaModel"]}, words())

    assert "head" == only(refused("a", "bare")).code


def test_prefixes_of_a_network_that_nobody_knows_are_recognised(refused: Refused) -> None:
    own = {f"stage{i}.weight": torch.full((3, 3), float(i)) for i in range(5)}
    write(Path("short"), own)
    write(Path("long"), {f"backbone.net.{n}": t for n, t in own.items()})

    found = only(refused("short", "long"))

    assert found.what == (
        "`long` calls 5 tensors what `short` calls them, with `backbone.net.` before it "
        "(`backbone.net.stage0.weight`)"
    )
    assert 'AutoModel.from_pretrained("long").save_pretrained("bare")' in found.remedy


def test_names_of_older_transformers_merge_and_are_told(check: Check) -> None:
    def bert(scale: str, shift: str) -> State:
        at = "bert.encoder.layer.0."
        own = {f"{at}attention.self.{n}.weight": torch.ones(4, 4) for n in ("query", "key")}
        norms = ("bert.embeddings.LayerNorm", at + "attention.output.LayerNorm")
        for norm in (*norms, at + "output.LayerNorm"):
            own |= {f"{norm}.{scale}": torch.ones(4), f"{norm}.{shift}": torch.zeros(4)}
        return own

    config = {"model_type": "bert", "architectures": ["BertForMaskedLM"], "num_hidden_layers": 1}
    write(Path("new"), bert("weight", "bias"), config)
    write(Path("old"), bert("gamma", "beta"), config)

    report = check("new", "old")

    assert report.ok and [("note", "plan")] == codes(report)
    assert report.problems[0].what.startswith("6 tensors of `old` are shown with ")


def test_models_of_different_depth_are_merged_as_far_as_both_go(
    one: State, refused: Refused, registry: Registry
) -> None:
    write(Path("deep"), *llama(3, num_hidden_layers=5), words())

    found = only(refused("a", "deep"))

    assert str(found) == (
        "the layers `model.layers.*` are 2 in `a` and 5 in `deep`: layer i is merged with layer i, "
        "and some have no partner. Merge those that all have, in place of `experts` in the recipe: "
        "`slices: [{sources: [{model: a, layers: [0, 2]}, {model: deep, layers: [0, 2]}]}]`; or "
        "choose models of one depth."
    )
    import yaml

    pasted = yaml.safe_load(found.remedy.split("`")[3])
    registry.plan({"method": "linear", **pasted})


def test_a_wider_model_is_one_problem_and_not_two_hundred(one: State, refused: Refused) -> None:
    write(Path("wide"), *llama(3, hidden_size=16), words())

    found = only(refused("a", "wide"))

    assert ("shapes", 21) == (found.code, len(found.tensors))
    assert found.what == (
        "`hidden_size` is 8 in `a` and 16 in `wide`: 21 tensors have other shapes, first "
        "`lm_head.weight` ([16, 8] and [16, 16])"
    )


@pytest.mark.parametrize(
    ("key", "values"),
    [("intermediate_size", (12, 20)), ("num_key_value_heads", (2, 4))],
)
def test_the_value_that_makes_shapes_differ_is_named(
    key: str, values: tuple[int, int], one: State, refused: Refused
) -> None:
    write(Path("b"), *llama(3, **{key: values[1]}), words())

    found = only(refused("a", "b"))

    assert found.what.startswith(f"`{key}` is {values[0]} in `a` and {values[1]} in `b`: ")


# 2: vocabularies


def test_vocabularies_of_different_sizes_are_one_problem(
    one: State, refused: Refused, registry: Registry
) -> None:
    write(Path("longer"), *llama(3, vocab_size=18), words(18))

    found = only(refused("a", "longer"))

    assert str(found) == (
        "the vocabularies differ: rows of `lm_head.weight` and `model.embed_tokens.weight` are 16 "
        "in `a` and 18 in `longer`: row i is token i's, and some tokens have no partner. "
        "`tokenizer: {source: union}` in the recipe (or `base`, or one of the models) says whose "
        "the result has; `mismatch: crop` keeps the rows that all have."
    )
    recipe = {"method": "linear", "experts": ["a", "longer"]}
    assert registry.check(recipe={**recipe, "tokenizer": {"source": "union"}}).ok
    assert registry.check(recipe={**recipe, "mismatch": "crop"}).ok


def test_one_size_with_other_tokens_is_a_warning_that_names_a_token(
    one: State, check: Check
) -> None:
    tokens = words()
    tokens[4], tokens[9] = tokens[9], tokens[4]
    write(Path("b"), *llama(2, near=one), tokens)

    report = check("a", "b")

    assert report.ok and [("warning", "tokenizer")] == codes(report)
    assert str(report.problems[0]) == (
        "the tokenizers of `a` and `b` differ: 2 of 16 tokens have other ids, first `word4` (4 and "
        "9): rows of different tokens would be merged, and nothing would say so. `tokenizer: "
        "{source: union}` in the recipe (or `base`, or one of the models) matches rows by token."
    )
    recipe = {"method": "linear", "experts": ["a", "b"], "tokenizer": {"source": "union"}}
    assert not [p for p in check(recipe=recipe).problems if p.code == "tokenizer"]


def test_added_tokens_in_the_padding_of_the_embeddings_are_found(one: State, check: Check) -> None:
    write(Path("b"), *llama(2, near=one), [*words(14), "<|im_start|>", "<|im_end|>"])

    (found,) = check("a", "b").problems

    assert "2 tokens are only in the first, first `word14`" in found.what
    assert "2 tokens are not in the first, first `<|im_start|>`" in found.what


def test_other_special_tokens_and_templates_are_told(one: State, check: Check) -> None:
    for name, end in (("b", "</s>"), ("c", "<s>")):
        told = {"eos_token": end, "chat_template": f"{{{{ messages }}}}{name}"}
        write(Path(name), *llama(2, near=one), words(), tokenizer_config__json=told)

    report = check("b", "c")

    assert [("warning", "special_tokens"), ("note", "chat_template")] == codes(report)
    assert report.problems[0].what == "`eos_token` is `</s>` in `b` and `<s>` in `c`"
    assert "`chat_template: auto` in the recipe" in report.problems[1].remedy


# 3: memory


def test_what_does_not_fit_the_memory_is_told_though_no_weight_was_read(check: Check) -> None:
    side = 16_384
    header = {"w": {"dtype": "F32", "shape": [side, side], "data_offsets": [0, 4 * side * side]}}
    data = json.dumps(header).encode()
    for name in ("huge.safetensors", "other.safetensors", "base.safetensors"):
        with Path(name).open("wb") as file:
            file.write(len(data).to_bytes(8, "little") + data)
            file.truncate(8 + len(data) + 4 * side * side)  # a gigabyte that is nowhere

    models = ("huge.safetensors", "other.safetensors")
    found = only(check(*models, base="base.safetensors", method="tsv").of("error"))

    assert "memory" == found.code
    assert found.what.startswith("this merge needs ") and found.remedy.startswith("Pass --memory ")


# 4: mixtures of experts


def test_another_number_of_experts_is_named(refused: Refused) -> None:
    for name, count in (("four", 4), ("eight", 8)):
        gate = {"model.layers.0.mlp.gate.weight": torch.ones(count, 8)}
        fused = {"model.layers.0.mlp.experts.down_proj": torch.ones(count, 8, 12)}
        config = {"model_type": "mixtral", "num_local_experts": count, "hidden_size": 8}
        write(Path(name), gate | fused, config)

    found = only(refused("four", "eight"))

    assert found.what.startswith("`num_local_experts` is 4 in `four` and 8 in `eight`: 2 tensors")


# 5: late failures


def test_a_typo_in_a_recipe_is_found_before_any_model_is_looked_at(check: Check) -> None:
    recipe = {"method": "linear", "experts": ["hf://org/model"], "parameterz": {}}

    with pytest.raises(InvalidRecipe, match="`parameters`"):
        check(recipe=recipe)


def test_a_name_that_leads_nowhere_is_told_as_a_merge_tells_it(one: State, check: Check) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        check("a", "nowhere")


def test_what_a_method_wants_is_told_with_what_the_models_lack(
    one: State, refused: Refused
) -> None:
    write(Path("wide"), *llama(3, hidden_size=16), words())

    found = refused("a", "wide", method="ties")

    assert ["base", "shapes"] == [p.code for p in found]
    assert str(found[0]) == (
        "method `ties` needs the base its experts were fine-tuned from. Pass --base REF, or write "
        "`base: REF` into the recipe."
    )


# 6: adapters


def test_an_adapter_whose_base_is_not_here_is_refused_with_its_name(
    one: State, check: Check
) -> None:
    path = Path("adapter")
    path.mkdir()
    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {f"{stem}.lora_A.weight": torch.ones(2, 8), f"{stem}.lora_B.weight": torch.ones(8, 2)}
    save_file(factors, path / "adapter_model.safetensors")
    about = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    about["base_model_name_or_path"] = "org/gone"
    (path / "adapter_config.json").write_text(json.dumps(about))

    report = check("a", "adapter")

    assert not report.ok
    assert any("org/gone" in str(p) for p in report.of("error")), report.problems
    assert check("a", "a+adapter").ok


# 7: heads


def test_a_head_that_is_neither_stored_nor_tied_is_told(one: State, refused: Refused) -> None:
    state, config = llama(2, near=one)
    del state[HEAD]
    write(Path("b"), state, config, words())

    found = only(refused("a", "b"))

    assert "head" == found.code
    assert str(found) == (
        "`b` lacks the tensor `lm_head.weight`, which `a` has: its configuration does not tie the "
        "head to the embeddings. If it is the embeddings, say so in `config.json`: "
        '`"tie_word_embeddings": true`. Else the file is incomplete: get it again.'
    )
    Path("b/config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))


def test_a_tied_head_stands_for_itself(one: State, check: Check) -> None:
    state, config = llama(2, near=one)
    del state[HEAD]
    write(Path("b"), state, {**config, "tie_word_embeddings": True}, words())

    report = check("a", "b")

    assert report.ok and [("note", "plan")] == codes(report)
    assert "embeddings stand for `lm_head.weight`" in report.problems[0].what


def test_a_head_that_only_one_configuration_ties_is_a_warning(one: State, check: Check) -> None:
    state, config = llama(2, near=one)
    write(Path("b"), state, {**config, "tie_word_embeddings": True}, words())

    told = [p for p in check("b", "a").problems if p.code == "head"]

    assert "`tie_word_embeddings` is False in `a`, True in `b`" not in str(told)
    assert "`tie_word_embeddings` is True in `b` and False in `a`" == only(told).what


# 8: several modules


def test_a_language_model_inside_a_larger_one_is_recognised(one: State, refused: Refused) -> None:
    state, config = llama(2, near=one)
    larger = {f"language_model.{n}": t for n, t in state.items()}
    larger["vision_tower.patch.weight"] = torch.ones(4, 4)
    text = {"model_type": "llava", "text_config": config, "architectures": ["LlavaModel"]}
    write(Path("vlm"), larger, text, words())

    found = refused("a", "vlm")

    assert "with `language_model.` before it" in found[0].what
    assert ["names", "names"] == [p.code for p in found]
    assert "`a` lacks the tensor `vision_tower.patch.weight`" in found[1].what


# 10: silent loss


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("rope_theta", 500000.0, "positions are turned by other angles"),
        ("rope_scaling", {"rope_type": "linear", "factor": 2.0}, "positions are stretched"),
        ("rms_norm_eps", 1e-5, "norms divide by another number"),
        ("sliding_window", 4096, "another stretch of the text"),
        ("hidden_act", "gelu", "feed another function"),
    ],
)
def test_a_setting_that_differs_though_all_tensors_fit_is_a_warning(
    key: str, value: Any, why: str, one: State, check: Check
) -> None:
    state, config = llama(2, near=one)
    Path("a/config.json").write_text(json.dumps({**CONFIG, "hidden_act": "silu"}))
    write(Path("b"), state, {**config, "hidden_act": "silu", key: value}, words())

    report = check("a", "b")

    assert report.ok and [("warning", "settings")] == codes(report)
    assert report.problems[0].what.startswith(f"`{key}` is ") and why in report.problems[0].why


def test_the_same_matrices_cut_into_other_heads_are_a_warning(one: State, check: Check) -> None:
    state, config = llama(2, near=one)
    told = {"num_attention_heads": 2, "num_key_value_heads": 1}
    write(Path("b"), state, {**config, **told}, words())

    found = [p.what for p in check("a", "b").problems]

    assert "`num_attention_heads` is 4 in `a` and 2 in `b`" in found
    assert "`num_key_value_heads` is 2 in `a` and 1 in `b`" in found


def test_spellings_of_one_setting_are_equal(one: State, check: Check) -> None:
    state, config = llama(2, near=one)
    new = {k: v for k, v in config.items() if k != "rope_theta"}
    new["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000}
    write(Path("b"), state, new, words())

    assert () == check("a", "b").problems


def test_another_base_is_seen_by_its_distance(one: State, check: Check) -> None:
    write(Path("fine"), *llama(2, near=one), words())
    write(Path("other"), *llama(3), words())

    assert check("fine", base="a").ok
    assert not check("fine", base="a").problems
    (found,) = check("fine", "other", base="a").problems

    assert ("warning", "origin", ("a", "other")) == (found.severity, found.code, found.models)
    assert found.what.startswith("the weights of `other` are not near those of `a` (cosine ")


def test_experts_registered_with_other_bases_are_told(
    one: State, check: Check, registry: Registry
) -> None:
    registry.register("a", name="base-a", kind="base")
    registry.register(write(Path("c"), *llama(7), words()), name="base-c", kind="base")
    for name, base in (("x", "base-a"), ("y", "base-c")):
        near = write(Path(name), *llama(2, near=one), words())
        registry.register(near, name=name, base=base)

    against, alone = check("x", "y", base="base-a"), check("x", "y")

    assert "the base is `base-a@1`, and as registered it is `base-c@1` in `y@1`" in [
        p.what for p in against.problems
    ]
    assert "as registered, the base is `base-a@1` in `x@1` and `base-c@1` in `y@1`" in [
        p.what for p in alone.problems
    ]


def test_what_training_left_alone_betrays_the_base(
    one: State, check: Check, registry: Registry
) -> None:
    frozen = {n: t for n, t in one.items() if "embed" in n or "lm_head" in n}
    retrained, config = llama(5, near={n: t + 0.2 for n, t in one.items()})
    registry.register(write(Path("again"), retrained, config, words()), name="again", kind="base")
    for i, name in enumerate("xy"):
        state, config = llama(10 + i, near=one)
        own = write(Path(name), {**state, **frozen}, config, words())
        registry.register(own, name=name)

    told = [p for p in check("x", "y", base="again").problems if "matrices" in p.what]

    assert ["`x@1` has matrices that `y@1` has too, and none of `again@1`"] == [
        p.what for p in told if p.models[0] == "x@1"
    ]


# 13: damaged files


def sharded(directory: Path, state: State) -> Path:
    directory.mkdir()
    names = sorted(state)
    files = {"model-00001-of-00002.safetensors": names[:4]}
    files["model-00002-of-00002.safetensors"] = names[4:]
    weight_map: dict[str, str] = {}
    for file, own in files.items():
        save_file({n: state[n].clone() for n in own}, directory / file)
        weight_map |= dict.fromkeys(own, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "config.json").write_text(json.dumps(CONFIG))
    return directory


def test_a_missing_shard_is_told_with_what_else_is_wrong(one: State, refused: Refused) -> None:
    (sharded(Path("half"), one) / "model-00002-of-00002.safetensors").unlink()
    write(Path("wide"), *llama(3, hidden_size=16), words())

    found = refused("a", "half", "wide")

    assert ["damaged", "shapes"] == [p.code for p in found] and ("half",) == found[0].models
    assert "names `model-00002-of-00002.safetensors`, which is not there" in found[0].what
    assert "Download the missing shard." == found[0].remedy


def test_an_index_that_disagrees_with_its_shards_is_told(one: State, refused: Refused) -> None:
    index = sharded(Path("half"), one) / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    told["weight_map"][HEAD] = "model-00002-of-00002.safetensors"
    index.write_text(json.dumps(told))

    found = only(refused("a", "half"))

    assert "disagrees with its shards about 1 tensor" in found.what


def test_a_file_that_was_cut_short_is_told(one: State, refused: Refused) -> None:
    path = write(Path("cut"), one, CONFIG) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])

    found = only(refused("a", "cut"))

    assert "damaged" == found.code and "cut" in str(found)


# 15: quantized files


def test_gptq_codes_are_refused_with_how_to_turn_them_into_values(
    one: State, refused: Refused
) -> None:
    at = "model.layers.0.self_attn.q_proj."
    codes = {
        at + "qweight": torch.ones(1, 8, dtype=torch.int32),
        at + "qzeros": torch.ones(1, 1, dtype=torch.int32),
        at + "scales": torch.ones(1, 8, dtype=torch.float16),
    }
    config = {**CONFIG, "quantization_config": {"quant_method": "gptq", "bits": 4}}
    write(Path("q"), codes, config, words())

    found = only(refused("a", "q"))

    assert "quantized" == found.code and ("q",) == found.models
    assert "as codes of gptq, which arithmetic is not defined on" in found.what
    assert "dequantize_model(DIR, OUT)" in found.remedy


def test_four_bit_codes_of_bitsandbytes_are_refused(one: State, refused: Refused) -> None:
    at = "model.layers.0.self_attn.q_proj.weight"
    codes = {at: torch.ones(32, 1, dtype=torch.uint8), at + ".absmax": torch.ones(1)}
    config = {**CONFIG, "quantization_config": {"quant_method": "bitsandbytes"}}
    write(Path("q"), codes, config, words())

    found = only(refused("a", "q"))

    assert "as codes of bitsandbytes" in found.what and ".dequantize()" in found.remedy


def test_eight_bit_floats_with_scales_are_values_and_fit(one: State, check: Check) -> None:
    state, config = llama(2, near=one)
    at = "model.layers.0.mlp.up_proj.weight"
    state[at + "_scale_inv"] = torch.tensor(0.5)
    state[at] = (state[at] / 0.5).to(torch.float8_e4m3fn)
    told = {"quantization_config": {"quant_method": "fp8"}}
    write(Path("b"), state, {**config, **told}, words())

    assert check("a", "b").ok


# 17: licences


def test_licences_that_conflict_are_a_warning_and_no_error(
    one: State, check: Check, registry: Registry
) -> None:
    registry.register("a", name="x", license="gpl-3.0")
    registry.register(write(Path("b"), *llama(2, near=one), words()), name="y", license="llama3")

    report = check("x", "y")

    assert report.ok and None is report.license
    (found,) = report.of("warning")
    assert str(found) == (
        "the licence is gpl-3.0 in `x@1` and llama3 in `y@1`: `gpl-3.0` wants the whole under its "
        "own terms, and `llama3` adds others. Merge it for yourself, or choose models whose "
        "licences go together: `zoo ls --where \"license = 'apache-2.0'\"`. This is no legal "
        "advice."
    )
    assert str(found) in registry.plan(method="linear", experts=["x", "y"]).notes


def test_the_licence_of_a_merge_is_said_with_what_it_asks(one: State, check: Check) -> None:
    for name, licence in (("b", "apache-2.0"), ("c", "gemma")):
        card = f"---\nlicense: {licence}\n---\n# {name}\n"
        write(Path(name), *llama(2, near=one), words(), README__md=card)

    report = check("b", "c")

    assert "gemma" == report.license and () == report.problems
    assert "pass on the terms of use of `gemma`" in report.obligations


# 18: types


def test_floats_beside_integers_are_refused(one: State, refused: Refused) -> None:
    state, config = llama(2, near=one)
    state["model.norm.weight"] = state["model.norm.weight"].to(torch.int32)
    write(Path("b"), state, config, words())

    found = only(refused("a", "b"))

    assert found.what == "tensor `model.norm.weight` is F32 in `a` and I32 in `b`"
    assert '`exclude: ["model.norm.weight"]`' in found.remedy


def test_mixed_float_types_are_a_note(one: State, check: Check) -> None:
    state, config = llama(2, near=one)
    write(Path("b"), {n: t.to(torch.bfloat16) for n, t in state.items()}, config, words())

    report = check("a", "b")

    assert report.ok and [("note", "types")] == codes(report)
    assert report.problems[0].what == "the weights are F32 in `a` and BF16 in `b`"


# 19: pickles


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(one: State, refused: Refused) -> None:
    torch.save({"w": _Evil()}, "evil.bin", pickle_module=pickle)

    found = only(refused("a", "evil.bin"))

    assert "damaged" == found.code and ("evil.bin",) == found.models
    assert not Path("ran").exists()


# Everything at once


def test_what_is_wrong_with_three_models_is_told_at_once(one: State, check: Check) -> None:
    write(Path("deep"), *llama(3, num_hidden_layers=5), words())
    write(Path("longer"), *llama(4, vocab_size=18), words(18))
    state, config = llama(2, near=one)
    state["extra.weight"] = torch.ones(2)
    write(Path("more"), state, {**config, "rope_theta": 5e5}, words())

    report = check("a", "deep", "longer", "more")

    assert ["layers", "names", "vocabulary"] == [p.code for p in report.of("error")]
    assert ["settings", "origin"] == [p.code for p in report.of("warning")]
    assert [EMBEDDINGS] == [n for n in report.of("error")[2].tensors if n != HEAD]
    assert ["error"] * 3 + ["warning"] * 2 == [p.severity for p in report.problems]
