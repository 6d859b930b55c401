"""Models of a few words: embeddings, a head, and tokenizers as transformers saves them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

State = dict[str, torch.Tensor]

SPECIAL = ("<unk>", "<s>", "</s>")
EMBEDDING, HEAD, BODY = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def write_tokenizer(
    directory: Path, words: Sequence[str], more: Sequence[str] = (), **about: Any
) -> None:
    """A tokenizer of whole words; those of `SPECIAL`, and those of `more`, are added tokens."""
    document = {
        "version": "1.0",
        "added_tokens": [
            *(added(t, words.index(t)) for t in SPECIAL if t in words),
            *(added(t, len(words) + i) for i, t in enumerate(more)),
        ],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {
            "type": "WordLevel",
            "vocab": {w: i for i, w in enumerate(words)},
            "unk_token": "<unk>",
        },
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.json").write_text(json.dumps(document))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", **about}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


def added(token: str, number: int, **how: Any) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": token, **flags, "special": True, **how}


def write_weights(
    directory: Path,
    rows: int,
    seed: int = 0,
    *,
    width: int = 6,
    dtype: torch.dtype = torch.float32,
    tied: bool = False,
    stored: bool = True,
    **config: Any,
) -> State:
    """Embeddings, a head and a norm; `tied` heads are equal, and may not be `stored`."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {EMBEDDING: (rows, width), HEAD: (rows, width), BODY: (width,)}
    state = {n: torch.randn(s, generator=generator).to(dtype) for n, s in shapes.items()}
    if tied:
        state[HEAD] = state[EMBEDDING].clone()
        if not stored:
            del state[HEAD]
    directory.mkdir(parents=True, exist_ok=True)
    save_file(state, directory / "model.safetensors", {"format": "pt"})
    about = {
        "model_type": "llama",
        "vocab_size": rows,
        "hidden_size": width,
        "tie_word_embeddings": tied,
        **config,
    }
    (directory / "config.json").write_text(json.dumps(about))
    return state


def write_model(
    directory: Path, words: Sequence[str], seed: int = 0, more: Sequence[str] = (), **weights: Any
) -> State:
    """A model with a row for each of its words."""
    write_tokenizer(directory, words, more)
    return write_weights(directory, len(words) + len(more), seed, **weights)


class Merged:
    """A merged directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @cached_property
    def state(self) -> State:
        found: State = {}
        for file in sorted(self.directory.glob("*.safetensors")):
            found.update(load_file(file))
        return found

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(self.directory)

    @property
    def vocabulary(self) -> dict[str, int]:
        found: dict[str, int] = self.tokenizer.get_vocab()
        return found

    @cached_property
    def config(self) -> dict[str, Any]:
        return self.json("config.json")

    def json(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / name).read_text())
        return found

    def row(self, token: str, tensor: str = EMBEDDING) -> torch.Tensor:
        return self.state[tensor][self.vocabulary[token]]


def linear(models: Sequence[Path], **more: Any) -> dict[str, Any]:
    """A recipe that averages."""
    return {"method": "linear", "experts": [str(m) for m in models], **more}
