"""What tokens spell, so that those of tokenizers that write them in other ways can be matched.

    byte-level BPE (GPT-2, Qwen, Llama 3)      Ġred      a letter for each byte
    sentencepiece (Llama 2, Gemma, T5)         ▁red      a mark for the space, <0x0A> for bytes

Both spell the bytes of ` red`. Special tokens are matched by their parts too: what begins a text in
one tokenizer is what begins it in the other, however they are written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from zoo.tokenizers.older_tokenizers import BPE, MERGES
from zoo.tokenizers.tokenizer import CONFIG, FAST, SPECIAL, Tokenizer, read_object

_PARTS = ("bos", "eos", "unk", "pad", "cls", "sep", "mask")
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class Spelling:
    """What the tokens of one tokenizer spell."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.by_bytes = _is_byte_level(tokenizer.files)
        self._added = tokenizer.added
        self._parts = _parts(tokenizer.files)
        self._ids: dict[str, int] = {}
        for token, number in tokenizer.vocabulary.items():
            if not _BYTE.fullmatch(token):  # a letter goes before the byte it is
                self._ids.setdefault(self.of(token), number)
        for token, number in tokenizer.vocabulary.items():
            self._ids.setdefault(self.of(token), number)

    def of(self, token: str) -> str:
        """What a token spells: the same text for the same bytes, or the same part."""
        if token in self._parts:
            return f"part:{self._parts[token]}"
        if token in self._added:
            found = token.encode()
        elif self.by_bytes:
            letters = _letters()
            if any(c not in letters for c in token):
                return f"token:{token}"
            found = bytes(letters[c] for c in token)
        elif byte := _BYTE.fullmatch(token):
            found = bytes([int(byte[1], 16)])
        else:
            found = token.replace("▁", " ").encode()
        return "bytes:" + found.decode("latin-1")

    def id_of(self, spelt: str) -> int | None:
        """The id of the token that spells something, if there is one."""
        return self._ids.get(spelt)


def _is_byte_level(files: Mapping[str, Path]) -> bool:
    if FAST not in files:
        return BPE in files and MERGES in files
    document = read_object(files[FAST])
    said = [document.get(key) for key in ("pre_tokenizer", "decoder")]
    return '"ByteLevel"' in json.dumps(said)


def _parts(files: Mapping[str, Path]) -> dict[str, str]:
    """Token -> its first part, as the files name it."""
    found: dict[str, str] = {}
    for name in (CONFIG, SPECIAL):
        content = read_object(files[name]) if name in files else {}
        for part in _PARTS:
            token: Any = content.get(f"{part}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str) and part not in found.values():
                found.setdefault(token, part)
    return found


@cache
def _letters() -> dict[str, int]:
    """GPT-2's letter for each byte: printable ones stand for themselves, others come after."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(rest)}
