"""DARE and Breadcrumbs: the specified numbers, those of an oracle, and masks as they should be."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sparsify_oracle as oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from zoo.digest import tensor_digest, weights_digest
from zoo.errors import GateFailed, InvalidRecipe
from zoo.plugins import load_plugins
from zoo.random import Random
from zoo.recipes.mergekit_recipe import read_mergekit
from zoo.stages.drop import drop
from zoo.testing import MethodConformance

State = dict[str, torch.Tensor]
GOLDEN = Path(__file__).parent / "golden"
METHODS = load_plugins().methods
SHAPES = {"conv": (4, 3, 2, 2), "empty": (0, 3), "matrix": (6, 35), "scale": (), "vector": (23,)}
ALL = {"density": 1.0, "lambda": 1.0}
BOTH = pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-5)], ids=["f64", "f32"]
)


def cases(name: str) -> list[Any]:
    return [
        pytest.param(c, id=c["case"]) for c in json.loads((GOLDEN / f"{name}.json").read_text())
    ]


def state(values: dict[str, Any], dtype: torch.dtype) -> State:
    return {name: torch.tensor(v, dtype=dtype) for name, v in values.items()}


def family(
    experts: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[list[State], State]:
    """Experts and a base on a grid of eighths: differences are exact, and many are equal."""
    rng = np.random.default_rng(seed)

    def grid() -> State:
        return {
            name: torch.tensor(rng.integers(-12, 13, shape) / 8, dtype=dtype)
            for name, shape in SHAPES.items()
        }

    base = grid()
    return [grid() for _ in range(experts)], base


def wide(model: State) -> oracle.State:
    return {name: t.double().numpy() for name, t in model.items()}


def digest(model: State) -> str:
    words = {torch.float64: "F64", torch.float32: "F32"}
    return weights_digest(
        (n, tensor_digest(words[t.dtype], tuple(t.shape), memoryview(t.numpy().tobytes())))
        for n, t in sorted(model.items())
    )


def keeps(experts: list[State], seed: int) -> oracle.Keeps:
    """The masks that a seed stands for."""
    digests = [digest(e) for e in experts]

    def mask(tensor: str, expert: int, chance: np.ndarray) -> np.ndarray:
        drawn = oracle.draws(seed, tensor, digests[expert], chance.size)
        return (drawn.reshape(chance.shape) < chance).astype(float)

    return mask


def given_masks(masks: list[dict[str, Any]]) -> type:
    """Stands in for the engine's randomness: the masks of a golden case."""

    class Given:
        def __init__(
            self, seed: int, tensor: str, digests: Any, start: int, count: int, device: str
        ) -> None:
            self.place = tensor, slice(start, start + count)

        def keeps(self, expert: int, chance: Any) -> torch.Tensor:
            tensor, part = self.place
            return torch.tensor(masks[expert][tensor], dtype=torch.uint8).reshape(-1)[part]

    return Given


def close(expected: oracle.State, found: State, tolerance: float) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(
            found[name].double().numpy(), value, rtol=tolerance, atol=tolerance, err_msg=name
        )


def same_bytes(a: State, b: State) -> None:
    for name in a:
        assert a[name].numpy().tobytes() == b[name].numpy().tobytes(), name


# Golden numbers


