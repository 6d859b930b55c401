"""What mergekit tests of vocabularies holds here; `mergekit_cases` has the list."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mergekit_cases import (
    CASES,
    CHATML,
    MODELS,
    UNUSED,
    WORDS,
    expected_row,
    expected_tokens,
    tensors_of,
)
from tiny_vocabularies import EMBEDDING, HEAD, Merged

from zoo import Registry
from zoo.errors import IncompatibleModels

Merge = Callable[..., Merged]


@pytest.mark.parametrize("name", CASES)
def test_the_result_has_the_tokens_and_rows_that_the_rules_give(
    name: str, tmp_path: Path, merged: Merge
) -> None:
    case = CASES[name]
    states = {m: MODELS[m].write(tmp_path / m, i) for i, m in enumerate(case.models)}

    found = merged(case.document(tmp_path))

    tokens = expected_tokens(case)
    assert tokens == found.vocabulary.keys()
    assert set(range(len(tokens))) == set(found.vocabulary.values())
    rows = -(-len(tokens) // (case.padding or 1)) * (case.padding or 1)
    assert rows == found.config["vocab_size"]
    for tensor in tensors_of(case):
        assert rows == len(found.state[tensor])
        for token in tokens:
            row = expected_row(case, states, token, tensor)
            torch.testing.assert_close(found.row(token, tensor).double(), row, msg=token)
        padding = found.state[tensor][len(tokens) :].double()
        mean = found.state[tensor][: len(tokens)].double().mean(0)
        torch.testing.assert_close(padding, mean.expand_as(padding), rtol=1e-6, atol=1e-6)


def test_unused_tokens_of_a_padded_model_do_not_come_along(tmp_path: Path, merged: Merge) -> None:
    case = CASES["source_union"]
    for i, model in enumerate(case.models):
        MODELS[model].write(tmp_path / model, i)

    found = merged(case.document(tmp_path))

    assert set(CHATML) <= found.vocabulary.keys()
    assert set(UNUSED).isdisjoint(found.vocabulary)
    assert 5 == len(found.tokenizer.added_tokens_decoder)


def test_tied_heads_come_out_equal(tmp_path: Path, merged: Merge) -> None:
    case = CASES["tied_heads"]
    for i, model in enumerate(case.models):
        MODELS[model].write(tmp_path / model, i)

    found = merged(case.document(tmp_path))

    assert torch.equal(found.state[EMBEDDING], found.state[HEAD])


def test_slerp_meets_the_other_vocabulary(tmp_path: Path, merged: Merge) -> None:
    for i, model in enumerate(("plain", "chatml")):
        MODELS[model].write(tmp_path / model, i)

    found = merged(
        {
            "merge_method": "slerp",
            "base_model": str(tmp_path / "plain"),
            "models": [{"model": str(tmp_path / m)} for m in ("plain", "chatml")],
            "parameters": {"t": 0.5},
            "tokenizer_source": "union",
            "dtype": "float32",
        }
    )

    assert set(CHATML) <= found.vocabulary.keys()
    assert len(WORDS) + 2 == len(found.state[EMBEDDING]) == found.config["vocab_size"]


@pytest.mark.parametrize("crop", [False, True])
def test_without_a_source_sizes_must_agree_or_be_cropped(
    crop: bool, registry: Registry, tmp_path: Path, merged: Merge
) -> None:
    for i, model in enumerate(("plain", "chatml")):
        MODELS[model].write(tmp_path / model, i)
    document = CASES["source_union"].document(tmp_path)
    del document["tokenizer"]
    document["models"] = [m for m in document["models"] if not m["model"].endswith("padded")]

    if crop:
        found = merged({**document, "mismatch": "crop"})

        assert len(WORDS) == len(found.vocabulary) == len(found.state[EMBEDDING])
        assert 3 == len(found.tokenizer.added_tokens_decoder)
    else:
        with pytest.raises(IncompatibleModels, match=r"tokenizer: \{source: union\}"):
            registry.plan(document)


def test_a_tokenizer_goes_before_cropping(tmp_path: Path, merged: Merge) -> None:
    for i, model in enumerate(("longer", "plain")):
        MODELS[model].write(tmp_path / model, i)
    names = [str(tmp_path / m) for m in ("longer", "plain")]

    found = merged(
        {
            "merge_method": "linear",
            "base_model": names[0],
            "models": [{"model": n, "parameters": {"weight": 0.5}} for n in names],
            "tokenizer": {"source": "base"},
            "mismatch": "crop",
        }
    )

    assert len(WORDS) + 2 == len(found.state[EMBEDDING]) == len(found.state[HEAD])
