"""Vocabularies of tokenizers that have no `tokenizer.json`: sentencepiece, WordPiece, slow BPE.

What was added to them stands in `tokenizer_config.json` or `added_tokens.json`, and is written
there again: transformers makes its tokenizer from these files when it loads them. A vocabulary that
is text can be cut; a sentencepiece model cannot.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from zoo.checkpoints.safetensors import read_small
from zoo.errors import InvalidRecipe

BPE, MERGES, WORDPIECE = "vocab.json", "merges.txt", "vocab.txt"
SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
_PLAIN = ("Albert", "CodeLlama", "Gemma", "Llama", "T5")
"""Classes whose ids are those of the sentencepiece model; others shift them by their own rules."""
_EXTRA = 100
"""Tokens that T5 adds where its configuration does not say how many."""
REMEDY = (
    "Write a `tokenizer.json` beside it: "
    'with transformers, `AutoTokenizer.from_pretrained("{0}").save_pretrained("{0}")`.'
)


def is_of_tiktoken(name: str) -> bool:
    """Whether a file is a vocabulary in a form of tiktoken's."""
    return name.endswith(".tiktoken") or name == "tekken.json"


def pieces(label: str, path: Path, config: Mapping[str, Any]) -> tuple[dict[str, int], list[Any]]:
    """The vocabulary of a sentencepiece model, and what its class adds to it.

    Args:
        config: content of `tokenizer_config.json`.
    Raises:
        InvalidRecipe: the library is missing, the file is none of its, or its ids are not known.
    """
    kind = str(config.get("tokenizer_class") or "Llama").removesuffix("Fast")
    kind = kind.removesuffix("Tokenizer")
    if kind not in _PLAIN or path.name == SENTENCEPIECE[2]:
        raise InvalidRecipe(
            f"The tokenizer of `{label}` is in `{path.name}` only,",
            f"and what ids `{kind}Tokenizer` gives its pieces zoo does not know.",
            REMEDY.format(label),
            file=path.name,
        )
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise InvalidRecipe(
            f"The tokenizer of `{label}` is in `{path.name}` only,",
            "and the library that reads it is not installed.",
            f"pip install 'zoo-registry[sentencepiece]'. Or: {REMEDY.format(label)}",
            file=path.name,
        ) from None
    processor: Any = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(read_small(path))
        count = processor.GetPieceSize()
    except RuntimeError:
        raise InvalidRecipe(
            f"The tokenizer of `{label}` is in `{path.name}` only, which zoo does not read:",
            "it is no model of sentencepiece's, whatever its name says.",
            REMEDY.format(label),
            file=path.name,
        ) from None
    found = {processor.IdToPiece(i): i for i in range(count)}
    if kind != "T5":
        return found, []
    extra = config.get("extra_ids", _EXTRA)
    extra = extra if isinstance(extra, int) and 0 <= extra <= 1000 else 0
    return found, [
        {"content": f"<extra_id_{i}>", "id": count + extra - 1 - i, "special": True}
        for i in range(extra)
        if f"<extra_id_{i}>" not in found
    ]


def lines(path: Path) -> dict[str, int]:
    """The vocabulary of a file with one token a line; of equal ones the last counts."""
    text = read_small(path).decode(errors="replace")
    return {token.rstrip("\r"): i for i, token in enumerate(text.removesuffix("\n").split("\n"))}


def cut(found: Mapping[str, bytes], lost: Iterable[str]) -> dict[str, bytes] | None:
    """Tokenizer files without some tokens of the learned vocabulary, which are its last.

    Returns:
        None where no file can be cut.
    """
    gone = set(lost)
    if BPE in found:
        kept = {t: i for t, i in json.loads(found[BPE]).items() if t not in gone}
        made = {BPE: json.dumps(kept, ensure_ascii=False).encode()}
        if MERGES in found:
            merges = found[MERGES].decode().split("\n")
            made[MERGES] = "\n".join(m for m in merges if not gone & _parts(m)).encode()
        return {**found, **made}
    if WORDPIECE in found:
        kept_lines = [
            t for t in found[WORDPIECE].decode().split("\n") if t.rstrip("\r") not in gone
        ]
        return {**found, WORDPIECE: "\n".join(kept_lines).encode()}
    return None


def _parts(merge: str) -> set[str]:
    left, _, right = merge.strip().partition(" ")
    return {left, right, left + right} if right and not merge.startswith("#version") else set()
