"""Tokenizers without a `tokenizer.json` are read, and what is written transformers loads."""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_vocabularies import EMBEDDING, Merged, linear, write_model, write_tokenizer, write_weights

from zoo import Registry
from zoo.errors import InvalidCheckpoint, InvalidRecipe

Merge = Callable[..., Merged]
TEXT = ["the red fox and the green bird", "blue hills are green hills", "hello world"] * 20


def sentencepiece(path: Path, kind: str = "bpe", **config: Any) -> int:
    """A tokenizer of sentencepiece's alone; how many pieces it has."""
    library = pytest.importorskip("sentencepiece")
    written = io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT),
        model_writer=written,
        vocab_size=320 if kind == "bpe" else 40,
        model_type=kind,
        byte_fallback=kind == "bpe",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    path.mkdir(parents=True)
    (path / "tokenizer.model").write_bytes(written.getvalue())
    about = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (path / "tokenizer_config.json").write_text(json.dumps({**about, **config}))
    count: int = library.SentencePieceProcessor(
        model_file=str(path / "tokenizer.model")
    ).get_piece_size()
    return count


def loaded(path: Path, kind: str = "LlamaTokenizer") -> Any:
    import transformers

    return getattr(transformers, kind).from_pretrained(path)


def chat_model(path: Path, words: Sequence[str]) -> torch.Tensor:
    """A model of some words and `<chat>`."""
    return write_model(path, ["<unk>", *words], 2, more=["<chat>"])[EMBEDDING]


def test_a_sentencepiece_model_that_stays_is_kept_to_the_byte(
    tmp_path: Path, merged: Merge
) -> None:
    sp, other = tmp_path / "sp", tmp_path / "other"
    rows = sentencepiece(sp)
    own = write_weights(sp, rows, 1)[EMBEDDING]
    theirs = write_model(other, ["<unk>", "<s>", "</s>", "▁the", "x"], 2)[EMBEDDING]

    found = merged(linear([sp, other], tokenizer={"source": "base"}))

    for name in ("tokenizer.model", "tokenizer_config.json"):
        assert (sp / name).read_bytes() == (found.directory / name).read_bytes()
    tokenizer = loaded(found.directory)
    the = tokenizer.convert_tokens_to_ids("▁the")
    torch.testing.assert_close(found.state[EMBEDDING][the], (own[the] + theirs[3]) / 2)
    assert loaded(sp).encode("the red fox") == tokenizer.encode("the red fox")


def test_a_union_adds_to_a_sentencepiece_model_and_transformers_sees_it(
    tmp_path: Path, merged: Merge
) -> None:
    sp, chat = tmp_path / "sp", tmp_path / "chat"
    rows = sentencepiece(sp)
    write_weights(sp, rows, 1)
    theirs = chat_model(chat, ["<s>", "▁the"])

    found = merged(linear([sp, chat], tokenizer={"source": "union"}))

    assert (sp / "tokenizer.model").read_bytes() == (
        found.directory / "tokenizer.model"
    ).read_bytes()
    tokenizer = loaded(found.directory)
    number = tokenizer.convert_tokens_to_ids("<chat>")
    assert rows == number
    assert rows + 1 == len(tokenizer) == found.config["vocab_size"]
    torch.testing.assert_close(found.state[EMBEDDING][number], theirs[3])
    before = loaded(sp).encode("the red fox", add_special_tokens=False)
    after = tokenizer.encode("the red fox<chat>", add_special_tokens=False)
    assert [*before, number] == after


def test_a_sentencepiece_models_tokens_join_a_union(tmp_path: Path, merged: Merge) -> None:
    sp, chat = tmp_path / "sp", tmp_path / "chat"
    rows = sentencepiece(sp, "unigram", added_tokens_decoder={"40": {"content": "<new>"}})
    own = write_weights(sp, 41, 1)[EMBEDDING]
    chat_model(chat, ["<s>", "</s>", "▁the"])
    assert rows <= 40

    found = merged(linear([chat, sp], tokenizer={"source": "union"}))

    assert found.vocabulary.keys() > {"<chat>", "<new>", "▁the", "</s>"}
    torch.testing.assert_close(found.row("<new>"), own[40])


def test_t5_adds_tokens_that_no_file_names(tmp_path: Path, registry: Registry) -> None:
    from zoo.tokenizers.tokenizer import read_tokenizer

    rows = sentencepiece(tmp_path / "t5", "unigram", tokenizer_class="T5Tokenizer", extra_ids=3)
    files = {p.name: p for p in (tmp_path / "t5").iterdir()}

    found = read_tokenizer("t5", files)

    assert found is not None
    assert loaded(tmp_path / "t5", "T5Tokenizer").convert_tokens_to_ids("<extra_id_0>") == rows + 2
    assert [rows, rows + 1, rows + 2] == [
        found.vocabulary[f"<extra_id_{i}>"] for i in reversed(range(3))
    ]


