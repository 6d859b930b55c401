"""Soups, picks among deltas, and all averages at their edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from zoo.errors import IncompatibleModels, InvalidRecipe
from zoo.plugins import load_plugins
from zoo.recipes.recipe import read_recipe

METHODS = load_plugins().methods
QUICK = settings(deadline=None, max_examples=10)
SEEDS = st.integers(0, 2**32 - 1)


def draw(seed: int, *shape: int, count: int = 2) -> list[torch.Tensor]:
    """Float64 tensors from a normal distribution."""
    rng = np.random.default_rng(seed)
    return [torch.tensor(rng.standard_normal(shape)) for _ in range(count)]


def close(a: torch.Tensor, b: torch.Tensor, within: float = 1e-9) -> bool:
    return bool(((a - b).abs() <= within * (1 + b.abs().max())).all())


# Soups


@QUICK
@given(seed=SEEDS, count=st.integers(1, 4))
def test_a_uniform_soup_is_the_plain_linear_mean(seed: int, count: int) -> None:
    x = [t.float() for t in draw(seed, 7, 3, count=count)]

    assert torch.equal(zoo.merge("linear", x), zoo.merge("uniform_soup", x))


@QUICK
@given(seed=SEEDS, count=st.integers(1, 4))
def test_a_sparse_soup_keeps_the_mask_of_its_experts(seed: int, count: int) -> None:
    mask = np.random.default_rng(seed).random((6, 7)) < 0.4
    x = [t * torch.tensor(mask) for t in draw(seed, 6, 7, count=count)]  # pruned: 0.0 or -0.0
    merged = zoo.merge("sparse_soup", x)

    assert not merged[~torch.tensor(mask)].any()
    assert close(merged, zoo.merge("linear", x))


def test_a_sparse_soup_of_different_masks_is_refused_with_every_tensor_that_differs(
    tmp_path: Any,
) -> None:
    from safetensors.torch import save_file

    a = {"same": torch.tensor([[0.0, 1.0]]), "u": torch.tensor([0.0, 1.0]), "v": torch.ones(3)}
    b = {"same": torch.tensor([[-0.0, 2.0]]), "u": torch.ones(2), "v": torch.zeros(3)}
    for name, state in {"a": a, "b": b}.items():
        save_file(state, tmp_path / f"{name}.safetensors")
    with zoo.open(tmp_path / "registry.db") as registry:
        experts = [str(tmp_path / f"{n}.safetensors") for n in "ab"]
        with pytest.raises(IncompatibleModels, match=r"`u` \(1\), `v` \(3\)") as caught:
            registry.merge(method="sparse_soup", experts=experts, out=tmp_path / "out")

    assert {"u": 1, "v": 3} == caught.value.tensors
    assert not (tmp_path / "out").exists()
    assert torch.equal(
        torch.tensor([0.5, 1.0]),
        zoo.merge("sparse_soup", [a, b], parameters={"allow_union": True})["u"],
    )


# BANG's one difference from WiSE-FT


def test_bang_tells_when_nothing_says_that_the_training_was_balanced(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from safetensors.torch import save_file

    for name in ("base", "plain", "smoothed"):
        save_file({"w": draw(len(name), 8, count=1)[0]}, tmp_path / f"{name}.safetensors")
    with zoo.open(tmp_path / "registry.db") as registry:
        for name in ("base", "plain", "smoothed"):
            tags = {"label_smoothing": "0.1"} if name == "smoothed" else {"mixup": "0"}
            registry.register(tmp_path / f"{name}.safetensors", name=name, tags=tags)

        def merge(expert: str, **options: Any) -> None:
            caplog.clear()
            registry.merge(
                method="bang", experts=[expert], base="base", parameters=options, name="merged"
            )

        merge("smoothed", require_balanced_training=True)
        assert "" == caplog.text
        merge("plain")
        assert "plain WiSE-FT" in caplog.text
        with pytest.raises(InvalidRecipe, match="label_smoothing"):
            merge("plain", require_balanced_training=True)


# Deltas, entry by entry


@QUICK
@given(seed=SEEDS, count=st.integers(1, 4), scale=st.floats(-2, 2))
def test_magmax_moves_each_entry_by_the_largest_delta(seed: int, count: int, scale: float) -> None:
    base, *deltas = draw(seed, 5, 5, count=count + 1)
    merged = zoo.merge(
        "magmax", [base + d for d in deltas], base=base, parameters={"lambda": scale}
    )
    largest = torch.stack(deltas).abs().amax(0)

    assert close((merged - base).abs(), abs(scale) * largest)


def test_magmax_gives_ties_to_the_later_expert() -> None:
    up, down, base = torch.ones(3), -torch.ones(3), torch.zeros(3)
    options = {"lambda": 1.0}

    assert torch.equal(down, zoo.merge("magmax", [up, down], base=base, parameters=options))
    assert torch.equal(up, zoo.merge("magmax", [down, up], base=base, parameters=options))


@QUICK
@given(seed=SEEDS, variant=st.sampled_from(["ram", "ram_plus"]))
def test_ram_of_experts_that_do_not_overlap_is_the_sum(seed: int, variant: str) -> None:
    base, *deltas = draw(seed, 40, count=4)
    owner = torch.tensor(np.random.default_rng(seed).integers(0, 3, 40))
    experts = [base + d * (owner == i) for i, d in enumerate(deltas)]
    merged = zoo.merge("ram", experts, base=base, parameters={"variant": variant})

    assert close(merged, base + sum(e - base for e in experts))


@QUICK
@given(seed=SEEDS)
def test_ram_of_experts_that_overlap_everywhere_is_the_mean(seed: int) -> None:
    base, *experts = draw(seed, 40, count=4)

    assert close(zoo.merge("ram", experts, base=base), sum(experts) / 3)


def test_ram_takes_back_changes_below_epsilon_but_not_with_epsilon_zero() -> None:
    base, expert = torch.zeros(3), torch.tensor([1e-6, -2e-5, 1.0])

    assert torch.equal(torch.tensor([0.0, -2e-5, 1.0]), zoo.merge("ram", [expert], base=base))
    assert torch.equal(expert, zoo.merge("ram", [expert], base=base, parameters={"epsilon": 0}))


def test_ram_plus_counts_over_the_model_or_each_tensor() -> None:
    base = {"a": torch.zeros(1), "b": torch.zeros(1)}
    first = {"a": torch.ones(1), "b": torch.ones(1)}  # alone in a, shared in b
    second = {"a": torch.zeros(1), "b": torch.ones(1)}
    options = {"variant": "ram_plus", "r": 1.0, "alpha": 0.5}

    def merged(scope: str) -> float:
        made = zoo.merge("ram", [first, second], base=base, parameters={**options, "scope": scope})
        return float(made["a"])

    assert 1.5 == merged("global")
    assert 1.0 == merged("tensor")


# Edges


@pytest.mark.parametrize(
    "name, options, says",
    [
        ("wise_ft", {"alpha": 1.5}, "allow_extrapolation"),
        ("bang", {"alpha": -0.1}, "alpha"),
        ("nearswap", {"t": -1e-4}, "`t`"),
        ("nearswap", {}, "`t`"),
        ("karcher", {"weight": [0, 0]}, "positive weight"),
        ("karcher", {"weight": [1, -1]}, "weight"),
        ("karcher", {"tol": 0}, "tol"),
        ("multislerp", {"weight": [1, -1]}, "sum to zero"),
        ("sparse_soup", {"weight": [1, -1]}, "sum to zero"),
        ("model_stock", {"scope": "layer"}, "scope"),
        ("nuslerp", {"weight": 1, "vectors": "diagonals"}, "vectors"),
        ("arcee_fusion", {"iqr_factor": -1}, "iqr_factor"),
        ("ram", {"epsilon": -1}, "epsilon"),
    ],
)
def test_bad_parameters_are_refused(name: str, options: dict[str, Any], says: str) -> None:
    method = METHODS[name]
    x = draw(0, 4, count=method.max_experts or 2)
    with pytest.raises(InvalidRecipe, match=says):
        zoo.merge(name, x, base=x[0] if method.base == "required" else None, parameters=options)


@pytest.mark.parametrize("name", ["wise_ft", "bang", "nearswap", "arcee_fusion"])
def test_methods_from_a_base_to_one_expert_refuse_two_or_no_base(name: str) -> None:
    x = draw(0, 4)
    options = {"t": 0.5} if name == "nearswap" else {}
    with pytest.raises(IncompatibleModels, match="at most 1"):
        zoo.merge(name, x, base=x[0], parameters=options)
    with pytest.raises(IncompatibleModels, match="needs the base"):
        zoo.merge(name, x[:1], parameters=options)


def test_model_stock_refuses_one_expert() -> None:
    a, b = draw(0, 4)
    with pytest.raises(IncompatibleModels, match="2 or more"):
        zoo.merge("model_stock", [a], base=b)


@pytest.mark.parametrize("name", ["multislerp", "karcher", "uniform_soup", "sparse_soup"])
def test_one_expert_alone_is_returned_bit_for_bit(name: str) -> None:
    expert = draw(0, 30, count=1)[0].bfloat16()
    options = {"weight": 0.3} if name == "multislerp" else {}

    assert torch.equal(expert, zoo.merge(name, [expert], parameters=options))


AVERAGES = (
    "arcee_fusion bang karcher magmax model_stock multislerp nearswap nuslerp ram sparse_soup "
    "uniform_soup wise_ft"
)


@pytest.mark.parametrize("name", AVERAGES.split())
def test_integer_buffers_are_carried_and_count_in_nothing(name: str) -> None:
    method = METHODS[name]
    count = min(2, method.max_experts or 2)
    models = [
        {"steps": torch.tensor([7 * i, 0]), "w": t} for i, t in enumerate(draw(1, 9, count=3))
    ]
    base = models[2] if method.base == "required" else None
    options = {"weight": 1.0} if name in ("multislerp", "nuslerp") else {}
    options |= {"t": 0.1} if name == "nearswap" else {}
    merged = zoo.merge(name, models[:count], base=base, parameters=options)

    assert torch.equal((base or models[0])["steps"], merged["steps"])


@pytest.mark.parametrize(
    "options, vectors",
    [
        ({}, "flat"),
        ({"nuslerp_flatten": True, "nuslerp_row_wise": True}, "flat"),
        ({"nuslerp_row_wise": True}, "flat"),
        ({"nuslerp_flatten": False}, "rows"),
        ({"nuslerp_row_wise": True, "nuslerp_flatten": False}, "columns"),
    ],
)
def test_mergekits_two_switches_of_nuslerp_say_what_turns_as_one(
    options: dict[str, bool], vectors: str
) -> None:
    document = {
        "merge_method": "nuslerp",
        "models": [{"model": m, "parameters": {"weight": 1}} for m in ("a", "b")],
        "parameters": options,
    }

    assert vectors == read_recipe(document, METHODS).parameters.get("vectors", "flat")


def test_mergekits_ramplus_is_ram_with_counts_by_tensor() -> None:
    document = {
        "merge_method": "ramplus_tl",
        "base_model": "base",
        "models": [{"model": "a"}, {"model": "b"}],
        "parameters": {"r": 0.3},
    }
    recipe = read_recipe(document, METHODS)

    assert "ram" == recipe.method
    assert {"variant": "ram_plus", "scope": "tensor", "r": 0.3} == recipe.parameters
