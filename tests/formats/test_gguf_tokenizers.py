"""Tokenizers in GGUF: the same text gives the same tokens, whoever wrote the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from zoo import Registry
from zoo.gguf.tokenizer import SPLITS

TEXTS = [
    "The quick brown fox",
    "it's 12345 o'clock, isn't IT?",
    "  two  spaces\n\n\tand lines ",
    "größe 東京 😀 e\u0301",
    "",
    "<|end|>after",
]
CORPUS = TEXTS * 3 + ["the fox and the quick clock went to the brown box, quickly"] * 5


def byte_level(pre: str) -> Tokenizer:
    """Trained on a few sentences, splitting text as models of this name do."""
    made = Tokenizer(models.BPE())
    steps = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre == "gpt-2")
    if pre != "gpt-2":
        split = pre_tokenizers.Split(Regex(SPLITS[pre]), behavior="isolated")
        steps = pre_tokenizers.Sequence([split, steps])
    if pre == "qwen2":
        made.normalizer = normalizers.NFC()
    made.pre_tokenizer = steps
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(CORPUS, trainer)
    made.add_special_tokens(
        [AddedToken("<|begin|>", special=True), AddedToken("<|end|>", special=True)]
    )
    made.add_tokens([AddedToken("<think>", normalized=False)])
    return made


def sentencepiece() -> Tokenizer:
    """A BPE model with scores and bytes to fall back to, in Llama 2's form."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    trainer = trainers.BpeTrainer(vocab_size=120, show_progress=False)
    trained.train_from_iterator(CORPUS, trainer)
    content = json.loads(trained.to_str())
    merged = ["".join(m) for m in content["model"]["merges"]]
    letters = sorted(t for t in content["model"]["vocab"] if t not in merged)
    tokens = [*pieces, *merged, *letters]
    # Sentencepiece's own rule: the further back, the later it is merged.
    scores = dict(zip(tokens, [0.0] * 259 + [float(-i) for i in range(len(tokens))], strict=False))
    vocab = {t: i for i, t in enumerate(tokens)}
    merges = []
    for token in sorted(merged, key=lambda t: -scores[t]):
        halves = [(token[:i], token[i:]) for i in range(1, len(token))]
        merges += sorted(
            (h for h in halves if h[0] in vocab and h[1] in vocab),
            key=lambda h: (vocab[h[0]], vocab[h[1]]),
        )
    made = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    made.normalizer = trained.normalizer
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    made.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in pieces[:3]])
    return made


SIZES = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "max_position_embeddings": 16,
    "rms_norm_eps": 1e-6,
    "torch_dtype": "float16",
    "tie_word_embeddings": True,
    **SIZES,
}


def directory(path: Path, tokenizer: Tokenizer, **about: Any) -> Path:
    """A model with no layers to speak of, and a tokenizer."""
    path.mkdir()
    rows = tokenizer.get_vocab_size() + 2  # padded, as real models are
    state = {"model.embed_tokens.weight": torch.ones(rows, 8, dtype=torch.float16)}
    save_file(state, path / "model.safetensors", {"format": "pt"})
    (path / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": rows}))
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps(about))
    return path


def without_ours(path: Path, target: Path) -> Path:
    """The same file as any other program would have written it: our own keys mean nothing."""
    raw = path.read_bytes()
    for key in (b"zoo.config", b"zoo.dtypes", b"tokenizer.huggingface.json"):
        raw = raw.replace(key, b"x" * len(key))
    target.write_bytes(raw)
    return target


TOKENIZERS = {
    "gpt-2": lambda: byte_level("gpt-2"),
    "llama-bpe": lambda: byte_level("llama-bpe"),
    "qwen2": lambda: byte_level("qwen2"),
    "tekken": lambda: byte_level("tekken"),
    "default": sentencepiece,
}
ABOUT = {
    "bos_token": "<|begin|>",
    "eos_token": {"content": "<|end|>", "special": True},
    "chat_template": "{{ messages }}",
}


