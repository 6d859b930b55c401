"""A model takes the tokenizer of one that is not merged, which the record remembers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pursuit_oracle import transplanted, wide
from tiny_vocabularies import EMBEDDING, HEAD, SPECIAL, Merged, linear, write_model, write_tokenizer

from zoo import Registry
from zoo.errors import InvalidRecipe, StoreError

Merge = Callable[..., Merged]
SHARED = [*SPECIAL, *(f"word{i}" for i in range(20))]
OLD, NEW = [*SHARED, "old1", "old2"], ["new1", *reversed(SHARED), "new2"]


def transplant(model: Any, source: Any, **more: Any) -> dict[str, Any]:
    """One model, and whose tokenizer it takes."""
    block = {"source": str(source), "missing": {"kind": "omp", "k": 5}, **more}
    return {"method": "passthrough", "experts": [str(model)], "tokenizer": block}


def test_one_model_takes_anothers_tokenizer_whatever_their_widths(
    tmp_path: Path, merged: Merge
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    own = write_model(old, OLD, 1, width=6, dtype=torch.bfloat16, eos_token_id=2)
    donor = write_model(new, NEW, 2, width=9, eos_token_id=NEW.index("</s>"))

    found = merged(transplant(old, new))

    assert {w: i for i, w in enumerate(NEW)} == dict(found.vocabulary)
    both = [w for w in NEW if w in OLD]
    for name in (EMBEDDING, HEAD):
        assert torch.bfloat16 == found.state[name].dtype
        for token in NEW:
            if token in OLD:
                assert torch.equal(own[name][OLD.index(token)], found.row(token, name))
                continue
            row = transplanted(
                wide(donor[name][[NEW.index(w) for w in both]]),
                wide(donor[name][NEW.index(token)]),
                wide(own[name][[OLD.index(w) for w in both]]),
                5,
            )
            assert torch.equal(torch.from_numpy(row).bfloat16(), found.row(token, name))
    assert 6 == found.config["hidden_size"]
    assert len(NEW) == found.config["vocab_size"]
    assert NEW.index("</s>") == found.config["eos_token_id"]


def test_a_tied_model_that_stores_no_head_stores_none_after(tmp_path: Path, merged: Merge) -> None:
    write_model(tmp_path / "old", OLD, 1, tied=True, stored=False)
    write_model(tmp_path / "new", NEW, 2)

    found = merged(transplant(tmp_path / "old", tmp_path / "new"))

    assert HEAD not in found.state
    assert len(NEW) == len(found.state[EMBEDDING])


def test_the_record_names_it_and_a_replay_reads_it_again(
    registry: Registry, tmp_path: Path
) -> None:
    for seed, (name, words) in enumerate((("old", OLD), ("new", NEW))):
        write_model(tmp_path / name, words, seed)
        registry.register(tmp_path / name, name=name)

    version = registry.merge(transplant("old", "new"), name="moved")

    assert version is not None
    assert registry.verify("moved", replay=True).ok
    edges = {(e["parent"], e["role"]) for e in registry.lineage("moved").edges}
    assert {("old@1", "expert"), ("new@1", "tokenizer")} == edges
    run = registry.catalog.run_of(version.id)
    assert run is not None
    block = run.recipe["tokenizer"]
    digest = registry.get("new").digest
    assert digest == block["source"]
    assert {"tokenizer.json", "tokenizer_config.json"} == block["files"][digest].keys()
    card = (registry.path("moved") / "README.md").read_text()
    assert f"| tokenizer | `new@1` | not known | `{digest}` |" in card
    assert "source: new@1" in card
    assert not (registry.path("moved") / "mergekit_config.yml").exists()


def test_a_path_is_registered_with_the_others(registry: Registry, tmp_path: Path) -> None:
    for seed, (name, words) in enumerate((("old", OLD), ("new", NEW))):
        write_model(tmp_path / name, words, seed)

    registry.merge(transplant(tmp_path / "old", tmp_path / "new"), name="moved")

    assert {"old@1", "new@1"} == {e["parent"] for e in registry.lineage("moved").edges}
    assert registry.verify("moved", replay=True).ok


def test_the_default_makes_zeros_of_what_no_merged_model_has_and_says_so(
    registry: Registry, tmp_path: Path, merged: Merge
) -> None:
    write_model(tmp_path / "old", OLD, 1)
    write_model(tmp_path / "new", NEW, 2)
    recipe = transplant(tmp_path / "old", tmp_path / "new", missing={"kind": "average"})

    found = merged(recipe)

    assert torch.equal(torch.zeros(6), found.row("new2"))
    (note,) = [n for n in registry.plan(recipe).notes if "zeros" in n]
    assert "missing: {kind: omp}" in note


def test_a_model_that_is_merged_by_another_name_is_no_stranger(
    registry: Registry, tmp_path: Path
) -> None:
    for seed, (name, words) in enumerate((("old", OLD), ("new", NEW))):
        write_model(tmp_path / name, words, seed)
        registry.register(tmp_path / name, name=name)
    recipe = {**linear([]), "experts": ["old", "new"], "tokenizer": {"source": "new@1"}}

    registry.merge(recipe, name="both")

    assert {"expert"} == {e["role"] for e in registry.lineage("both").edges}


def test_a_rule_cannot_take_a_row_of_another_space(registry: Registry, tmp_path: Path) -> None:
    write_model(tmp_path / "old", OLD, 1)
    write_model(tmp_path / "new", NEW, 2)
    rules = {"new1": {"source": str(tmp_path / "new")}}

    with pytest.raises(InvalidRecipe, match=r"is not merged: its rows are of another space"):
        registry.plan(transplant(tmp_path / "old", tmp_path / "new", tokens=rules))


def test_a_stranger_without_a_tokenizer_is_refused(registry: Registry, tmp_path: Path) -> None:
    write_model(tmp_path / "old", OLD, 1)
    write_model(tmp_path / "new", NEW, 2)
    for file in (tmp_path / "new").glob("tokenizer*"):
        file.unlink()

    with pytest.raises(InvalidRecipe, match=r"`.*new` has no tokenizer"):
        registry.plan(transplant(tmp_path / "old", tmp_path / "new"))


def test_a_tokenizer_that_changed_is_not_taken_for_the_one_of_the_record(
    registry: Registry, tmp_path: Path
) -> None:
    for seed, (name, words) in enumerate((("old", OLD), ("new", NEW))):
        write_model(tmp_path / name, words, seed)
        registry.register(tmp_path / name, name=name)
    write_tokenizer(tmp_path / "new", [*NEW[:-1], "other"])

    with pytest.raises(StoreError, match="tokenizer of `new@1` is not the one"):
        registry.merge(transplant("old", tmp_path / "new"), name="moved")


# Equal weights


def twins(registry: Registry, tmp_path: Path) -> None:
    """The same weights twice, with tokens in another order."""
    for name, words in (("one", OLD), ("two", OLD[::-1])):
        write_model(tmp_path / name, OLD, 1)
        write_tokenizer(tmp_path / name, words)
        registry.register(tmp_path / name, name=name)
    assert registry.get("one").digest == registry.get("two").digest


def test_equal_weights_with_other_tokens_are_two_models(registry: Registry, tmp_path: Path) -> None:
    twins(registry, tmp_path)
    block = {"source": "two", "tokens": {"old1": {"source": "one", "force": True}}}
    recipe = {**linear([]), "experts": ["one", "two"], "tokenizer": block}

    registry.merge(recipe, name="both")

    found = Merged(registry.path("both"))
    own = Merged(registry.path("one")).state[EMBEDDING]
    assert {w: i for i, w in enumerate(OLD[::-1])} == dict(found.vocabulary)
    mean = (own[OLD.index("word3")] + own[OLD[::-1].index("word3")]) / 2
    torch.testing.assert_close(found.row("word3"), mean)
    assert torch.equal(own[OLD.index("old1")], found.row("old1"))
    assert registry.verify("both", replay=True).ok
    digest = registry.get("one").digest
    run = registry.catalog.run_of(registry.get("both").id)
    assert run is not None
    assert f"{digest}#2" == run.recipe["tokenizer"]["source"]
    assert {digest, f"{digest}#2"} == run.recipe["tokenizer"]["files"].keys()
    card = (registry.path("both") / "README.md").read_text()
    assert "source: two@1" in card
    assert "#2" not in card


def test_a_base_and_its_twin_with_other_tokens_are_two_models(
    registry: Registry, tmp_path: Path
) -> None:
    twins(registry, tmp_path)

    registry.merge(
        {
            "method": "task_arithmetic",
            "base": "one",
            "experts": ["two"],
            "tokenizer": {"source": "base"},
        },
        name="both",
    )

    found = Merged(registry.path("both"))
    own = Merged(registry.path("one")).state[EMBEDDING]
    torch.testing.assert_close(own.flip(0), found.state[EMBEDDING])
    assert registry.verify("both", replay=True).ok
