"""Slices of models of different vocabularies are stacked with the result's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_vocabularies import (
    EMBEDDING,
    HEAD,
    SPECIAL,
    Merged,
    State,
    write_tokenizer,
    write_weights,
)

Merge = Callable[..., Merged]
A, B = [*SPECIAL, "red", "green"], ["blue", *reversed(SPECIAL), "red", "gold"]


def layered(path: Path, words: list[str], seed: int, *, tied: bool = False) -> State:
    """Two layers between embeddings and head."""
    write_tokenizer(path, words)
    state = write_weights(path, len(words), seed, tied=tied, stored=False, num_hidden_layers=2)
    for i in range(2):
        state[f"model.layers.{i}.mlp.weight"] = torch.full((6, 6), 10.0 * seed + i)
    save_file(state, path / "model.safetensors", {"format": "pt"})
    return state


def slices(*sources: tuple[Path, int], **more: Any) -> dict[str, Any]:
    return {
        "method": "passthrough",
        "slices": [{"sources": [{"model": str(p), "layers": [n, n + 1]}]} for p, n in sources],
        **more,
    }


def test_front_and_head_of_two_models_have_one_vocabulary(tmp_path: Path, merged: Merge) -> None:
    a, b = layered(tmp_path / "a", A, 1), layered(tmp_path / "b", B, 2)

    found = merged(slices((tmp_path / "a", 0), (tmp_path / "b", 1), tokenizer={"source": "union"}))

    assert {*A, *B} == found.vocabulary.keys()
    assert [10.0, 21.0] == [
        found.state[f"model.layers.{i}.mlp.weight"][0, 0].item() for i in range(2)
    ]
    for token in found.vocabulary:
        front = a[EMBEDDING][A.index(token)] if token in A else b[EMBEDDING][B.index(token)]
        back = b[HEAD][B.index(token)] if token in B else a[HEAD][A.index(token)]
        assert torch.equal(front, found.row(token))
        assert torch.equal(back, found.row(token, HEAD))


def test_a_tied_stack_of_two_models_is_untied_with_the_right_rows(
    tmp_path: Path, merged: Merge
) -> None:
    """Its head is the second model's embeddings, in the result's order of tokens."""
    a = layered(tmp_path / "a", A, 1, tied=True)
    b = layered(tmp_path / "b", B, 2, tied=True)

    found = merged(
        slices((tmp_path / "a", 0), (tmp_path / "b", 1), tokenizer={"source": str(tmp_path / "b")})
    )

    assert found.config["tie_word_embeddings"] is False
    for token in B:
        own = a[EMBEDDING][A.index(token)] if token in A else b[EMBEDDING][B.index(token)]
        assert torch.equal(own, found.row(token))
        assert torch.equal(b[EMBEDDING][B.index(token)], found.row(token, HEAD))


def test_a_model_stacked_on_itself_stays_tied(tmp_path: Path, merged: Merge) -> None:
    layered(tmp_path / "a", A, 1, tied=True)
    layered(tmp_path / "b", B, 2, tied=True)
    rules = {"gold": {"source": {"kind": "zero"}}}

    found = merged(
        slices(
            (tmp_path / "a", 0),
            (tmp_path / "a", 0),
            tokenizer={"source": "base", "tokens": rules, "pad_to_multiple_of": 4},
        )
    )

    assert HEAD not in found.state
    assert 8 == len(found.state[EMBEDDING]) == found.config["vocab_size"]
    assert torch.equal(torch.zeros(6), found.row("gold"))


def test_sums_of_a_slices_model_are_its_own(tmp_path: Path, merged: Merge) -> None:
    a, b = layered(tmp_path / "a", A, 1), layered(tmp_path / "b", B, 2)
    block = {"source": str(tmp_path / "b"), "missing": {"kind": "omp", "k": 2}}

    found = merged(slices((tmp_path / "a", 0), (tmp_path / "b", 1), tokenizer=block))

    from pursuit_oracle import transplanted, wide

    both = [w for w in B if w in A]
    row = transplanted(
        wide(b[EMBEDDING][[B.index(w) for w in both]]),
        wide(b[EMBEDDING][B.index("gold")]),
        wide(a[EMBEDDING][[A.index(w) for w in both]]),
        2,
    )
    torch.testing.assert_close(found.row("gold").double(), torch.from_numpy(row))
    assert torch.equal(b[HEAD], found.state[HEAD])
