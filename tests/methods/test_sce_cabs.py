"""SCE and CABS: the specified numbers, those of an oracle, and what their papers promise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sparsify_oracle as oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sparsify import BOTH, cases, close, family, same_bytes, state, wide

import zoo
from zoo.errors import InvalidRecipe
from zoo.plugins import load_plugins
from zoo.stages.blocks import share_out
from zoo.stages.variance import Energies, TopVariance, shares
from zoo.testing import MethodConformance

METHODS = load_plugins().methods


# Golden numbers


@BOTH
@pytest.mark.parametrize("case", cases("sce"))
def test_sce_gives_the_golden_numbers(
    case: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    seen: dict[str, list[float]] = {}

    class Listening(Energies):
        def finish(self, states: Any) -> list[float]:
            energies = super().finish(states)
            seen[next(iter(states))] = shares(energies, 0)
            return energies

    sce = METHODS["sce"]
    topk = case["params"]["select_topk"]
    passes = [TopVariance(topk)] if topk < 1 else []
    method = zoo.method(
        "sce",
        version="1.0.0",
        needs="statistics",
        statistics=lambda p, n: [*([TopVariance(topk)] if passes else []), Listening(n)],
    )(sce.function)

    found = zoo.merge(
        method,
        [state(m, dtype) for m in case["models"]],
        base=state(case["base"], dtype),
        parameters=case["params"],
    )

    expected = case["expected"]
    close({n: np.asarray(v) for n, v in expected["merged"].items()}, found, tolerance)
    for name, values in expected.get("coefficients", {}).items():
        np.testing.assert_allclose(seen[name], values, rtol=tolerance)


@BOTH
@pytest.mark.parametrize("case", cases("cabs"))
def test_cabs_gives_the_golden_numbers(
    case: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    params = case["params"]
    models = [state(case["models"][i], dtype) for i in params["order"]]
    weight = [params["weights"][i] for i in params["order"]]
    dense = params.get("dense_branch", False)
    asked = {"n": params["n"], "m": params["m"], "weight": weight, "dense": dense}

    found = zoo.merge("cabs", models, base=state(case["base"], dtype), parameters=asked, chunk=3)

    merged = {n: np.asarray(v) for n, v in case["expected"]["merged"].items()}
    close(merged, found, tolerance)
    for name in merged:
        deltas = torch.stack([m[name].reshape(-1) for m in models])
        pruned = share_out(deltas, params["n"], params["m"], dense=dense)
        for row, expected in zip(pruned, case["expected"].get("pruned", []), strict=False):
            np.testing.assert_allclose(row, np.asarray(expected[name]).ravel(), rtol=tolerance)


# Oracles

SCE = [
    {},
    {"select_topk": 0.3},
    {"select_topk": 0.3, "select_applies_to": "coefficients"},
    {"select_topk": 0.0, "select_applies_to": "coefficients"},
    {"select_topk": 0.01},
    {"uniform_below": 100.0},
]
CABS = [
    {"n": 2, "m": 5},
    {"n": 2, "m": 5, "tail": "proportional", "weight": [1.0, -0.5, 2.0]},
    {"n": 3, "m": 4},
    {"n": 0, "m": 4},
    {"n": 6, "m": 6},
    {},
    {"n": 3, "m": 32, "tail": "proportional"},
]


@BOTH
@pytest.mark.parametrize("asked", SCE)
@pytest.mark.parametrize("experts", [1, 2, 4])
@pytest.mark.parametrize("chunk", [7, 1 << 17])
def test_sce_agrees_with_an_oracle(
    asked: dict[str, Any], experts: int, chunk: int, dtype: torch.dtype, tolerance: float
) -> None:
    models, base = family(experts, dtype=dtype)
    if experts == 4:  # variances that differ: a rounding of equal ones may order them otherwise
        rng = np.random.default_rng(5)
        models = [
            {n: t + torch.tensor(rng.normal(size=t.shape), dtype=dtype) for n, t in m.items()}
            for m in models
        ]
    expected, _ = oracle.sce([wide(m) for m in models], wide(base), **asked)

    found = zoo.merge("sce", models, base=base, parameters=asked, chunk=chunk)

    close(expected, found, tolerance)


@BOTH
@pytest.mark.parametrize("asked", CABS)
@pytest.mark.parametrize("chunk", [7, 1 << 17])
def test_cabs_agrees_with_an_oracle(
    asked: dict[str, Any], chunk: int, dtype: torch.dtype, tolerance: float
) -> None:
    models, base = family(3, dtype=dtype)
    rest = {"n": 64, "m": 256, **asked}
    weight = oracle.each(rest.pop("weight", 1.2), 3)
    expected = {}
    for name, origin in wide(base).items():
        pruned = oracle.cabs([wide(m)[name] - origin for m in models], **rest)
        total = sum(w * p for w, p in zip(weight, pruned, strict=True))
        expected[name] = origin + total

    found = zoo.merge("cabs", models, base=base, parameters=asked, chunk=chunk)

    close(expected, found, tolerance)


# What the papers promise


@given(st.integers(0, 10_000), st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_sce_lies_among_its_experts_whatever_their_order_and_scale(seed: int, topk: float) -> None:
    rng = np.random.default_rng(seed)
    deltas = [torch.tensor(rng.normal(size=(3, 7))) for _ in range(3)]
    zeros, asked = torch.zeros(3, 7, dtype=torch.float64), {"select_topk": topk}

    found = zoo.merge("sce", deltas, base=zeros, parameters=asked)
    turned = zoo.merge("sce", deltas[::-1], base=zeros, parameters=asked)
    scaled = zoo.merge("sce", [4 * d for d in deltas], base=zeros, parameters=asked)

    torch.testing.assert_close(found, turned)
    assert torch.equal(4 * found, scaled)
    stacked = torch.stack([*deltas, zeros])
    inside = (stacked.amin(0) - 1e-12 <= found) & (found <= stacked.amax(0) + 1e-12)
    assert inside.all()


@pytest.mark.parametrize("experts", [1, 2, 3, 5])
def test_identical_experts_have_nothing_to_select(experts: int) -> None:
    base, expert = torch.tensor([0.1, 2.0, -3.0]), torch.tensor([0.3, -1.0, 0.7])

    whole = zoo.merge("sce", [expert] * experts, base=base)
    part = zoo.merge("sce", [expert] * experts, base=base, parameters={"select_topk": 0.5})

    torch.testing.assert_close(expert, whole)
    assert torch.equal(base, part)


def test_sce_finds_the_cut_of_a_tensor_too_large_to_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.stages.magnitude._HELD", 1000)
    n = (1 << 20) + 1000
    generator = torch.Generator().manual_seed(3)
    first = torch.randint(-50, 51, (n,), generator=generator).float()
    asked = {"select_topk": 0.25}

    found = zoo.merge("sce", [first, -first], base=torch.zeros(n), parameters=asked, chunk=1 << 14)

    size = first.abs()
    varying = int(size.count_nonzero())
    at = size.sort(descending=True).values[int(0.25 * varying) - 1]
    assert int(0.25 * varying) == int(found.count_nonzero())
    assert (found[size > at] != 0).all() and (found[size < at] == 0).all()
    kept = found[size == at].nonzero()[:, 0]
    assert torch.equal(torch.arange(len(kept)), kept)


@given(st.integers(0, 10_000), st.integers(0, 6), st.integers(1, 6), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_each_position_goes_to_one_expert_and_each_block_keeps_n(
    seed: int, n: int, m: int, size: int
) -> None:
    n = min(n, m)
    rng = np.random.default_rng(seed)
    deltas = torch.tensor(rng.integers(-6, 7, (3, size)) / 8, dtype=torch.float32)

    left = share_out(deltas.clone(), n, m)
    scaled = share_out(torch.stack([4 * deltas[0], deltas[1] / 4, deltas[2]]), n, m)

    used = (left != 0).sum(0)
    assert int(used.max()) <= 1
    whole = size - size % m
    blocks = (left[:, :whole].view(3, -1, m) != 0).sum(-1)
    assert not blocks.numel() or int(blocks.max()) <= n
    assert torch.equal(left != 0, scaled != 0)
    assert torch.equal(share_out(deltas[:1].clone(), n, m), left[:1])


def test_the_first_expert_of_cabs_takes_all_when_n_is_m() -> None:
    first, second = torch.arange(1.0, 7.0), torch.full((6,), 9.0)
    asked = {"n": 3, "m": 3, "weight": 1}

    assert torch.equal(
        first, zoo.merge("cabs", [first, second], base=torch.zeros(6), parameters=asked)
    )
    assert torch.equal(
        second, zoo.merge("cabs", [second, first], base=torch.zeros(6), parameters=asked)
    )


@pytest.mark.parametrize("chunk", [1, 10, 64, 1 << 17])
def test_cabs_gives_the_same_bytes_in_any_chunks(chunk: int) -> None:
    models, base = family(3, dtype=torch.float32)
    asked = {"n": 3, "m": 10}

    whole = zoo.merge("cabs", models, base=base, parameters=asked)
    parts = zoo.merge("cabs", models, base=base, parameters=asked, chunk=chunk, threads=2)

    same_bytes(whole, parts)


@pytest.mark.parametrize(
    "asked, experts",
    [({"n": 5, "m": 4}, 2), ({"dense": True}, 2), ({"n": 2, "m": 4, "dense": True}, 3)],
)
def test_blocks_that_cannot_be_are_refused(asked: dict[str, Any], experts: int) -> None:
    with pytest.raises(InvalidRecipe, match="m="):
        zoo.merge("cabs", [torch.ones(8)] * experts, base=torch.zeros(8), parameters=asked)


class TestSce(MethodConformance):
    method = METHODS["sce"]


class TestSceSelecting(MethodConformance):
    method = METHODS["sce"]
    parameters = {"select_topk": 0.4}


class TestCabs(MethodConformance):
    method = METHODS["cabs"]
    parameters = {"n": 2, "m": 6}
