"""tsv, iso_c, iso_cts, knots, wudi and orthogonal_adaptation: what singular vectors are for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spectral_oracle as oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo_plugins.orthogonal_adaptation import crosstalk, join

import zoo
from zoo.errors import InvalidRecipe
from zoo.plugins import load_plugins
from zoo.stages import spectrum
from zoo.testing import MethodConformance

METHODS = load_plugins().methods
GOLDEN = Path(__file__).parent / "golden"
QUICK = settings(deadline=None, max_examples=20)
SHAPES = {
    "square": (9, 9),
    "wide": (6, 31),
    "tall": (40, 7),
    "column": (5, 1),
    "conv": (8, 3, 2, 2),
    "bias": (11,),
    "none": (0, 4),
    "scale": (),
}
State = dict[str, torch.Tensor]
PRECISIONS = [(torch.float64, 1e-9), (torch.float32, 1e-5)]


def family(experts: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[State]:
    """A base and experts near it; the deltas are of the size of the weights."""
    draw = torch.Generator().manual_seed(seed)
    return [
        {
            n: torch.randn(s, generator=draw, dtype=torch.float64).to(dtype)
            for n, s in SHAPES.items()
        }
        for _ in range(experts + 1)
    ]


def merged(method: str, experts: Any, base: Any, **parameters: Any) -> Any:
    values = {name.rstrip("_"): value for name, value in parameters.items()}
    chunk = values.pop("chunk", 1 << 17)
    return zoo.merge(METHODS[method], experts, base=base, parameters=values, chunk=chunk)


def delta(method: str, deltas: list[Any], **parameters: Any) -> np.ndarray:
    """What a method makes of deltas, given as arrays; the base is zero."""
    tensors = [torch.as_tensor(d, dtype=torch.float64) for d in deltas]
    found: torch.Tensor = merged(method, tensors, torch.zeros_like(tensors[0]), **parameters)
    return found.numpy()


def matrices(count: int, m: int, n: int, seed: int) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return [draw.normal(size=(m, n)) for _ in range(count)]


def orthogonal(n: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


def near(found: Any, expected: Any, tolerance: float = 1e-9) -> None:
    assert np.shape(found) == np.shape(expected)
    assert np.allclose(found, expected, rtol=0, atol=tolerance)


# Golden numbers


def golden(name: str) -> list[Any]:
    cases = json.loads((GOLDEN / f"{name}.json").read_text())
    return [pytest.param(c, id=f"{name}-{c['case']}") for c in cases]


def our_words(case: Any) -> tuple[str, dict[str, Any]]:
    """The method and parameters of a golden case, which uses the papers' words."""
    p = dict(case["params"])
    if p.pop("output", None) == "compressed":
        pytest.skip("compression is a command of its own")
    method = {"tsv_merge": "tsv"}.get(case["method"], case["method"])
    method = p.pop("variant", method)
    for name in ("polar", "init"):  # ours are the only values
        p.pop(name, None)
    for theirs, ours in (("alpha", "lambda"), ("optimizer", "solver")):
        if theirs in p:
            p[ours] = p.pop(theirs)
    if p.get("merge") == "sum":
        p["merge"] = "linear"
    return method, p


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("case", [c for n in ("tsv", "iso", "knots", "wudi") for c in golden(n)])
def test_golden_numbers(case: Any, dtype: torch.dtype, tolerance: float) -> None:
    def state(values: Any) -> State:
        return {n: torch.tensor(v, dtype=dtype) for n, v in values.items()}

    method, parameters = our_words(case)
    found = merged(method, [state(m) for m in case["models"]], state(case["base"]), **parameters)

    for name, value in case["expected"].get("merged", case["expected"]).items():
        near(found[name], value, max(tolerance, case.get("tolerance", 0)))


@pytest.mark.parametrize("case", golden("orthogonal_adaptation"))
def test_golden_numbers_of_factors(case: Any) -> None:
    weights = case["params"]["weights"]
    factors: list[Any] = [
        tuple(torch.tensor(f["w"][side], dtype=torch.float64) for side in "AB")
        for f in case["params"]["factors"]
    ]
    base = torch.tensor(case["base"]["w"], dtype=torch.float64)
    a, b = join(factors, weights)
    dense = merged(
        "orthogonal_adaptation", [base + x @ y.T for x, y in factors], base, weight=weights
    )

    near(base + a @ b.T, case["expected"]["merged"]["w"])
    near(dense, case["expected"]["merged"]["w"])
    assert abs(crosstalk(factors[0][1], factors[1][1]) - case["expected"]["crosstalk"]["w"]) < 1e-9


