"""Dense language models of a few thousand numbers, made by transformers, with a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

VOCABULARY, HIDDEN, INNER, LAYERS = 32, 16, 24, 3
WORDS = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(VOCABULARY - 3))]
KINDS = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}


def dense(kind: str, directory: Path, seed: int, dtype: str = "float32", **config: Any) -> Path:
    """A model with random weights, biases and norms too, saved by transformers itself."""
    import transformers

    known: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
        **({"head_dim": 6} if kind == "qwen3" else {}),
        **config,
    }
    own = getattr(transformers, f"{KINDS[kind]}Config")(**known)
    model = getattr(transformers, f"{KINDS[kind]}ForCausalLM")(own)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (0.4 if p.dim() > 1 else 0.2))
            if p.dim() == 1:
                p.add_(1)
    model.to(getattr(torch, dtype)).save_pretrained(directory)
    return tokenizer(directory)


def tokenizer(
    directory: Path, words: Sequence[str] = WORDS, added: Sequence[str] = (), **about: Any
) -> Path:
    """A tokenizer of whole words beside a model."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    more = [(i, w) for i, w in enumerate(words) if w in WORDS[:3]]
    more += [(len(words) + i, w) for i, w in enumerate(added)]
    document = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": w, **flags, "special": True} for i, w in more],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {
            "type": "WordLevel",
            "vocab": {w: i for i, w in enumerate(words)},
            "unk_token": "<unk>",
        },
    }
    (directory / "tokenizer.json").write_text(json.dumps(document))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        **about,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def logits(directory: Path, ids: Sequence[int] = (1, 5, 9, 4, 20)) -> torch.Tensor:
    """What a saved model says, in float32, after it loaded with nothing missing or left over."""
    import transformers

    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True, local_files_only=True
    )
    assert not report["missing_keys"], report
    assert not report["unexpected_keys"], report
    assert not report["mismatched_keys"], report
    with torch.no_grad():
        said: torch.Tensor = model.eval()(torch.tensor([list(ids)])).logits[0]
    return said
