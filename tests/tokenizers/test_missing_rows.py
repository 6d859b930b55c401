"""Rows of tokens that a model lacks come about as the recipe's `missing` says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pursuit_oracle import transplanted, wide
from tiny_vocabularies import (
    BODY,
    EMBEDDING,
    HEAD,
    SPECIAL,
    Merged,
    State,
    linear,
    write_model,
)

from zoo import Registry
from zoo.errors import InvalidRecipe

Merge = Callable[..., Merged]
SHARED = [*SPECIAL, *(f"word{i}" for i in range(20))]
OLD, NEW = [*SHARED, "old1", "old2"], ["new1", *reversed(SHARED), "new2", "new3"]


def omp(source: Path | str, k: int = 4, **more: Any) -> dict[str, Any]:
    return {"source": str(source), "missing": {"kind": "omp", "k": k}, **more}


def expected(
    token: str, own: State, mine: list[str], donor: State, theirs: list[str], k: int, name: str
) -> torch.Tensor:
    """The row by the textbook; heads of donors that have none are their embeddings."""
    matrix = wide(donor.get(name, donor[EMBEDDING]))
    both = [w for w in theirs if w in mine]
    row = transplanted(
        matrix[[theirs.index(w) for w in both]],
        matrix[theirs.index(token)],
        wide(own[name])[[mine.index(w) for w in both]],
        k,
    )
    return torch.from_numpy(row)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_and_heads_are_sums_of_what_both_models_know(
    dtype: torch.dtype, tmp_path: Path, merged: Merge
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    own = write_model(old, OLD, 1, width=6, dtype=dtype)
    donor = write_model(new, NEW, 2, width=6, dtype=dtype)

    found = merged(
        linear([old, new], parameters={"weight": [1.0, 0.0]}, tokenizer=omp(new), dtype="float32")
    )

    assert {w: i for i, w in enumerate(NEW)} == dict(found.vocabulary)
    for name in (EMBEDDING, HEAD):
        for token in NEW:
            if token in OLD:
                row = own[name][OLD.index(token)].double()
            else:
                row = expected(token, own, OLD, donor, NEW, 4, name)
            torch.testing.assert_close(
                found.row(token, name).double(), row, rtol=1e-6, atol=1e-6, msg=f"{name} {token}"
            )


def test_a_token_whose_row_is_a_shared_ones_gets_that_ones_row(
    tmp_path: Path, merged: Merge
) -> None:
    from safetensors.torch import save_file

    old, new = tmp_path / "old", tmp_path / "new"
    own = write_model(old, OLD, 1)
    donor = write_model(new, NEW, 2)
    for name in (EMBEDDING, HEAD):
        donor[name][NEW.index("new2")] = donor[name][NEW.index("word7")]
    save_file(donor, new / "model.safetensors", {"format": "pt"})

    found = merged(linear([old, new], parameters={"weight": [1.0, 0.0]}, tokenizer=omp(new, 6)))

    for name in (EMBEDDING, HEAD):
        assert torch.equal(own[name][OLD.index("word7")], found.row("new2", name))


def test_a_rotated_copy_is_transplanted_by_the_same_rotation(tmp_path: Path, merged: Merge) -> None:
    """Where the embeddings of both are one and the same but for a rotation, nothing is lost."""
    from safetensors.torch import save_file

    old, new = tmp_path / "old", tmp_path / "new"
    donor = write_model(new, NEW, 2, width=8)
    own = write_model(old, OLD, 1, width=8)
    turn = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
    turned = {n: (donor[n].double() @ turn).float() for n in (EMBEDDING, HEAD)}
    for name in turned:
        for token in SHARED:
            own[name][OLD.index(token)] = turned[name][NEW.index(token)]
    save_file(own, old / "model.safetensors", {"format": "pt"})

    found = merged(linear([old, new], parameters={"weight": [1.0, 0.0]}, tokenizer=omp(new, 8)))

    for name, rows in turned.items():
        for token in ("new1", "new2", "new3"):
            torch.testing.assert_close(
                found.row(token, name), rows[NEW.index(token)], rtol=1e-4, atol=1e-4
            )


def test_tied_heads_stay_tied_though_the_donor_has_a_head_of_its_own(
    tmp_path: Path, merged: Merge
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    own = write_model(old, OLD, 1, tied=True)
    donor = write_model(new, NEW, 2)

    found = merged(
        linear([old, new], parameters={"weight": [1.0, 0.0]}, tokenizer=omp(new), donor=str(old))
    )

    row = expected("new2", own, OLD, donor, NEW, 4, EMBEDDING)
    torch.testing.assert_close(found.row("new2").double(), row, rtol=1e-5, atol=1e-5)
    assert found.config["tie_word_embeddings"] is True
    assert torch.equal(found.state[EMBEDDING], found.state[HEAD])


def test_a_donor_that_ties_its_head_lends_its_embeddings(tmp_path: Path, merged: Merge) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    own = write_model(old, OLD, 1)
    donor = write_model(new, NEW, 2, tied=True, stored=False)

    found = merged(
        linear([old, new], parameters={"weight": [1.0, 0.0]}, tokenizer=omp(new), donor=str(old))
    )

    row = expected("new1", own, OLD, donor, NEW, 4, HEAD)
    torch.testing.assert_close(found.row("new1", HEAD).double(), row, rtol=1e-5, atol=1e-5)


def test_rules_for_tokens_go_before(tmp_path: Path, merged: Merge) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    own = write_model(old, OLD, 1)
    write_model(new, NEW, 2)
    rules = {
        "new1": {"source": {"kind": "zero"}},
        "new2": {"source": {"kind": "model_token", "model": str(old), "token": "old2"}},
        "new4": {"source": {"kind": "zero"}},
    }

    found = merged(
        linear([old, new], parameters={"weight": [1.0, 0.0]}, tokenizer=omp(new, tokens=rules))
    )

    assert torch.equal(torch.zeros(6), found.row("new1"))
    assert torch.equal(own[EMBEDDING][OLD.index("old2")], found.row("new2"))
    assert torch.equal(torch.zeros(6), found.row("new4"))
    assert found.row("new3").abs().sum() > 0


def test_the_mean_is_of_the_models_own_rows_and_zeros_are_zeros(
    tmp_path: Path, merged: Merge
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    own = write_model(old, OLD, 1)
    write_model(new, NEW, 2)

    for kind, row in (
        ("mean", own[EMBEDDING].double().mean(0).float()),
        ("zero", torch.zeros(6)),
    ):
        block = {"source": str(new), "missing": {"kind": kind}, "pad_to_multiple_of": 32}
        found = merged(linear([old, new], parameters={"weight": [1.0, 0.0]}, tokenizer=block))

        for token in ("new1", "new2", "new3"):
            torch.testing.assert_close(found.row(token), row)
        padding = found.state[EMBEDDING][: len(NEW)].double().mean(0).float()
        torch.testing.assert_close(found.state[EMBEDDING][-1], padding)


def test_in_a_union_the_base_is_the_donor_before_others(tmp_path: Path, merged: Merge) -> None:
    base, one, two = (tmp_path / n for n in ("base", "one", "two"))
    words = {base: [*SHARED, "x"], one: [*SHARED, "x", "y"], two: [*SHARED, "y"]}
    states = {path: write_model(path, own, i) for i, (path, own) in enumerate(words.items())}

    found = merged(
        {
            "method": "task_arithmetic",
            "base": str(base),
            "experts": [str(one), str(two)],
            "parameters": {"weight": [0.0, 1.0]},
            "tokenizer": omp("union", 3),
        }
    )

    row = expected("x", states[two], words[two], states[base], words[base], 3, EMBEDDING)
    torch.testing.assert_close(found.row("x").double(), row, rtol=1e-5, atol=1e-5)


def test_a_bias_is_summed_as_the_rows_of_its_head(tmp_path: Path, merged: Merge) -> None:
    from pursuit_oracle import pursue
    from safetensors.torch import save_file

    old, new = tmp_path / "old", tmp_path / "new"
    own, donor = write_model(old, OLD, 1), write_model(new, NEW, 2)
    for state, path in ((own, old), (donor, new)):
        state["lm_head.bias"] = torch.randn(len(state[HEAD]))
        save_file(state, path / "model.safetensors", {"format": "pt"})

    found = merged(linear([old, new], parameters={"weight": [1.0, 0.0]}, tokenizer=omp(new)))

    matrix = wide(donor[HEAD])
    both = [w for w in NEW if w in OLD]
    taken, weights = pursue(matrix[[NEW.index(w) for w in both]], matrix[NEW.index("new3")], 4)
    bias = wide(own["lm_head.bias"])[[OLD.index(both[i]) for i in taken]] @ weights
    assert found.row("new3", "lm_head.bias").item() == pytest.approx(bias, rel=1e-5)


def test_the_result_depends_on_neither_threads_nor_memory_and_is_replayed(
    registry: Registry, tmp_path: Path
) -> None:
    for seed, (name, words) in enumerate((("old", OLD), ("new", NEW))):
        write_model(tmp_path / name, words, seed, dtype=torch.bfloat16)
        registry.register(tmp_path / name, name=name)
    recipe = linear([], tokenizer=omp("new"))
    recipe["experts"] = ["old", "new"]

    version = registry.merge(recipe, name="both", threads=1)
    registry.merge(recipe, out=tmp_path / "out", threads=4, memory=600 << 20)

    assert version is not None
    assert registry.verify("both", replay=True).ok
    stored = (registry.path("both") / "model.safetensors").read_bytes()
    assert stored == (tmp_path / "out" / "model.safetensors").read_bytes()
    lock = Merged(tmp_path / "out").json("zoo_recipe.json")["recipe"]["tokenizer"]
    assert {"kind": "omp", "k": 4} == lock["missing"]


def test_the_plan_says_how_many_rows_are_worked_out(registry: Registry, tmp_path: Path) -> None:
    write_model(tmp_path / "old", OLD)
    write_model(tmp_path / "new", NEW)

    notes = registry.plan(
        linear([tmp_path / "old", tmp_path / "new"], tokenizer=omp(tmp_path / "new"))
    ).notes

    text = "3 tokens that `.*old` lacks are sums of up to 4 of the 23 it shares with `.*new`"
    assert [n for n in notes if re.match(text, n)]


def test_a_recipe_that_says_the_usual_has_the_lock_it_had(
    registry: Registry, tmp_path: Path
) -> None:
    write_model(tmp_path / "m", OLD)
    recipe = linear([tmp_path / "m"], tokenizer={"source": "base"})
    usual = linear([tmp_path / "m"], tokenizer={"source": "base", "missing": {"kind": "average"}})

    assert registry.plan(recipe).lock == registry.plan(usual).lock
    assert "missing" not in registry.plan(recipe).lock["tokenizer"]


def test_models_that_share_no_token_cannot_be_compared(registry: Registry, tmp_path: Path) -> None:
    write_model(tmp_path / "a", ["<unk>", "a"])
    write_model(tmp_path / "b", ["x", "y"])

    with pytest.raises(InvalidRecipe, match=r"share no token.*missing: \{kind: mean\}"):
        registry.plan(linear([tmp_path / "a", tmp_path / "b"], tokenizer=omp("union")))


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("omp", "`missing` must be a map"),
        ({"kind": "omb"}, "cannot be 'omb'.*Did you mean `omp`"),
        ({"kind": "omp", "k": 0}, "from 1 to 1024, not 0"),
        ({"kind": "omp", "k": True}, "from 1 to 1024, not True"),
        ({"kind": "mean", "k": 3}, "has no `k`"),
        ({"kind": "omp", "n": 3}, "Unknown key `n` in missing"),
    ],
)
def test_a_mistake_in_missing_is_told(
    missing: Any, message: str, registry: Registry, tmp_path: Path
) -> None:
    write_model(tmp_path / "m", OLD)

    with pytest.raises(InvalidRecipe, match=message):
        registry.plan(linear([tmp_path / "m"], tokenizer={"missing": missing}))


def test_chunks_of_any_size_read_the_same_rows(tmp_path: Path) -> None:
    """The engine reads blocks that begin and end within rows."""
    from zoo.checkpoint import MemoryCheckpoint, Opened
    from zoo.tokenizers.reindexed import SUM, Reindexed, Row, Rows
    from zoo.tokenizers.transplant import Lacking

    own = MemoryCheckpoint({EMBEDDING: torch.randn(6, 5)}, Opened("own"))
    donor = MemoryCheckpoint({EMBEDDING: torch.randn(8, 5)}, Opened("donor"))
    both = np.arange(6, dtype=np.int64)
    lacking = Lacking(1, np.array([7, 6]), both, both, 3)
    rows = Rows(8, [0, 2, 4], [Row(0, 0), Row(SUM, 0), Row(0, 2)], {}, 8, 6, (lacking,))
    shown = {EMBEDDING: donor.tensors[EMBEDDING]}
    view = Reindexed(own, [own, donor], rows, shown)
    whole = bytearray(8 * 20)
    view.read_into(EMBEDDING, 0, memoryview(whole))

    for start in range(0, 160, 12):
        for length in (4, 8, 32, 96):
            part = bytearray(min(length, 160 - start))
            view.read_into(EMBEDDING, start, memoryview(part))
            assert whole[start : start + len(part)] == part
    assert BODY not in view.tensors
    table = torch.frombuffer(whole, dtype=torch.float32).view(8, 5)
    own_rows = wide(own._state[EMBEDDING])
    theirs = wide(donor._state[EMBEDDING])
    expected_row = transplanted(theirs[:6], theirs[7], own_rows, 3)
    torch.testing.assert_close(table[2].double(), torch.from_numpy(expected_row))