@BOTH
@pytest.mark.parametrize("case", cases("dare"))
def test_dare_gives_the_golden_numbers(
    case: dict[str, Any], dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = case["params"]
    masks = asked.get("keep_masks", [])
    monkeypatch.setattr("zoo.engine.execute.Random", given_masks(masks))
    merge = {"linear": "mean", "ties_elect": asked.get("merge")}.get(asked["then"], "sum")
    rescale = {True: "probability", False: "none"}.get(asked["rescale"], asked["rescale"])

    found = zoo.merge(
        METHODS["dare"],
        [state(m, dtype) for m in case["models"]],
        base=state(case["base"], dtype),
        parameters={
            "density": 1 - asked["drop_rate"],
            "rescale": rescale,
            "elect": "mass" if asked["then"] == "ties_elect" else "none",
            "merge": merge,
            "lambda": asked.get("lambda", 1.0),
            "weight": asked.get("weights", 1.0),
        },
    )

    close({n: np.asarray(v) for n, v in case["expected"].items()}, found, tolerance)


@BOTH
@pytest.mark.parametrize("case", cases("breadcrumbs"))
def test_breadcrumbs_gives_the_golden_numbers(
    case: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    asked = case["params"]

    found = zoo.merge(
        METHODS["breadcrumbs"],
        [state(m, dtype) for m in case["models"]],
        base=state(case["base"], dtype),
        parameters={
            "density": asked.get("density", asked.get("keep")),
            "gamma": asked.get("gamma", asked.get("remove_top")),
            "scope": asked["scope"],
            "lambda": asked["lambda"],
            "elect": "mass" if asked.get("elect") else "none",
        },
        chunk=4,
    )

    close({n: np.asarray(v) for n, v in case["expected"].items()}, found, tolerance)


# An oracle

DARE = [
    {"density": 0.3},
    {"density": [0.0, 0.5, 1.0], "weight": [1.0, -0.5, 2.0], "lambda": 0.7},
    {
        "density": 0.4,
        "rescale": "none",
        "elect": "mass",
        "merge": "mean",
        "weight": [2.0, 1.0, 3.0],
    },
    {"density": 0.6, "rescale": "l1", "elect": "count", "merge": "max"},
    {"density": 0.6, "rescale": "l1", "merge": "mean", "weight": [0.5, 0.5, -1.0]},
]
BREADCRUMBS = [
    {},
    {"density": 0.3, "gamma": 0.1, "lambda": 1.5},
    {
        "density": [0.2, 0.9, 1.0],
        "gamma": [0.3, 0.3, 0.2],
        "elect": "mass",
        "weight": [1.0, 2.0, -1.0],
    },
    {"scope": "tensor", "density": 0.4, "gamma": 0.05},
    {"scope": "tensor", "density": [0.9, 0.1, 1.0], "gamma": 0.3, "elect": "mass", "merge": "mean"},
    {"scope": "tensor", "density": 0.3, "gamma": 0.02, "rescale": "l1"},
    {"density": 0.3, "gamma": 0.1, "rescale": "l1", "elect": "count", "merge": "max"},
]


@BOTH
@pytest.mark.parametrize("asked", DARE)
@pytest.mark.parametrize("chunk", [7, 1 << 17])
def test_dare_agrees_with_an_oracle(
    asked: dict[str, Any], chunk: int, dtype: torch.dtype, tolerance: float
) -> None:
    experts, base = family(dtype=dtype)
    rest = {"rescale": "probability", **asked}
    rest["lambda_"] = rest.pop("lambda", 1.0)
    masks = oracle.random_masks(rest.pop("density"), keeps(experts, 3), 3)
    expected = oracle.task_vectors([wide(e) for e in experts], wide(base), masks=masks, **rest)

    found = zoo.merge("dare", experts, base=base, parameters=asked, seed=3, chunk=chunk)

    close(expected, found, tolerance)


@BOTH
@pytest.mark.parametrize("asked", BREADCRUMBS)
@pytest.mark.parametrize("chunk", [7, 1 << 17])
def test_breadcrumbs_agrees_with_an_oracle(
    asked: dict[str, Any], chunk: int, dtype: torch.dtype, tolerance: float
) -> None:
    experts, base = family(dtype=dtype)
    rest = {"density": 0.15, "gamma": 0.006, "scope": "row", "lambda": 0.2, **asked}
    rest["lambda_"] = rest.pop("lambda")
    masks = oracle.band_masks(rest.pop("density"), rest.pop("gamma"), rest.pop("scope"), 3)
    expected = oracle.task_vectors([wide(e) for e in experts], wide(base), masks=masks, **rest)

    found = zoo.merge("breadcrumbs", experts, base=base, parameters=asked, chunk=chunk)

    close(expected, found, tolerance)


# Masks


@pytest.mark.parametrize("chance", [0.0, 0.25, 0.3, 1 - 2**-20, 1.0])
def test_an_entry_is_kept_where_its_number_is_below_the_chance(chance: float) -> None:
    """Old merges replay only while these masks stay; 400,000 numbers need the finer digits too."""
    n = 400_000
    expected = oracle.draws(7, "w", "sha256:a", n) < chance

    found = Random(7, "w", ["sha256:a"], 0, n).keeps(0, chance)

    np.testing.assert_array_equal(expected, found.numpy() == 1)
    part = Random(7, "w", ["sha256:a"], 100_003, 61).keeps(0, chance)
    np.testing.assert_array_equal(expected[100_003:100_064], part.numpy() == 1)


def test_every_entry_may_have_a_chance_of_its_own() -> None:
    n = 400_000
    chance = np.random.default_rng(1).random(n)

    found = Random(7, "w", ["sha256:a"], 0, n).keeps(0, chance)

    np.testing.assert_array_equal(oracle.draws(7, "w", "sha256:a", n) < chance, found.numpy() == 1)


def test_the_share_kept_and_the_overlap_of_masks_are_those_of_independent_draws() -> None:
    n, p = 1_000_000, 0.3
    masks = {
        "one": Random(1, "w", ["a", "b"], 0, n).keeps(0, p),
        "another expert": Random(1, "w", ["a", "b"], 0, n).keeps(1, p),
        "another tensor": Random(1, "v", ["a", "b"], 0, n).keeps(0, p),
        "another seed": Random(2, "w", ["a", "b"], 0, n).keeps(0, p),
        "a neighbour": Random(1, "w", ["a", "b"], 1, n).keeps(0, p),
    }

    for name, mask in masks.items():
        assert abs(float(mask.float().mean()) - p) < 5 * math.sqrt(p * (1 - p) / n), name
        both = p * p if name != "one" else p
        overlap = float((mask * masks["one"]).float().mean())
        assert abs(overlap - both) < 5 * math.sqrt(both * (1 - both) / n), name


def test_the_mean_over_seeds_is_the_delta() -> None:
    delta, p, seeds = torch.linspace(-1, 1, 41), 0.2, 3000
    total = torch.zeros_like(delta, dtype=torch.float64)

    for seed in range(seeds):
        random = Random(seed, "w", ["a"], 0, 41)
        total += drop(delta.clone()[None], [p], random, divide=True)[0]

    band = 5 * delta.abs().double() * math.sqrt((1 - p) / p / seeds) + 1e-7
    assert ((total / seeds - delta).abs() <= band).all()


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("chunk", [1, 16, 61, 1 << 17])
def test_dare_gives_the_same_bytes_in_any_chunks_on_any_threads(chunk: int, threads: int) -> None:
    experts, base = family(dtype=torch.float32)

    whole = zoo.merge("dare", experts, base=base, parameters={"density": 0.4}, seed=5)
    parts = zoo.merge(
        "dare",
        experts,
        base=base,
        parameters={"density": 0.4},
        seed=5,
        chunk=chunk,
        threads=threads,
    )

    same_bytes(whole, parts)


def test_another_seed_drops_other_entries() -> None:
    experts, base = family(dtype=torch.float32)

    one, two = (zoo.merge("dare", experts, base=base, seed=s)["matrix"] for s in (1, 2))

    assert not torch.equal(one, two)


# What the papers promise


@pytest.mark.parametrize("rescale", ["probability", "l1", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropping_everything_gives_the_base_and_nothing_the_sum(
    rescale: str, dtype: torch.dtype
) -> None:
    experts, base = family(dtype=torch.float32)
    experts = [{n: t.to(dtype) for n, t in e.items()} for e in experts]
    base = {n: t.to(dtype) for n, t in base.items()}

    nothing = zoo.merge("dare", experts, base=base, parameters={"density": 0, "rescale": rescale})
    everything = zoo.merge(
        "dare", experts, base=base, parameters={"density": 1, "rescale": rescale}
    )

    for name in base:
        assert torch.equal(base[name], nothing[name])
        torch.testing.assert_close(
            zoo.merge("task_arithmetic", experts, base=base)[name], everything[name]
        )


@given(st.integers(0, 10_000), st.floats(0.05, 0.95), st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_l1_keeps_the_norm_of_every_tensor_unless_nothing_is_left(
    seed: int, density: float, chunk: int
) -> None:
    rng = np.random.default_rng(seed)
    delta = {"a": torch.tensor(rng.normal(size=(5, 8))), "b": torch.tensor(rng.normal(size=3))}
    zeros = {n: torch.zeros_like(t) for n, t in delta.items()}
    asked = {"density": density, "rescale": "l1"}

    found = zoo.merge("dare", [delta], base=zeros, parameters=asked, seed=seed, chunk=chunk)

    for name, merged in found.items():
        if merged.any():
            torch.testing.assert_close(delta[name].abs().sum(), merged.abs().sum())


@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 0.5), st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_a_row_keeps_as_many_entries_as_breadcrumbs_says(
    seed: int, density: float, gamma: float, columns: int
) -> None:
    delta = torch.tensor(np.random.default_rng(seed).permutation(3 * columns) + 1.0)
    delta = delta.reshape(3, columns)
    asked = {"density": density, "gamma": gamma, "lambda": 1.0}

    found = zoo.merge("breadcrumbs", [delta], base=torch.zeros_like(delta), parameters=asked)
    scaled = zoo.merge("breadcrumbs", [8 * delta], base=torch.zeros_like(delta), parameters=asked)

    expected = min(int(density * columns), columns - int(gamma * columns))
    assert [expected] * 3 == found.count_nonzero(dim=1).tolist()
    assert torch.equal(8 * found, scaled)


@pytest.mark.parametrize("scope", ["row", "tensor"])
def test_breadcrumbs_without_gamma_keeps_the_largest(scope: str) -> None:
    delta = torch.tensor([[1.0, -4.0, 3.0, 2.0], [-8.0, 5.0, 6.0, 7.0]])
    asked = {"density": 0.5, "gamma": 0, "scope": scope, "lambda": 1}

    found = zoo.merge("breadcrumbs", [delta], base=torch.zeros_like(delta), parameters=asked)

    kept = {
        "row": [[0.0, -4.0, 3.0, 0.0], [-8.0, 0.0, 0.0, 7.0]],
        "tensor": [[0.0, 0.0, 0.0, 0.0], [-8.0, 5.0, 6.0, 7.0]],
    }
    assert torch.equal(torch.tensor(kept[scope]), found)


@pytest.mark.parametrize("length", [2304, 4224, 10080])
def test_both_cuts_of_a_longer_tensor_are_exact(length: int) -> None:
    delta = torch.randn(length, generator=torch.Generator().manual_seed(length))
    asked = {"density": 0.6, "gamma": 0.01, "lambda": 1, "scope": "tensor"}

    found = zoo.merge("breadcrumbs", [delta], base=torch.zeros_like(delta), parameters=asked)

    kept = oracle.tensor_band(delta.double().numpy(), 0.6, 0.01)
    assert found.tolist() == (delta.double().numpy() * (kept != 0)).tolist()


@pytest.mark.parametrize("method", ["dare", "breadcrumbs"])
def test_one_expert_whole_is_that_expert_bit_for_bit(method: str) -> None:
    base, expert = torch.tensor([0.1, 1e9]), torch.tensor([0.3, 0.7])
    asked = {"density": 1, "lambda": 1, **({"gamma": 0} if method == "breadcrumbs" else {})}

    assert torch.equal(expert, zoo.merge(method, [expert], base=base, parameters=asked))


@pytest.mark.parametrize("method", ["dare", "breadcrumbs"])
@pytest.mark.parametrize("rescale", ["none", "l1"])
def test_task_vectors_of_zero_give_the_base(method: str, rescale: str) -> None:
    base = torch.tensor([[0.1, -2.0], [3.0, 4.0]])

    found = zoo.merge(method, [base, base], base=base, parameters={"rescale": rescale})

    assert torch.equal(base, found)


# Recipes and refusals


def test_an_input_that_is_not_finite_is_named() -> None:
    base = torch.zeros(4, 4)
    bad = base.clone()
    bad[2, 1] = math.nan

    for parameters in ({"rescale": "l1"}, {}):
        with pytest.raises(GateFailed, match="expert 1"):
            zoo.merge("dare", [base + 1, bad], base=base, parameters=parameters)


@pytest.mark.parametrize("method", ["dare", "breadcrumbs", "della", "task_vectors"])
def test_the_largest_of_all_is_refused_without_an_election(method: str) -> None:
    asked = {"merge": "max", "elect": "none"}

    with pytest.raises(InvalidRecipe, match="elect=mass"):
        zoo.merge(method, [torch.ones(3)], base=torch.zeros(3), parameters=asked)


@pytest.mark.parametrize(
    "name, method, expected",
    [
        ("dare_linear", "dare", {"rescale": "l1"}),
        ("dare_ties", "dare", {"rescale": "l1", "elect": "mass"}),
        ("breadcrumbs", "breadcrumbs", {"scope": "tensor", "gamma": 0.01}),
        ("breadcrumbs_ties", "breadcrumbs", {"scope": "tensor", "gamma": 0.01, "elect": "mass"}),
        ("della", "della", {"rescale": "l1", "elect": "mass", "merge": "mean", "epsilon": 0.15}),
        ("della_linear", "della", {"rescale": "l1", "elect": "none", "merge": "sum"}),
        ("sce", "sce", {"uniform_below": 1e-6}),
    ],
)
def test_a_mergekit_recipe_means_what_mergekit_means(
    name: str, method: str, expected: dict[str, Any]
) -> None:
    own = {} if name == "sce" else {"weight": 0.5}
    document = {
        "merge_method": name,
        "base_model": "base",
        "models": [{"model": "a", "parameters": own}, {"model": "b", "parameters": own}],
        "dtype": "float32",
    }

    recipe = read_mergekit(document, METHODS)

    assert method == recipe.method
    wanted = {**expected, **({} if name == "sce" else {"density": 1.0})}
    assert wanted == {k: recipe.parameters[k] for k in wanted}


def test_mergekit_options_become_ours() -> None:
    document = {
        "merge_method": "dare_ties",
        "base_model": "base",
        "models": [{"model": "a", "parameters": {"weight": 1, "density": 0.4}}],
        "parameters": {"normalize": True, "rescale": False, "int8_mask": True, "lambda": 0.5},
    }

    recipe = read_mergekit(document, METHODS)

    wanted = {"merge": "mean", "rescale": "none", "lambda": 0.5, "elect": "mass"}
    assert wanted == {k: recipe.parameters[k] for k in wanted}
    assert 0.4 == recipe.experts[0].parameters["density"]


class TestDare(MethodConformance):
    method = METHODS["dare"]
    parameters = {"density": 0.5}


class TestDareByNorm(MethodConformance):
    method = METHODS["dare"]
    parameters = {"density": 0.5, "rescale": "l1", "elect": "mass"}


class TestBreadcrumbs(MethodConformance):
    method = METHODS["breadcrumbs"]
    parameters = {"gamma": 0.1, "density": 0.4}


class TestBreadcrumbsOfTensors(MethodConformance):
    method = METHODS["breadcrumbs"]
    parameters = {"gamma": 0.1, "density": 0.4, "scope": "tensor"}
