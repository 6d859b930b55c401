"""The trim of TIES is exact: across chunks and tensors, with ties, and when a sample misleads."""

from __future__ import annotations

import math
from collections.abc import Callable

import merge_oracle
import numpy as np
import pytest
import torch

import zoo
from zoo.errors import GateFailed
from zoo.plugins import load_plugins

TIES = load_plugins().methods["ties"]
SAMPLED = 1 << 19
"""About how many entries the engine samples; models below have several times as many."""
CHUNK = 1 << 14


def kept(
    delta: dict[str, torch.Tensor], density: float, **options: object
) -> dict[str, np.ndarray]:
    """The delta of one expert after the trim, from a base of zeros."""
    zeros = {name: torch.zeros_like(d) for name, d in delta.items()}
    parameters = {"density": density, "zero_sign": "positive", "lambda": 1.0, **options}
    merged = zoo.merge(TIES, [delta], base=zeros, parameters=parameters, chunk=CHUNK, threads=2)
    return {name: t.numpy() for name, t in merged.items()}


def check(delta: dict[str, np.ndarray], density: float, **options: object) -> None:
    state = {n: torch.from_numpy(np.asarray(v, np.float32)) for n, v in delta.items()}
    zeros = {n: np.zeros(v.shape) for n, v in delta.items()}
    wide = {n: state[n].double().numpy() for n in delta}
    choices = {"density": [density], "weight": [1.0], **options}
    expected = merge_oracle.ties([wide], zeros, **choices)  # type: ignore[arg-type]

    found = kept(state, density, **options)

    for name in delta:
        np.testing.assert_array_equal(expected[name], found[name])


def noise(n: int) -> np.ndarray:
    return np.random.default_rng(n).standard_normal(n)


LAYOUTS: dict[str, Callable[[], dict[str, np.ndarray]]] = {
    "all_large_values_in_the_last_tensor": lambda: {
        "a": noise(3 * SAMPLED) * 1e-4,
        "z": noise(SAMPLED),
    },
    "all_large_values_in_the_first_chunk": lambda: {
        "a": np.concatenate([noise(CHUNK) * 1e6, noise(3 * SAMPLED) * 1e-6])
    },
    "all_large_values_in_every_eighth_chunk": lambda: {
        "a": (noise(4 * SAMPLED).reshape(-1, 8, CHUNK) * np.geomspace(1, 1e9, 8)[:, None]).ravel()
    },
    "large_values_at_every_eighth_place": lambda: {
        "a": noise(4 * SAMPLED) * np.where(np.arange(4 * SAMPLED) % 8 == 0, 1e9, 1e-9)
    },
    "one_value_everywhere": lambda: {"a": np.full(2 * SAMPLED + 5, 0.5), "b": np.full(7, -0.5)},
    "three_values": lambda: {
        "a": np.random.default_rng(0).integers(-1, 2, 2 * SAMPLED + 3) / 4,
        "b": np.random.default_rng(1).integers(-1, 2, (3, SAMPLED // 2)) / 4,
    },
    "nearly_all_zero": lambda: {"a": np.where(np.arange(2 * SAMPLED) % 1000 == 7, 1.5, 0.0)},
    "thousands_of_tiny_tensors": lambda: {f"t{i}": noise(i % 90) for i in range(700)},
    "every_magnitude_there_is": lambda: {
        "a": np.geomspace(1e-45, 3e38, 2 * SAMPLED, dtype=np.float64)[::-1]
    },
}


@pytest.mark.parametrize("density", [1e-6, 0.2, 0.5])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_exactly_the_largest_entries_survive(layout: str, density: float) -> None:
    check(LAYOUTS[layout](), density)


def test_the_cut_of_each_expert_is_its_own() -> None:
    n = 2 * SAMPLED
    experts = [noise(n) * 1e-9, np.full(n, 0.25), noise(n + 1)[1:] * np.arange(n)]
    state = [{"w": torch.tensor(e, dtype=torch.float32)} for e in experts]
    base = {"w": torch.zeros(n)}
    options = {"density": [0.9, 0.3, 0.001], "merge": "sum", "zero_sign": "majority"}

    merged = zoo.merge(TIES, state, base=base, parameters=options, chunk=CHUNK, threads=2)

    wide = [{"w": s["w"].double().numpy()} for s in state]
    expected = merge_oracle.ties(
        wide,
        {"w": np.zeros(n)},
        density=[0.9, 0.3, 0.001],
        weight=[1, 1, 1],
        merge="sum",
    )
    np.testing.assert_allclose(merged["w"].numpy(), expected["w"], rtol=1e-6)


@pytest.mark.parametrize("trim", ["exact", "kth_value_inclusive", "at_least_one"])
@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_ties_at_the_cut_go_to_the_lower_index(scope: str, trim: str) -> None:
    rng = np.random.default_rng(3)
    delta = {"b": rng.integers(-2, 3, (CHUNK + 1, 3)) / 2, "a": rng.integers(-2, 3, 5000) / 2}

    check(delta, 0.37, scope=scope, trim=trim)


def test_float64_deltas_are_cut_in_float64() -> None:
    close = 1 + np.arange(64) * 2.0**-52
    delta = {"w": torch.from_numpy(np.random.default_rng(0).permutation(close))}

    found = kept(delta, 0.25)["w"]

    assert sorted(found[found > 0]) == list(close[-16:])


def test_a_cut_between_two_float32_numbers_cuts_float32_tensors_too() -> None:
    between = 1 + 2.0**-30
    delta = {
        "a": torch.tensor([1.0, 1.0, 1.0]),
        "b": torch.tensor([between, between, 1.0], dtype=torch.float64),
    }

    found = kept(delta, 2 / 6)

    assert [0.0, 0.0, 0.0] == found["a"].tolist()
    assert [between, between, 0.0] == found["b"].tolist()


@pytest.mark.parametrize("pattern", [0x7FC00000, 0x7FFFFFFF, -1, 0x7F800000])
@pytest.mark.parametrize("scope, sign", [("global", "majority"), ("tensor", "positive")])
def test_an_expert_full_of_nan_ends_in_an_error_and_not_in_a_search(
    pattern: int, scope: str, sign: str
) -> None:
    bits = torch.full((300,), pattern, dtype=torch.int64).to(torch.int32)
    bits[::3] = 0x3F800000
    expert = {"w": bits.view(torch.float32)}

    with pytest.raises(GateFailed, match=r"`expert 0` has 200 values that are not finite") as error:
        zoo.merge(
            TIES,
            [expert, {"w": torch.ones(300)}],
            base={"w": torch.zeros(300)},
            parameters={"density": 0.2, "scope": scope, "zero_sign": sign},
        )

    assert "w" == error.value.tensor


@pytest.mark.parametrize("n", [1, 2, 3, 10, 99, 100, 101])
@pytest.mark.parametrize("density", [0.01, 0.29, 0.3, 0.7, 0.999])
def test_the_number_kept_is_the_integer_part_of_the_floating_product(
    n: int, density: float
) -> None:
    delta = {"w": torch.arange(1.0, n + 1)}

    found = kept(delta, density)["w"]

    assert math.floor(density * n) == np.count_nonzero(found)


def test_a_nan_that_no_sample_sees_does_not_keep_the_search_going() -> None:
    """All ones is the highest bit pattern there is."""
    bits = torch.zeros(2 * SAMPLED, dtype=torch.int32)
    bits[0] = 0x7FFFFFFF

    with pytest.raises(GateFailed, match="1 value that is not finite"):
        kept({"w": bits.view(torch.float32)}, 1e-6)