@pytest.mark.parametrize("pre", TOKENIZERS)
def test_a_tokenizer_comes_back_from_the_metadata_alone(
    pre: str, registry: Registry, tmp_path: Path
) -> None:
    tokenizer = TOKENIZERS[pre]()
    about = ABOUT if pre != "default" else {"bos_token": "<s>", "eos_token": "</s>"}
    registry.register(directory(tmp_path / "m", tokenizer, **about), name="m")
    path = registry.export("m", tmp_path / "out", format="gguf")

    registry.register(without_ours(path, tmp_path / "foreign.gguf"), name="back")

    read = Tokenizer.from_file(str(registry.path("back") / "tokenizer.json"))
    for text in TEXTS:
        assert tokenizer.encode(text).ids == read.encode(text).ids, text
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == read.decode(ids), text
    told = json.loads((registry.path("back") / "tokenizer_config.json").read_text())
    assert about["bos_token"] == told["bos_token"]
    assert about.get("chat_template") == told.get("chat_template")


@pytest.mark.parametrize("pre", TOKENIZERS)
def test_our_own_files_give_back_the_tokenizer_byte_for_byte(
    pre: str, registry: Registry, tmp_path: Path
) -> None:
    source = directory(tmp_path / "m", TOKENIZERS[pre](), **ABOUT)
    registry.register(source, name="m")

    registry.register(registry.export("m", tmp_path / "out", format="gguf"), name="back")

    expected = (source / "tokenizer.json").read_bytes()
    assert expected == (registry.path("back") / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2", "default"])
def test_transformers_reads_the_same_tokenizer_from_the_file(
    pre: str, registry: Registry, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = TOKENIZERS[pre]()
    registry.register(directory(tmp_path / "m", tokenizer, **ABOUT), name="m")

    path = registry.export("m", tmp_path / "out", format="gguf")

    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    # For Llama 2 it takes one space less before a text that begins with one.
    for text in (TEXTS[0], TEXTS[1], TEXTS[2].strip()):
        ours = tokenizer.encode(text, add_special_tokens=False).ids
        assert ours == theirs.encode(text, add_special_tokens=False), text


def test_tokens_have_the_types_that_llama_cpp_gives_them(
    registry: Registry, tmp_path: Path
) -> None:
    tokenizer = byte_level("gpt-2")
    registry.register(directory(tmp_path / "m", tokenizer, **ABOUT), name="m")

    fields = gguf.GGUFReader(registry.export("m", tmp_path / "out", format="gguf")).fields

    kinds = np.array(fields["tokenizer.ggml.token_type"].contents())
    tokens = fields["tokenizer.ggml.tokens"].contents()
    control = {t for t, k in zip(tokens, kinds, strict=True) if k == gguf.TokenType.CONTROL}
    user = {t for t, k in zip(tokens, kinds, strict=True) if k == gguf.TokenType.USER_DEFINED}
    assert {"<|begin|>", "<|end|>"} == control
    assert {"<think>"} == user
    assert [gguf.TokenType.UNUSED] * 2 == kinds[-2:].tolist()
    assert tokens.index("<|end|>") == fields["tokenizer.ggml.eos_token_id"].contents()


def test_a_way_to_split_that_nobody_named_is_said_and_not_guessed(
    registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = byte_level("gpt-2")
    split = pre_tokenizers.Split(Regex(r"\d|\D+"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(use_regex=False)]
    )
    registry.register(directory(tmp_path / "m", tokenizer), name="m")

    path = registry.export("m", tmp_path / "out", format="gguf")
    back = registry.register(without_ours(path, tmp_path / "foreign.gguf"), name="back")

    assert "no name that zoo knows" in caplog.text
    assert "splits text as `None`" in back.notes["gguf"]["lacking"][0]
    assert not (registry.path("back") / "tokenizer.json").exists()