# An oracle of whole decompositions

ORACLE: dict[str, tuple[str, dict[str, Any], Callable[..., np.ndarray]]] = {
    "tsv": ("tsv", {}, oracle.tsv),
    "tsv, more of it": (
        "tsv",
        {"lambda": 0.7, "rank_fraction": 0.6, "convolutions": "matrix"},
        lambda d: oracle.tsv(d, 0.7, 0.6, "matrix"),
    ),
    "iso_c": ("iso_c", {"lambda": 1.5}, lambda d: oracle.iso_c(d, 1.5)),
    "iso_cts": ("iso_cts", {}, oracle.iso_cts),
    "iso_cts, less in common": (
        "iso_cts",
        {"common_space_fraction": 0.4, "convolutions": "matrix"},
        lambda d: oracle.iso_cts(d, 1.0, 0.4, "matrix"),
    ),
    "wudi": ("wudi", {"steps": 20, "lr": 1e-2}, lambda d: oracle.wudi(d, lr=1e-2, steps=20)),
    "wudi, exactly": (
        "wudi",
        {"solver": "closed_form", "convolutions": "matrix"},
        lambda d: oracle.wudi(d, "closed_form", convolutions="matrix"),
    ),
}


@pytest.mark.parametrize("case", ORACLE)
@pytest.mark.parametrize("experts", [2, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-4)])
def test_methods_give_what_an_oracle_gives(
    case: str, experts: int, dtype: torch.dtype, tolerance: float
) -> None:
    method, parameters, expected = ORACLE[case]
    base, *models = family(experts, seed=experts, dtype=dtype)

    found = merged(method, models, base, chunk=7, **parameters)

    for name, origin in base.items():
        start = origin.double().numpy()
        wanted = start + expected([m[name].double().numpy() - start for m in models])
        near(found[name].double().numpy(), wanted, tolerance)


@pytest.mark.parametrize("parameters", [{}, {"space": "v"}, {"concat": "outputs"}])
@pytest.mark.parametrize("density", [0.2, 0.55, 1.0])
def test_knots_trims_over_all_tensors_in_the_aligned_space(
    density: float, parameters: dict[str, Any]
) -> None:
    base, *models = family(3, seed=5)

    found = merged("knots", models, base, density=density, chunk=7, **parameters)

    deltas = [{n: (m[n] - base[n]).numpy() for n in base} for m in models]
    wanted = oracle.knots(deltas, density=density, **parameters)
    for name, value in wanted.items():
        near(found[name].numpy(), base[name].numpy() + value, 1e-8)


def test_knots_is_the_same_on_four_threads() -> None:
    base, *models = family(3, seed=6, dtype=torch.float32)
    one, four = (
        zoo.merge("knots", models, base=base, threads=n, parameters={"density": 0.3})
        for n in (1, 4)
    )

    assert all(torch.equal(one[n], four[n]) for n in base)


