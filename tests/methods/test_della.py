"""DELLA: the specified numbers, those of an oracle, and chances as they should be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import sparsify_oracle as oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sparsify import BOTH, cases, close, family, given_masks, keeps, same_bytes, state, wide

import zoo
from zoo.errors import InvalidRecipe
from zoo.plugins import load_plugins
from zoo.random import Random
from zoo.stages.rank import chances, prune
from zoo.testing import MethodConformance

DELLA = load_plugins().methods["della"]


def asked_of(params: dict[str, Any]) -> dict[str, Any]:
    return {
        "density": params["density"],
        "epsilon": params["window"] / 2,
        "weight": params.get("weights", 1.0),
        "lambda": params.get("lambda", 1.0),
        "rescale": params.get("rescale", "probability"),
        "elect": "mass" if params.get("elect", True) else "none",
        "merge": "mean" if params.get("normalize", True) else "sum",
    }


# Golden numbers


@BOTH
@pytest.mark.parametrize("case", [c for c in cases("della") if "w" in c.values[0]["expected"]])
def test_della_gives_the_golden_numbers(
    case: dict[str, Any], dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = case["params"].get("keep_masks", [])
    monkeypatch.setattr("zoo.engine.execute.Random", given_masks(masks))

    found = zoo.merge(
        DELLA,
        [state(m, dtype) for m in case["models"]],
        base=state(case["base"], dtype),
        parameters=asked_of(case["params"]),
        chunk=5,
    )

    close({n: np.asarray(v) for n, v in case["expected"].items()}, found, tolerance)


@BOTH
@pytest.mark.parametrize("case", [c for c in cases("della") if c.values[0]["params"].get("output")])
def test_chances_are_the_golden_ones(
    case: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    params = case["params"]

    for i, model in enumerate(case["models"]):
        for name, value in case["expected"][f"model_{i}"].items():
            delta = torch.tensor(model[name], dtype=dtype)
            delta -= torch.tensor(case["base"][name], dtype=dtype)
            rows = delta.reshape(-1, delta.shape[-1])
            found = chances(rows, params["density"], params["window"] / 2)
            np.testing.assert_allclose(
                found.numpy(), np.asarray(value).reshape(rows.shape), tolerance
            )


def test_a_window_that_leaves_0_to_1_is_refused() -> None:
    (case,) = [c.values[0] for c in cases("della") if "error" in c.values[0]["expected"]]
    asked = {"density": case["params"]["density"], "epsilon": case["params"]["window"] / 2}

    with pytest.raises(InvalidRecipe, match="smaller epsilon"):
        zoo.merge(DELLA, [torch.ones(3)], base=torch.zeros(3), parameters=asked)


# An oracle

CASES = [
    {},
    {"density": 0.4, "epsilon": 0.3, "weight": [1.0, -0.5, 2.0], "lambda": 1.1},
    {"density": [0.0, 0.5, 1.0], "epsilon": [0.2, 0.1, 0.2], "elect": "none", "merge": "sum"},
    {"density": 0.5, "epsilon": 0.15, "rescale": "l1"},
    {"density": 0.5, "epsilon": 0.15, "rescale": "none", "elect": "count", "merge": "max"},
    {"density": 0.6, "epsilon": 0.2, "ranking": "magnitude"},
    {"density": 0.6, "epsilon": 0.2, "ranking": "layer", "rescale": "l1"},
    {"density": 0.6, "epsilon": 0.2, "ranking": "layer"},
    {"density": 0.6, "epsilon": 0},
]


@BOTH
@pytest.mark.parametrize("asked", CASES)
@pytest.mark.parametrize("chunk", [7, 1 << 17])
def test_della_agrees_with_an_oracle(
    asked: dict[str, Any], chunk: int, dtype: torch.dtype, tolerance: float
) -> None:
    experts, base = family(dtype=dtype)
    rest = {"density": 0.7, "epsilon": 0.07, "rescale": "probability", "lambda": 1.0, **asked}
    rest = {"elect": "mass", "merge": "mean", **rest, "lambda_": rest["lambda"]}
    del rest["lambda"]
    masks = oracle.rank_masks(
        rest.pop("density"),
        rest.pop("epsilon"),
        keeps(experts, 3),
        3,
        rest.pop("ranking", "rank"),
    )
    expected = oracle.task_vectors([wide(e) for e in experts], wide(base), masks=masks, **rest)

    found = zoo.merge(DELLA, experts, base=base, parameters=asked, seed=3, chunk=chunk)

    close(expected, found, tolerance)


# What the paper promises


@given(st.integers(0, 10_000), st.integers(1, 60), st.booleans())
@settings(max_examples=40, deadline=None)
def test_chances_grow_with_the_magnitude_and_their_mean_is_the_density(
    seed: int, columns: int, narrow: bool
) -> None:
    values = np.random.default_rng(seed).integers(-20, 21, (4, columns)) / 8
    rows = torch.tensor(values, dtype=torch.float32 if narrow else torch.float64)

    found = chances(rows, 0.6, 0.2)
    turned = chances(rows[[2, 0, 3, 1]], 0.6, 0.2)
    scaled = chances(rows * 8, 0.6, 0.2)

    assert torch.equal(found[[2, 0, 3, 1]], turned)
    assert torch.equal(found, scaled)
    torch.testing.assert_close(torch.full((4,), 0.6, dtype=rows.dtype), found.mean(dim=1))
    for row, chance in zip(rows.abs(), found, strict=True):
        larger = row[:, None] > row[None, :]
        assert not (larger & (chance[:, None] <= chance[None, :])).any()
        equal = (row[:, None] == row[None, :]).triu(1)
        assert not (equal & (chance[:, None] >= chance[None, :])).any()


def test_the_mean_over_seeds_is_the_delta() -> None:
    delta, seeds = torch.linspace(-1, 1, 24), 2500
    total = torch.zeros(24, dtype=torch.float64)
    q = chances(delta.view(2, 12), 0.4, 0.3).view(-1).double()

    for seed in range(seeds):
        random = Random(seed, "w", ["a"], 0, 24)
        total += prune(delta.clone()[None], [0.4], [0.3], random, row=12, divide=True)[0]

    band = 5 * delta.abs().double() * ((1 - q) / q / seeds).sqrt() + 1e-6
    assert ((total / seeds - delta).abs() <= band).all()


def test_large_entries_survive_as_often_as_their_rank_says() -> None:
    n = 300_000
    delta = torch.arange(n, dtype=torch.float32)[None] + 1

    left = prune(delta, [0.5], [0.15], Random(1, "w", ["a"], 0, n), row=n)[0] != 0

    for part, expected in ((left[: n // 2], 0.425), (left[n // 2 :], 0.575)):
        assert abs(float(part.float().mean()) - expected) < 5 * math.sqrt(0.25 / (n / 2))


def test_no_window_is_dare_bit_for_bit() -> None:
    experts, base = family(dtype=torch.float32)
    asked = {"density": 0.4, "elect": "mass", "merge": "mean"}

    della = zoo.merge(DELLA, experts, base=base, parameters={**asked, "epsilon": 0}, seed=9)
    dare = zoo.merge("dare", experts, base=base, parameters=asked, seed=9)

    same_bytes(dare, della)


def test_density_1_drops_nothing() -> None:
    experts, base = family(dtype=torch.float32)
    asked = {"density": 1.0, "elect": "none", "merge": "sum"}

    found = zoo.merge(DELLA, experts, base=base, parameters=asked)

    for name, value in zoo.merge("task_arithmetic", experts, base=base).items():
        torch.testing.assert_close(value, found[name])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("chunk", [1, 40, 1 << 17])
@pytest.mark.parametrize("rescale", ["probability", "none"])
def test_della_gives_the_same_bytes_in_any_chunks_on_any_threads(
    chunk: int, threads: int, rescale: str
) -> None:
    experts, base = family(dtype=torch.float32)
    asked = {"rescale": rescale}

    whole = zoo.merge(DELLA, experts, base=base, parameters=asked, seed=5)
    parts = zoo.merge(
        DELLA, experts, base=base, parameters=asked, seed=5, chunk=chunk, threads=threads
    )

    same_bytes(whole, parts)


@pytest.mark.parametrize("ranking", ["rank", "magnitude", "layer"])
@pytest.mark.parametrize("rescale", ["probability", "l1"])
def test_zeros_and_rows_of_one_are_no_trouble(ranking: str, rescale: str) -> None:
    base = {"column": torch.ones(5, 1), "none": torch.zeros(3, 4)}
    expert = {"column": torch.full((5, 1), 3.0), "none": torch.zeros(3, 4)}
    asked = {"ranking": ranking, "rescale": rescale}

    found = zoo.merge(DELLA, [expert, expert], base=base, parameters=asked)

    assert torch.equal(base["none"], found["none"])
    assert found["column"].isfinite().all()


class TestDella(MethodConformance):
    method = DELLA


class TestDellaByNorm(MethodConformance):
    method = DELLA
    parameters = {"density": 0.5, "epsilon": 0.15, "rescale": "l1"}


class TestDellaOfLayers(MethodConformance):
    method = DELLA
    parameters = {"ranking": "layer"}
