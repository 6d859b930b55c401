"""Tokens that spell the same are one token, where the recipe says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_vocabularies import EMBEDDING, SPECIAL, Merged, State, linear, write_weights

from zoo import Registry
from zoo.errors import InvalidRecipe
from zoo.tokenizers.spelling import Spelling
from zoo.tokenizers.tokenizer import read_tokenizer

Merge = Callable[..., Merged]
BYTES = ["<|end|>", "Ġred", "red", "Ċ", "Ã©", "Ġ", "A", "Ġgold", "<|im_start|>"]
MARKS = [*SPECIAL, "▁red", "red", "<0x0A>", "é", "▁", "<0x41>", "A", "▁blue", "<|im_start|>"]
SAME = {0: 2, 1: 3, 2: 4, 3: 5, 4: 6, 5: 7, 6: 9, 8: 11}
"""Of `BYTES` those that `MARKS` has, by id."""


def write(path: Path, words: list[str], seed: int, *, by_bytes: bool, **special: str) -> State:
    state = write_weights(path, len(words), seed)
    how = {"type": "ByteLevel"} if by_bytes else {"type": "Metaspace"}
    added = [w for w in words if w in special.values() or w == "<|im_start|>"]
    document: dict[str, Any] = {
        "added_tokens": [{"id": words.index(w), "content": w, "special": True} for w in added],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [how]},
        "model": {"type": "WordLevel", "vocab": {w: i for i, w in enumerate(words)}},
    }
    (path / "tokenizer.json").write_text(json.dumps(document))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return state


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, State]:
    """One model that writes tokens in bytes, and one that marks spaces."""
    return {
        "bytes": write(tmp_path / "bytes", BYTES, 1, by_bytes=True, eos_token="<|end|>"),
        "marks": write(
            tmp_path / "marks", MARKS, 2, by_bytes=False, bos_token="<s>", eos_token="</s>"
        ),
    }


def spelling(path: Path) -> Spelling:
    found = read_tokenizer(path.name, {p.name: p for p in path.iterdir()})
    assert found is not None
    return Spelling(found)


def test_tokens_are_matched_by_bytes_and_by_part(pair: dict[str, State], tmp_path: Path) -> None:
    ours, theirs = spelling(tmp_path / "bytes"), spelling(tmp_path / "marks")

    found = {i: theirs.id_of(ours.of(token)) for i, token in enumerate(BYTES)}

    assert SAME == {i: n for i, n in found.items() if n is not None}


def test_every_byte_has_a_letter_and_no_two_the_same(tmp_path: Path) -> None:
    """The oracle is the table that the library itself uses."""
    from tokenizers import pre_tokenizers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    write(tmp_path / "m", sorted(alphabet), 1, by_bytes=True)

    found = spelling(tmp_path / "m")

    assert {f"bytes:{chr(b)}" for b in range(256)} == {found.of(c) for c in alphabet}
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    text = "naïve café\n日本"
    ((letters, _),) = splitter.pre_tokenize_str(text)
    assert "bytes:" + text.encode().decode("latin-1") == found.of(letters)


def test_rows_of_the_same_spelling_are_averaged(
    pair: dict[str, State], tmp_path: Path, merged: Merge
) -> None:
    paths = [tmp_path / "bytes", tmp_path / "marks"]
    block = {"source": str(paths[0]), "match": "spelling", "missing": {"kind": "zero"}}

    found = merged(linear(paths, tokenizer=block))

    a, b = pair["bytes"][EMBEDDING], pair["marks"][EMBEDDING]
    for i in range(len(BYTES)):
        other = b[SAME[i]] if i in SAME else torch.zeros(6)
        torch.testing.assert_close(found.state[EMBEDDING][i], (a[i] + other) / 2)


def test_without_it_only_what_is_written_alike_is_shared(
    pair: dict[str, State], tmp_path: Path, merged: Merge
) -> None:
    paths = [tmp_path / "bytes", tmp_path / "marks"]
    block = {"source": str(paths[0]), "missing": {"kind": "zero"}}

    found = merged(linear(paths, tokenizer=block))

    a, b = pair["bytes"][EMBEDDING], pair["marks"][EMBEDDING]
    torch.testing.assert_close(found.state[EMBEDDING][1], a[1] / 2)
    torch.testing.assert_close(found.state[EMBEDDING][2], (a[2] + b[4]) / 2)


def test_sums_are_of_all_tokens_that_spell_alike(
    pair: dict[str, State], tmp_path: Path, registry: Registry, merged: Merge
) -> None:
    from pursuit_oracle import transplanted, wide

    paths = [tmp_path / "marks", tmp_path / "bytes"]
    block = {"source": str(paths[1]), "match": "spelling", "missing": {"kind": "omp", "k": 3}}
    recipe = linear(paths, tokenizer=block, parameters={"weight": [1.0, 0.0]})

    found = merged(recipe)

    donor, own = wide(pair["bytes"][EMBEDDING]), wide(pair["marks"][EMBEDDING])
    row = transplanted(donor[list(SAME)], donor[7], own[list(SAME.values())], 3)
    torch.testing.assert_close(found.state[EMBEDDING][7].double(), torch.from_numpy(row))
    lock = registry.plan(recipe).lock["tokenizer"]
    assert "spelling" == lock["match"]


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"source": "union", "match": "spelling"}, "A union is of tokens as they are written"),
        ({"source": "base", "match": "speling"}, "cannot be 'speling'.*Did you mean `spelling`"),
    ],
)
def test_a_mistake_in_match_is_told(
    block: dict[str, Any],
    message: str,
    pair: dict[str, State],
    registry: Registry,
    tmp_path: Path,
) -> None:
    with pytest.raises(InvalidRecipe, match=message):
        registry.plan(linear([tmp_path / "bytes"], tokenizer=block))