# Degenerate inputs


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(12, 8), (8, 12), (10, 10), (50, 4)])
def test_tsv_of_equal_experts_is_their_truncation(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    (matrix,) = matrices(1, *shape, seed=1)
    expert = torch.tensor(matrix, dtype=dtype)

    found = merged("tsv", [expert, expert.clone()], torch.zeros_like(expert))

    left, values, right = np.linalg.svd(matrix)
    rank = min(shape) // 2
    truncated = left[:, :rank] * values[:rank] @ right[:rank]
    near(found.double().numpy(), truncated, 1e-9 if dtype == torch.float64 else 1e-4)


def test_tsv_of_parallel_experts_stays_within_their_directions() -> None:
    (matrix,) = matrices(1, 12, 8, seed=2)

    found = delta("tsv", [matrix, 3 * matrix])

    left, values, right = np.linalg.svd(matrix)
    near(found, left[:, :4] * (2 * values[:4]) @ right[:4])  # (1 + 3) / 2


@pytest.mark.parametrize("method", ["tsv", "iso_c", "iso_cts", "wudi", "knots"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_experts_equal_to_the_base_change_nothing_by_themselves(
    method: str, dtype: torch.dtype
) -> None:
    base, changed = family(1, seed=3, dtype=dtype)

    found = merged(method, [base, base, base], base)
    beside = merged(method, [changed, base], base)

    assert all(torch.equal(found[n], base[n]) for n in base)
    assert all(t.isfinite().all() for t in beside.values())


def test_wudi_skips_experts_equal_to_the_base() -> None:
    (matrix,) = matrices(1, 6, 9, seed=3)

    for solver in ("adam", "closed_form"):
        near(delta("wudi", [matrix, 0 * matrix], solver=solver), matrix)


@pytest.mark.parametrize("method", ["tsv", "wudi", "orthogonal_adaptation"])
def test_one_expert_alone_comes_back_bit_for_bit(method: str) -> None:
    base, expert = family(1, seed=4, dtype=torch.float32)

    found = merged(method, [expert], base)

    assert all(torch.equal(found[n], expert[n]) for n in base)


@pytest.mark.parametrize("method", ["tsv", "iso_c", "iso_cts", "knots", "orthogonal_adaptation"])
def test_a_scale_of_zero_gives_the_base_bit_for_bit(method: str) -> None:
    base, *experts = family(2, seed=4, dtype=torch.float32)

    found = merged(method, experts, base, lambda_=0.0)

    assert all(torch.equal(found[n], base[n]) for n in base)


@pytest.mark.parametrize("method", ["iso_c", "iso_cts", "tsv", "knots"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_low_rank_deltas_get_no_directions_they_lack(method: str, dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(9)
    low = [
        torch.randn(30, 2, generator=draw, dtype=torch.float64)
        @ torch.randn(2, 20, generator=draw, dtype=torch.float64)
        for _ in range(2)
    ]

    found = merged(method, [d.to(dtype) for d in low], torch.zeros(30, 20, dtype=dtype)).double()

    values = torch.linalg.svdvals(found)
    assert float(values[4:].max()) < 1e-5 * float(values[0])
    columns = torch.linalg.qr(torch.cat(low, dim=1))[0]
    near(columns @ (columns.T @ found), found, 1e-5 * float(values[0]))


def test_opposite_experts_cancel() -> None:
    (matrix,) = matrices(1, 7, 5, seed=8)

    for method in ("iso_c", "iso_cts", "tsv"):
        near(delta(method, [matrix, -matrix]), 0 * matrix)


def test_tsv_says_which_tensors_are_too_narrow(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    base, *experts = family(3, dtype=torch.float32)
    paths = [str(tmp_path / f"{i}.safetensors") for i in range(4)]
    for path, state in zip(paths, [base, *experts], strict=True):
        save_file(state, path)
    with zoo.open(tmp_path / "registry.db") as registry:
        plan = registry.plan(method="tsv", experts=paths[1:], base=paths[0])
        merged_all = merged("tsv", experts, base)

        assert ["1 tensors (`column`)"] == [n.split(" are")[0] for n in plan.notes]
        assert torch.equal(merged_all["column"], base["column"])


def test_knots_refuses_to_drop_and_to_trim() -> None:
    base, *experts = family(2)

    with pytest.raises(InvalidRecipe, match="with drop, set density=1"):
        merged("knots", experts, base, drop=0.5)


def test_knots_drops_entries_and_rescales_the_others() -> None:
    base = torch.zeros(40, 50, dtype=torch.float64)
    expert = torch.tensor(matrices(1, 40, 50, seed=3)[0])

    found = merged("knots", [expert], base, merge="linear", drop=0.25, lambda_=1.0)

    left, values, right = np.linalg.svd(expert.numpy(), full_matrices=False)
    ratio = (left.T @ found.numpy()) / (values[:, None] * right)
    dropped = np.abs(ratio) < 1e-6
    assert 0.2 < dropped.mean() < 0.3
    near(ratio[~dropped], np.full((~dropped).sum(), 4 / 3), 1e-6)


# What the specifications promise

sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))
seeds = st.integers(0, 2**16)


@QUICK
@given(sizes, seeds, st.integers(2, 4))
def test_tsv_keeps_the_singular_values_of_independent_experts(
    shape: tuple[int, int], seed: int, experts: int
) -> None:
    deltas = matrices(experts, *shape, seed)

    found = delta("tsv", deltas)

    rank = min(shape) // experts
    kept = [np.linalg.svd(d, compute_uv=False)[:rank] for d in deltas]
    expected = np.sort(np.concatenate(kept))[::-1]
    near(np.linalg.svd(found, compute_uv=False)[: expected.size], expected, 1e-6)


@QUICK
@given(sizes, seeds, st.integers(1, 4))
def test_iso_c_makes_the_spectrum_flat_and_keeps_the_nuclear_norm(
    shape: tuple[int, int], seed: int, experts: int
) -> None:
    deltas = matrices(experts, *shape, seed)

    values = np.linalg.svd(delta("iso_c", deltas), compute_uv=False)

    near(values, np.full(min(shape), values.mean()), 1e-8)
    near(values.sum(), np.linalg.svd(sum(deltas), compute_uv=False).sum(), 1e-8)


@QUICK
@given(seeds, st.integers(2, 4))
def test_iso_cts_without_room_for_own_directions_is_iso_c(seed: int, experts: int) -> None:
    deltas = matrices(experts, 6, 8, seed)

    near(delta("iso_cts", deltas, common_space_fraction=1.0), delta("iso_c", deltas))


@QUICK
@given(seeds, st.sampled_from(["tsv", "iso_c", "iso_cts"]))
def test_rotations_of_inputs_and_outputs_pass_through(seed: int, method: str) -> None:
    deltas = matrices(2, 6, 9, seed)
    outputs, inputs = orthogonal(6, seed + 1), orthogonal(9, seed + 2)

    turned = delta(method, [outputs @ d @ inputs.T for d in deltas])

    near(turned, outputs @ delta(method, deltas) @ inputs.T, 1e-6)


@QUICK
@given(seeds, st.sampled_from(["tsv", "iso_c", "iso_cts", "knots"]), st.floats(0.01, 100))
def test_a_common_factor_of_the_deltas_passes_through(
    seed: int, method: str, factor: float
) -> None:
    deltas = matrices(3, 6, 9, seed)

    found = delta(method, [factor * d for d in deltas])

    near(found / factor, delta(method, deltas), 1e-8)


@QUICK
@given(seeds)
def test_the_closed_form_of_wudi_is_the_least_interference(seed: int) -> None:
    deltas = matrices(2, 4, 11, seed)

    best = oracle.interference(delta("wudi", deltas, solver="closed_form"), deltas)

    for other in (sum(deltas), sum(deltas) / 2, delta("wudi", deltas, lr=1e-2), *deltas):
        assert best <= oracle.interference(other, deltas) + 1e-9


@QUICK
@given(seeds)
def test_a_few_steps_of_wudi_lessen_the_interference(seed: int) -> None:
    deltas = matrices(3, 5, 7, seed)
    losses = [oracle.interference(delta("wudi", deltas, steps=n), deltas) for n in (0, 5, 10)]

    assert losses[0] > losses[1] > losses[2]


def test_wudi_finds_equal_experts_where_they_have_rows() -> None:
    (matrix,) = matrices(1, 3, 8, seed=1)

    near(delta("wudi", [matrix, matrix], solver="closed_form"), matrix)


@QUICK
@given(seeds, st.integers(1, 4))
def test_knots_gives_equal_updates_back(seed: int, experts: int) -> None:
    (matrix,) = matrices(1, 5, 8, seed)

    near(delta("knots", [matrix] * experts, density=1.0, lambda_=1.0), matrix)


@QUICK
@given(seeds)
def test_knots_with_a_linear_rule_is_task_arithmetic(seed: int) -> None:
    deltas = matrices(3, 5, 8, seed)
    options = {"weight": [0.5, 1.0, -2.0], "lambda_": 0.3}

    near(
        delta("knots", deltas, merge="linear", **options),
        delta("task_arithmetic", deltas, **options),
    )


@QUICK
@given(seeds)
def test_orthogonal_adapters_do_not_hear_each_other(seed: int) -> None:
    basis = torch.tensor(orthogonal(9, seed))
    downs = [basis[:, :2], basis[:, 2:5]]
    ups = [torch.tensor(matrices(1, 4, b.shape[1], seed)[0]) for b in downs]
    (a, b) = join(list(zip(ups, downs, strict=True)), [1.0, 1.0])
    inputs = downs[0] @ torch.ones(2, dtype=torch.float64)

    near(a @ (b.T @ inputs), ups[0] @ (downs[0].T @ inputs))
    assert crosstalk(*downs) < 1e-12
    assert abs(crosstalk(downs[0], 5 * downs[0]) - 1) < 1e-12


# The linear algebra they share


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(3000, 40), (40, 3000), (60, 60), (5, 1), (1, 1)])
def test_a_truncated_matrix_is_as_near_as_one_of_its_rank_can_be(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    matrix = torch.tensor(matrices(1, *shape, seed=0)[0]).to(dtype)
    rank = (min(shape) + 1) // 2

    left, values, right = spectrum.truncate(matrix, rank)

    exact = torch.linalg.svdvals(matrix.double())
    off = torch.linalg.matrix_norm((left * values) @ right.T - matrix).double()
    best = exact[rank:].square().sum().sqrt()
    assert left.dtype == values.dtype == right.dtype == dtype
    assert float(off) <= float(best) + 1e-5 * float(exact[0])
    near(values.double(), exact[:rank], 1e-5 * float(exact[0]))
    near((left.T @ left).double(), torch.eye(rank), 1e-5)
    near((right.T @ right).double(), torch.eye(rank), 1e-5)


@pytest.mark.parametrize("shape", [(400, 30), (30, 400), (50, 50)])
def test_a_polar_factor_is_orthogonal_though_the_matrix_hardly_has_its_rank(
    shape: tuple[int, int],
) -> None:
    short = min(shape)
    left, right = (orthogonal(n, n)[:, :short] for n in shape)
    matrix = torch.tensor(left * np.logspace(0, -4, short) @ right.T, dtype=torch.float32)

    factor, values = spectrum.polar(matrix)

    assert len(values) == short
    near(factor.double(), left @ right.T, 0.02)  # as far as float32 can tell
    small = factor if shape[0] >= shape[1] else factor.T
    near((small.T @ small).double(), torch.eye(short), 1e-5)


def test_directions_below_the_tolerance_are_left_out() -> None:
    matrix = torch.diag(torch.tensor([1.0, 0.5, 1e-3, 0.0]))

    left, values, right = spectrum.truncate(matrix, 4, tolerance=0.01)
    factor, counted = spectrum.polar(matrix, tolerance=0.01)

    near(values, [1.0, 0.5, 0.0, 0.0], 1e-6)
    near(left[:, 2:], np.zeros((4, 2)))
    near(right[:, 2:], np.zeros((4, 2)))
    near(factor, np.diag([1.0, 1.0, 0.0, 0.0]), 1e-6)
    near(counted, [1.0, 0.5], 1e-6)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_matrices_without_elements_have_no_triples(shape: tuple[int, int]) -> None:
    left, values, right = spectrum.truncate(torch.zeros(shape), 3)

    assert ((shape[0], 0), (0,), (shape[1], 0)) == (left.shape, values.shape, right.shape)
    assert shape == tuple(spectrum.polar(torch.zeros(shape))[0].shape)


# The conformance kit


class TestTsv(MethodConformance):
    method = METHODS["tsv"]


class TestTsvOfConvolutions(MethodConformance):
    method = METHODS["tsv"]
    parameters = {"convolutions": "matrix", "weight": 0.5}


class TestIsoC(MethodConformance):
    method = METHODS["iso_c"]


class TestIsoCts(MethodConformance):
    method = METHODS["iso_cts"]


class TestWudi(MethodConformance):
    method = METHODS["wudi"]
    parameters = {"steps": 10}


class TestWudiClosedForm(MethodConformance):
    method = METHODS["wudi"]
    parameters = {"solver": "closed_form", "convolutions": "matrix"}


class TestKnots(MethodConformance):
    method = METHODS["knots"]


class TestKnotsWhole(MethodConformance):
    method = METHODS["knots"]
    parameters = {"density": 1.0, "space": "v", "concat": "outputs"}


class TestOrthogonalAdaptation(MethodConformance):
    method = METHODS["orthogonal_adaptation"]
