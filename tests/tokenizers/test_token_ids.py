"""After a vocabulary changed, every id in a model's files is that of the token it was meant for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_vocabularies import EMBEDDING, HEAD, Merged, linear, write_model, write_tokenizer

from zoo import Registry
from zoo.tokenizers.token_ids import now_of, of_tokenizer, renumbered

Merge = Callable[..., Merged]
OLD = ["<unk>", "<s>", "</s>", "red", "green", "blue"]
NEW = ["</s>", "blue", "green", "<s>", "red", "<unk>", "violet"]
CHAT = ("<|im_start|>", "<|im_end|>")


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def change(path: Path, **more: Any) -> None:
    write_json(path, {**(json.loads(path.read_text()) if path.exists() else {}), **more})


# The rule


def test_an_id_follows_its_token_and_what_is_gone_is_left_out() -> None:
    before = {"a": 0, "b": 1, "c": 2, "d": 3}
    now = now_of(before, {"b": 0, "a": 5, "d": 7})
    config = {
        "decoder_start_token_id": 0,
        "eos_token_id": [1, 2, 3],
        "image_token_index": 2,
        "suppress_tokens": [3, 1],
        "pad_token_id": None,
        "bos_token_id": -1,
        "is_token_id": True,
        "num_tokens": 2,
        "forced_decoder_ids": [[1, 0], [2, 2]],
        "bad_words_ids": [[0, 1], [1, 2]],
        "text_config": {"eos_token_id": 3, "sep_token_id": 2},
        "audio_config": {"eos_token_id": 3},
    }

    found, lost = renumbered(config, now)

    assert {
        "decoder_start_token_id": 5,
        "eos_token_id": [0, 7],
        "image_token_index": None,
        "suppress_tokens": [7, 0],
        "pad_token_id": None,
        "bos_token_id": -1,
        "is_token_id": True,
        "num_tokens": 2,
        "forced_decoder_ids": [[1, 5]],
        "bad_words_ids": [[5, 0]],
        "text_config": {"eos_token_id": 7, "sep_token_id": None},
        "audio_config": {"eos_token_id": 3},  # of a vocabulary of its own
    } == found
    keys = ["eos_token_id", "image_token_index", "forced_decoder_ids", "bad_words_ids"]
    assert [*keys, "sep_token_id"] == lost


def test_an_id_of_no_token_stays_unless_it_became_one() -> None:
    now = now_of({"a": 0}, {"a": 0, "new": 1})

    assert {"pad_token_id": 9, "mask_token_id": None} == renumbered(
        {"pad_token_id": 9, "mask_token_id": 1}, now
    )[0]


def test_only_what_belongs_to_a_tokenizer_is_its_models() -> None:
    now = now_of({"a": 0, "b": 1}, {"b": 0})

    said = of_tokenizer({"bos_token_id": 1, "eos_token_id": [1, 0], "pad_token_id": 0}, now)

    assert {"bos_token_id": 0, "eos_token_id": [0]} == said
    assert {} == of_tokenizer({"decoder_start_token_id": 1, "eos_token_id": None}, now)


# Files of a merge


def test_another_models_tokenizer_brings_its_beginning_end_and_padding(
    tmp_path: Path, merged: Merge
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    write_model(old, OLD, 1, bos_token_id=1, eos_token_id=2, decoder_start_token_id=5)
    write_model(new, NEW, 2, bos_token_id=3, eos_token_id=0, pad_token_id=6)
    write_json(old / "generation_config.json", {"eos_token_id": 2, "suppress_tokens": [3, 4]})
    write_json(new / "generation_config.json", {"eos_token_id": [0, 6], "temperature": 0.5})

    found = merged(linear([old, new], tokenizer={"source": str(new)}, donor=str(old)))

    assert 3 == found.config["bos_token_id"]
    assert 0 == found.config["eos_token_id"]
    assert 6 == found.config["pad_token_id"]
    assert 1 == found.config["decoder_start_token_id"]  # `blue`, where it is now
    generation = found.json("generation_config.json")
    assert [0, 6] == generation["eos_token_id"]
    assert [4, 2] == generation["suppress_tokens"]
    assert "temperature" not in generation


def test_a_nested_text_configuration_says_the_ids(tmp_path: Path, merged: Merge) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    write_model(old, OLD, 1)
    write_model(new, NEW, 2)
    for path, words in ((old, OLD), (new, NEW)):
        text = {"vocab_size": len(words), "eos_token_id": words.index("</s>")}
        write_json(path / "config.json", {"text_config": text, "image_token_id": 3})

    found = merged(linear([old, new], tokenizer={"source": str(new)}, donor=str(old)))

    assert {"vocab_size": 7, "eos_token_id": 0} == found.config["text_config"]
    assert 4 == found.config["image_token_id"]  # `red`


def test_a_union_keeps_the_donors_ids_and_its_files(tmp_path: Path, merged: Merge) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    write_model(old, OLD, 1, eos_token_id=2)
    write_model(new, NEW, 2, eos_token_id=0)
    write_json(old / "generation_config.json", {"eos_token_id": 2})

    found = merged(linear([old, new], tokenizer={"source": "union"}))

    assert 2 == found.config["eos_token_id"]
    stored = (old / "generation_config.json").read_bytes()
    assert stored == (found.directory / "generation_config.json").read_bytes()


def test_padding_that_has_no_row_is_no_longer_named(
    registry: Registry, tmp_path: Path, merged: Merge
) -> None:
    """Else a token that is added to a union would take its id, and be padded with."""
    old, new = tmp_path / "old", tmp_path / "new"
    write_model(old, OLD, 1, pad_token_id=6)
    write_tokenizer(old, OLD, ["<pad>"], pad_token="<pad>", extra_special_tokens=["<pad>", "<s>"])
    write_json(old / "special_tokens_map.json", {"pad_token": {"content": "<pad>"}})
    write_model(new, NEW, 2)
    recipe = linear([old, new], tokenizer={"source": "union"})

    found = merged(recipe)

    assert 6 == found.vocabulary["violet"]
    assert found.config["pad_token_id"] is None
    assert "<pad>" not in found.vocabulary
    assert {} == found.json("special_tokens_map.json")
    assert ["<s>"] == found.json("tokenizer_config.json")["extra_special_tokens"]
    notes = registry.plan(recipe).notes
    assert "`pad_token_id` of the configuration names a token that is gone" in notes


# What transformers makes of it


def llama(path: Path, words: list[str], more: tuple[str, ...], seed: int) -> Any:
    """A model that runs, with a head of its own."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(words) + len(more),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        bos_token_id=words.index("<s>"),
        eos_token_id=words.index("</s>"),
        pad_token_id=words.index("<unk>"),
    )
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(path)
    write_tokenizer(path, words, more, bos_token="<s>", eos_token="</s>")
    return model