def test_a_sentencepiece_vocabulary_is_not_cut(registry: Registry, tmp_path: Path) -> None:
    rows = sentencepiece(tmp_path / "sp")
    write_weights(tmp_path / "sp", rows - 4, 1)

    with pytest.raises(InvalidRecipe, match=r"form that cannot be cut.*save_pretrained"):
        registry.merge(
            linear([tmp_path / "sp"], tokenizer={"source": "base"}), out=tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


def test_without_the_library_the_way_to_install_it_is_told(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_weights(tmp_path / "sp", sentencepiece(tmp_path / "sp"), 1)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)

    with pytest.raises(InvalidRecipe, match=r"pip install 'zoo-registry\[sentencepiece\]'"):
        registry.plan(linear([tmp_path / "sp"], tokenizer={"source": "base"}))


@pytest.mark.parametrize("kind", ["XLMRobertaTokenizer", "PegasusTokenizerFast"])
def test_classes_that_shift_ids_are_refused(kind: str, registry: Registry, tmp_path: Path) -> None:
    write_weights(tmp_path / "sp", sentencepiece(tmp_path / "sp", tokenizer_class=kind), 1)

    with pytest.raises(InvalidRecipe, match=r"what ids `\w+Tokenizer` gives.*save_pretrained"):
        registry.plan(linear([tmp_path / "sp"], tokenizer={"source": "base"}))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("tokenizer.model", base64.b64encode(b"the") + b" 0\n"),  # Llama 3's is tiktoken's
        ("qwen.tiktoken", base64.b64encode(b"the") + b" 0\n"),
        ("tekken.json", b"{}"),
    ],
)
def test_tiktoken_is_refused_with_the_remedy(
    name: str, data: bytes, registry: Registry, tmp_path: Path
) -> None:
    write_weights(tmp_path / "m", 4)
    (tmp_path / "m" / name).write_bytes(data)

    with pytest.raises(InvalidRecipe, match=rf"`{name}` only.*save_pretrained"):
        registry.plan(linear([tmp_path / "m"], tokenizer={"source": "base"}))


def test_a_spelling_for_other_programs_is_not_kept_when_the_vocabulary_changes(
    tmp_path: Path, merged: Merge
) -> None:
    write_model(tmp_path / "a", ["<unk>", "a"], 1)
    chat_model(tmp_path / "b", ["a"])
    (tmp_path / "a" / "tekken.json").write_text("{}")

    same = merged(linear([tmp_path / "a"], tokenizer={"source": "base"}))
    more = merged(linear([tmp_path / "a", tmp_path / "b"], tokenizer={"source": "union"}))

    assert (same.directory / "tekken.json").exists()
    assert not (more.directory / "tekken.json").exists()


BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "fox", "##es"]


def word_pieces(path: Path, words: Sequence[str], rows: int) -> None:
    path.mkdir(parents=True)
    (path / "vocab.txt").write_text("\n".join(words) + "\n")
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    write_weights(path, rows, 1)


def test_word_pieces_join_and_are_joined(tmp_path: Path, merged: Merge) -> None:
    word_pieces(tmp_path / "bert", BERT, 8)
    write_model(tmp_path / "other", ["[UNK]", "fox", "hen"], 2, more=["<chat>"])

    found = merged(linear([tmp_path / "bert", tmp_path / "other"], tokenizer={"source": "union"}))

    tokenizer = loaded(found.directory, "BertTokenizer")
    assert [5, 6, 7, 8, 9] == tokenizer.encode("red foxes hen <chat>", add_special_tokens=False)
    assert 10 == len(tokenizer) == found.config["vocab_size"]


def test_word_pieces_without_a_row_are_cut(tmp_path: Path, merged: Merge) -> None:
    word_pieces(tmp_path / "bert", [*BERT, "extra1", "extra2"], 8)

    found = merged(linear([tmp_path / "bert"], tokenizer={"source": "base"}))

    assert BERT == (found.directory / "vocab.txt").read_text().split()
    assert 8 == len(loaded(found.directory, "BertTokenizer"))


def test_slow_byte_pairs_are_cut_with_their_merges(tmp_path: Path, merged: Merge) -> None:
    path = tmp_path / "gpt"
    write_weights(path, 4, 1)
    (path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4}))
    (path / "merges.txt").write_text("#version: 0.2\na b\nab c\n")
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))

    found = merged(linear([path], tokenizer={"source": "base"}))

    assert {"a": 0, "b": 1, "c": 2, "ab": 3} == found.json("vocab.json")
    assert "#version: 0.2\na b\n" == (found.directory / "merges.txt").read_text()
    tokenizer = loaded(found.directory, "GPT2Tokenizer")
    assert [3, 2] == tokenizer.encode("abc", add_special_tokens=False)


def test_a_damaged_vocabulary_file_is_told(registry: Registry, tmp_path: Path) -> None:
    write_weights(tmp_path / "m", 4)
    (tmp_path / "m" / "vocab.json").write_text('{"a": 0, "b": 0}')
    write_tokenizer(tmp_path / "n", ["a"])

    with pytest.raises(InvalidCheckpoint, match="holds no vocabulary"):
        registry.plan(linear([tmp_path / "m"], tokenizer={"source": "base"}))
