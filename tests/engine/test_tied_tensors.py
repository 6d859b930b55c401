"""Torch files keep tied tensors once: a merge counts them once, and keeps them tied."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import zoo
from zoo.registry import Registry

STEPS = {"base": 0.0, "one": 0.1, "two": -0.05}


def model(step: float) -> dict[str, torch.Tensor]:
    """Changes of one size in both tensors: to count the embeddings twice moves the cut."""
    embed = torch.arange(12.0).reshape(4, 3) * (1 + step)
    other = torch.arange(1.0, 9) + step * torch.arange(4.5, 12)
    return {"embed.weight": embed, "head.weight": embed, "w": other}


@pytest.fixture
def tied(registry: Registry, tmp_path: Path) -> Registry:
    for name, step in STEPS.items():
        torch.save(model(step), tmp_path / f"{name}.pt")
        registry.register(tmp_path / f"{name}.pt", name=name)
    return registry


def test_a_tensor_of_two_names_is_counted_once_in_a_cut_over_the_whole_model(
    tied: Registry,
) -> None:
    merged = tied.merge(
        method="ties", experts=["one", "two"], base="base", parameters={"density": 0.5}, name="m"
    )

    once = [{k: v for k, v in model(s).items() if k != "head.weight"} for s in STEPS.values()]
    want = zoo.merge("ties", once[1:], base=once[0], parameters={"density": 0.5})
    twice = zoo.merge(
        "ties", [model(s) for s in (0.1, -0.05)], base=model(0.0), parameters={"density": 0.5}
    )
    state = tied.load_state("m")
    assert not torch.equal(want["w"], twice["w"])
    assert torch.equal(want["w"], state["w"])
    assert torch.equal(want["embed.weight"], state["embed.weight"])
    assert torch.equal(state["embed.weight"], state["head.weight"])
    assert [["embed.weight", "head.weight"]] == merged.notes["ties"]
    assert tied.verify("m", replay=True).ok


def test_what_was_merged_stays_tied_in_the_next_merge(tied: Registry) -> None:
    tied.merge(method="linear", experts=["one", "two"], name="soup")

    merged = tied.merge(method="linear", experts=["soup", "base"], name="again")

    assert [["embed.weight", "head.weight"]] == merged.notes["ties"]


def test_random_draws_are_the_same_for_both_names(tied: Registry) -> None:
    tied.merge(
        method="dare",
        experts=["one", "two"],
        base="base",
        parameters={"density": 0.5},
        name="m",
    )

    state = tied.load_state("m")
    assert torch.equal(state["embed.weight"], state["head.weight"])


def test_tensors_that_another_model_has_apart_are_merged_apart(
    tied: Registry, tmp_path: Path
) -> None:
    own = model(0.1) | {"head.weight": torch.ones(4, 3)}
    torch.save(own, tmp_path / "own.pt")
    tied.register(tmp_path / "own.pt", name="own")

    merged = tied.merge(method="linear", experts=["own", "two"], base="base", name="m")

    assert (
        "`head.weight` and `embed.weight` are one in `base@1`, and two in `own@1`: "
        "they are merged apart"
    ) in merged.notes["warnings"]
    assert torch.equal(
        (own["head.weight"] + model(-0.05)["head.weight"]) / 2, tied.load_state("m")["head.weight"]
    )


def test_an_excluded_tensor_takes_its_other_name_along(tied: Registry) -> None:
    recipe = {
        "method": "linear",
        "experts": ["one", "two"],
        "base": "base",
        "exclude": ["head.*"],
    }

    merged = tied.merge(recipe, name="m")

    state = tied.load_state("m")
    assert torch.equal(model(0.0)["embed.weight"], state["embed.weight"])
    assert ["`embed.weight` and `head.weight` are tied, and both are excluded"] == merged.notes[
        "warnings"
    ]