@pytest.mark.parametrize("source", ["union", "new"])
@pytest.mark.parametrize("kind", ["average", "omp", "mean", "zero"])
def test_transformers_runs_the_result_as_computed_by_hand(
    source: str, kind: str, tmp_path: Path, merged: Merge
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    old, new = tmp_path / "old", tmp_path / "new"
    a, b = llama(old, OLD, (), 1), llama(new, NEW, CHAT, 2)
    missing = {"kind": kind, **({"k": 3} if kind == "omp" else {})}

    found = merged(
        linear(
            [old, new],
            tokenizer={"source": "union" if source == "union" else str(new), "missing": missing},
            donor=str(old),
        )
    )

    model = AutoModelForCausalLM.from_pretrained(found.directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(found.directory)
    ids = tokenizer.get_vocab()
    words = ["<s>", "red", "<|im_start|>", "violet", "<|im_end|>", "</s>"]
    encoded = tokenizer(" ".join(words), add_special_tokens=False)["input_ids"]
    assert [ids[w] for w in words] == encoded
    assert ids["<s>"] == model.config.bos_token_id == tokenizer.bos_token_id
    assert ids["</s>"] == model.config.eos_token_id == tokenizer.eos_token_id
    assert ids["</s>"] == model.generation_config.eos_token_id
    assert len(ids) == model.config.vocab_size == len(model.get_input_embeddings().weight)

    by_hand = type(a)(model.config).eval()
    mine, theirs = a.state_dict(), b.state_dict()
    state = {n: (mine[n] + theirs[n]) / 2 for n in mine if n not in (EMBEDDING, HEAD)}
    known = {w: i for i, w in enumerate([*NEW, *CHAT])}
    for name in (EMBEDDING, HEAD):
        rows = torch.empty(len(ids), 16)
        for token, number in ids.items():
            other = theirs[name][known[token]]
            own = _own(token, mine[name], theirs[name], known, kind)
            rows[number] = (own + other) / 2
        state[name] = rows
    by_hand.load_state_dict(state)
    batch = torch.tensor([encoded])
    with torch.no_grad():
        torch.testing.assert_close(model(batch).logits, by_hand(batch).logits)


def _own(
    token: str, mine: torch.Tensor, theirs: torch.Tensor, known: dict[str, int], kind: str
) -> torch.Tensor:
    """The first model's row of a token."""
    from pursuit_oracle import transplanted, wide

    if token in OLD:
        return mine[OLD.index(token)]
    if kind == "average":
        return theirs[known[token]]
    if kind == "mean":
        return mine.double().mean(0).float()
    if kind == "zero":
        return torch.zeros(16)
    both = [w for w in known if w in OLD]
    row = transplanted(
        wide(theirs[[known[w] for w in both]]),
        wide(theirs[known[token]]),
        wide(mine[[OLD.index(w) for w in both]]),
        3,
    )
    return torch.from_numpy(row).float()
