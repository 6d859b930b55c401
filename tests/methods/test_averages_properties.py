"""What averages and interpolations promise, and what they do at the edges."""

from __future__ import annotations

from typing import Any

import averages_oracle
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from zoo.contract import CHUNK
from zoo.errors import IncompatibleModels
from zoo.plugins import load_plugins

METHODS = load_plugins().methods
QUICK = settings(deadline=None, max_examples=10)
SEEDS = st.integers(0, 2**32 - 1)


def draw(seed: int, *shape: int, count: int = 2) -> list[torch.Tensor]:
    """Float64 tensors from a normal distribution."""
    rng = np.random.default_rng(seed)
    return [torch.tensor(rng.standard_normal(shape)) for _ in range(count)]


def close(a: torch.Tensor, b: torch.Tensor, within: float = 1e-9) -> bool:
    return bool(((a - b).abs() <= within * (1 + b.abs().max())).all())


def norm(x: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(x))


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.numpy().tobytes() == b.numpy().tobytes()


# Interpolation between two


@QUICK
@given(seed=SEEDS, t=st.floats(0.01, 0.99))
def test_nuslerp_of_whole_tensors_is_slerp(seed: int, t: float) -> None:
    x = draw(seed, 5, 8)
    turned = zoo.merge("nuslerp", x, parameters={"weight": [1 - t, t]})

    assert close(turned, zoo.merge("slerp", x, parameters={"t": t}))


@QUICK
@given(seed=SEEDS)
def test_nuslerp_by_rows_turns_each_row_alone_and_by_columns_each_column(seed: int) -> None:
    x = draw(seed, 5, 8)
    by_rows = zoo.merge("nuslerp", x, parameters={"weight": [1, 3], "vectors": "rows"})
    alone = [
        zoo.merge("nuslerp", [a, b], parameters={"weight": [1, 3]}) for a, b in zip(*x, strict=True)
    ]
    turned = [t.T.contiguous() for t in x]
    by_columns = zoo.merge("nuslerp", turned, parameters={"weight": [1, 3], "vectors": "columns"})

    assert close(by_rows, torch.stack(alone))
    assert close(by_columns, by_rows.T)


@QUICK
@given(seed=SEEDS, vectors=st.sampled_from(["flat", "rows", "columns"]))
def test_with_a_base_nuslerp_moves_along_with_it(seed: int, vectors: str) -> None:
    a, b, base, far = draw(seed, 4, 6, count=4)
    options = {"weight": [2, 1], "vectors": vectors}
    here = zoo.merge("nuslerp", [a, b], base=base, parameters=options)
    there = zoo.merge("nuslerp", [a + far, b + far], base=base + far, parameters=options)

    assert close(there, here + far, 1e-6)


@pytest.mark.parametrize("weight, end", [([1, 0], 0), ([0, 1], 1)])
@pytest.mark.parametrize("with_base", [True, False])
def test_nuslerp_with_all_weight_on_one_expert_is_that_expert(
    weight: list[int], end: int, with_base: bool
) -> None:
    *x, base = (t.bfloat16() for t in draw(3, 40, count=3))
    merged = zoo.merge(
        "nuslerp", x, base=base if with_base else None, parameters={"weight": weight}
    )

    assert torch.equal(merged, x[end])


def test_nearly_opposite_experts_are_measured_more_precisely() -> None:
    rng = np.random.default_rng(5)
    a = rng.standard_normal(200_000)
    b = -a + 3e-3 * rng.standard_normal(a.size)
    x = [torch.tensor(v, dtype=torch.float32) for v in (a, b)]
    merged = zoo.merge("nuslerp", x, parameters={"weight": [1, 1]})
    expected = averages_oracle.nuslerp([v.double().numpy() for v in x], None, [1, 1])

    assert np.abs(merged.double().numpy() - expected).max() < 1e-3


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e18, 1e30])
def test_squares_that_float32_cannot_hold_are_no_obstacle(scale: float) -> None:
    x = [t.float() * scale for t in draw(6, 300, count=3)]
    for name, options in {"multislerp": {"weight": 1.0}, "karcher": {"tol": 1e-38}}.items():
        merged = zoo.merge(name, x, parameters=options).double() / scale
        expected = zoo.merge(name, [t.double() / scale for t in x], parameters=options)

        assert close(merged, expected, 1e-5), name


@QUICK
@given(seed=SEEDS, alpha=st.floats(0, 1))
def test_wise_ft_is_linear_and_task_arithmetic_on_one_line(seed: int, alpha: float) -> None:
    base, expert = draw(seed, 3, 7)

    def wise(a: torch.Tensor, b: torch.Tensor, at: float) -> Any:
        return zoo.merge("wise_ft", [b], base=a, parameters={"alpha": at})

    merged = wise(base, expert, alpha)

    assert close(merged, wise(expert, base, 1 - alpha))
    assert close(
        merged, zoo.merge("linear", [base, expert], parameters={"weight": [1 - alpha, alpha]})
    )
    assert close(
        merged,
        zoo.merge("task_arithmetic", [expert], base=base, parameters={"lambda": alpha}),
    )
    assert close(wise(base, merged, 0.5), wise(base, expert, alpha / 2))
    assert torch.equal(merged, zoo.merge("bang", [expert], base=base, parameters={"alpha": alpha}))


@pytest.mark.parametrize("method", ["wise_ft", "bang"])
def test_the_ends_of_the_line_are_the_models_bit_for_bit(method: str) -> None:
    base, expert = (t.bfloat16() for t in draw(1, 90))
    base[0], expert[1] = -0.0, -0.0

    def at(alpha: float) -> Any:
        return zoo.merge(method, [expert], base=base, parameters={"alpha": alpha})

    assert same_bytes(at(0).view(torch.int16), base.view(torch.int16))
    assert same_bytes(at(1).view(torch.int16), expert.view(torch.int16))


@QUICK
@given(seed=SEEDS, t=st.sampled_from([1e-6, 0.7]))
def test_nearswap_moves_no_weight_by_more_than_t_and_gets_there_in_the_end(
    seed: int, t: float
) -> None:
    a, b = draw(seed, 30)
    forth = zoo.merge("nearswap", [b], base=a, parameters={"t": t})
    back = zoo.merge("nearswap", [a], base=b, parameters={"t": t})

    assert (forth - a).abs().max() <= t * (1 + 1e-9)
    assert close(forth + back, a + b)
    if t < 0.7:
        return
    for _ in range(int((b - a).abs().max() / t) + 1):
        a = zoo.merge("nearswap", [b], base=a, parameters={"t": t})

    assert torch.equal(b, a)


def test_nearswap_at_its_ends_is_one_of_the_models_bit_for_bit() -> None:
    a, b = (t.float() for t in draw(2, 50))

    assert same_bytes(a, zoo.merge("nearswap", [b], base=a, parameters={"t": 0}))
    assert same_bytes(b, zoo.merge("nearswap", [b], base=a, parameters={"t": 100}))


@QUICK
@given(seed=SEEDS)
def test_arcee_fusion_takes_each_entry_from_one_of_the_models(seed: int) -> None:
    base, expert = (t.float() for t in draw(seed, 6, 20))
    merged = zoo.merge("arcee_fusion", [expert], base=base)

    assert bool(((merged == base) | (merged == expert)).all())
    assert bool((merged != base).any())


def test_arcee_fusion_does_not_see_a_constant_added_to_rows_of_both_models() -> None:
    grid = np.random.default_rng(4).integers(-40, 40, (2, 9, 16)) / 16
    base, expert = torch.tensor(grid)
    shift = torch.arange(9.0)[:, None]  # exact on this grid

    here = zoo.merge("arcee_fusion", [expert], base=base)
    there = zoo.merge("arcee_fusion", [expert + shift], base=base + shift)

    assert torch.equal(here == expert, there == expert + shift)


def test_arcee_fusion_takes_exact_quartiles_of_tensors_of_many_chunks() -> None:
    base, expert = (t.float() for t in draw(8, 900, 400))
    expert[:, ::2] = base[:, ::2]  # half of all scores are exactly zero
    assert base.numel() > 2 * CHUNK
    merged = zoo.merge("arcee_fusion", [expert], base=base)
    expected = averages_oracle.arcee_fusion([expert.double().numpy()], base.double().numpy())

    assert int((merged.double().numpy() != expected).sum()) <= 2  # scores at the cut, rounded


# Means on the sphere


@QUICK
@given(seed=SEEDS, count=st.integers(2, 5), with_base=st.booleans())
def test_a_mean_on_the_sphere_has_the_mean_norm(seed: int, count: int, with_base: bool) -> None:
    *x, base = draw(seed, 4, 9, count=count + 1)
    weight = np.random.default_rng(seed).uniform(0.1, 2, count)
    share = weight / weight.sum()
    origin = base if with_base else torch.zeros_like(base)
    options = {"weight": weight.tolist()}
    merged = zoo.merge("multislerp", x, base=base if with_base else None, parameters=options)
    karcher = zoo.merge("karcher", x, parameters=options)

    assert np.isclose(norm(merged - origin), share @ [norm(e - origin) for e in x])
    assert np.isclose(norm(karcher), share @ [norm(e) for e in x])


@QUICK
@given(seed=SEEDS, scale=st.floats(0.1, 10))
def test_the_length_of_an_expert_changes_only_the_length_of_a_mean_on_the_sphere(
    seed: int, scale: float
) -> None:
    x = draw(seed, 30, count=3)
    for name in ("multislerp", "karcher"):
        options = {"weight": 1.0}
        merged = zoo.merge(name, x, parameters=options)
        scaled = zoo.merge(name, [x[0] * scale, *x[1:]], parameters=options)

        assert close(scaled / norm(scaled), merged / norm(merged)), name


@QUICK
@given(seed=SEEDS, count=st.integers(2, 5))
def test_the_karcher_mean_is_where_all_arcs_balance(seed: int, count: int) -> None:
    x = draw(seed, 50, count=count)
    options = {"max_iter": 200, "tol": 1e-12}
    point = zoo.merge("karcher", x, parameters=options).numpy()
    point = point / np.linalg.norm(point)
    arcs = [averages_oracle.logarithm(point, t.numpy() / norm(t)) for t in x]

    assert np.linalg.norm(sum(arcs)) < 1e-9


@QUICK
@given(seed=SEEDS)
def test_the_karcher_mean_turns_with_its_experts(seed: int) -> None:
    x = draw(seed, 12, count=3)
    turn = torch.linalg.qr(draw(seed + 1, 12, 12, count=1)[0])[0]
    merged = zoo.merge("karcher", x)

    assert close(zoo.merge("karcher", [turn @ e for e in x]), turn @ merged)


@QUICK
@given(seed=SEEDS)
def test_the_karcher_mean_of_two_is_the_middle_of_the_arc(seed: int) -> None:
    a, b = draw(seed, 20)
    middle = zoo.merge("slerp", [a / norm(a), b / norm(b)], parameters={"t": 0.5})

    assert close(zoo.merge("karcher", [a, b]), (norm(a) + norm(b)) / 2 * middle)


@QUICK
@given(seed=SEEDS)
def test_multislerp_with_the_log_map_is_one_iteration_of_karcher(seed: int) -> None:
    x = draw(seed, 20, count=4)
    one_step = zoo.merge("multislerp", x, parameters={"weight": 1.0, "log_map": True})

    assert close(one_step, zoo.merge("karcher", x, parameters={"max_iter": 1, "tol": 1e-12}))


def test_a_tensor_whose_experts_balance_out_is_named() -> None:
    x = [{"good": torch.ones(2), "bad": torch.tensor([s])} for s in (1.0, 2.0, -5.0, -1.0)]
    with pytest.raises(IncompatibleModels, match="`bad` cancel out") as caught:
        zoo.merge("multislerp", x, parameters={"weight": 1.0})

    assert "bad" == caught.value.tensor


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_opposite_experts_give_their_weighted_sum(dtype: torch.dtype) -> None:
    a = draw(9, 5000, count=1)[0].to(dtype)
    merged = zoo.merge("multislerp", [a, -2 * a], parameters={"weight": 1.0})

    assert close(merged, -0.5 * a, 1e-6)


@pytest.mark.parametrize("name", ["multislerp", "karcher", "nuslerp"])
def test_tensors_of_zeros_give_zeros_and_one_of_them_leaves_the_other_direction(name: str) -> None:
    zeros, other = torch.zeros(4, 3), torch.ones(4, 3)
    options = {"weight": 1.0}
    merged = zoo.merge(name, [zeros, other], parameters=options)

    assert not zoo.merge(name, [zeros, zeros], parameters=options).any()
    assert close(merged, merged[0, 0] * other, 1e-6)
    assert merged[0, 0] > 0


# Model Stock


@QUICK
@given(seed=SEEDS, count=st.integers(2, 4), scope=st.sampled_from(["tensor", "row"]))
def test_model_stock_of_equal_experts_is_that_expert(seed: int, count: int, scope: str) -> None:
    base, expert = draw(seed, 4, 6)
    merged = zoo.merge("model_stock", [expert] * count, base=base, parameters={"scope": scope})

    assert close(merged, expert)


def test_model_stock_of_orthogonal_deltas_is_the_base() -> None:
    base = torch.arange(3.0)
    experts = list(base + torch.eye(3) * torch.tensor([1.0, 5.0, 0.1]))

    assert torch.equal(base, zoo.merge("model_stock", experts, base=base))


@QUICK
@given(seed=SEEDS, scale=st.sampled_from([1e-6, 0.5, 8.0]))
def test_model_stock_depends_on_directions_and_scales_with_its_deltas(
    seed: int, scale: float
) -> None:
    base, shared, *own = draw(seed, 6, 5, count=5)
    deltas = [shared + d for d in own]
    merged = zoo.merge("model_stock", [base + d for d in deltas], base=base) - base
    scaled = zoo.merge("model_stock", [base + scale * d for d in deltas], base=base) - base

    assert close(scaled / scale, merged, 1e-6)


@pytest.mark.parametrize("signs", [(1, -1), (1, 1, -1, -1)])
def test_model_stock_at_its_pole_is_the_base(signs: tuple[int, ...]) -> None:
    base = torch.tensor(2.0)
    experts = [base + 0.3 * sign for sign in signs]

    assert torch.equal(base, zoo.merge("model_stock", experts, base=base))


def test_model_stock_stops_at_the_base_when_told_to() -> None:
    base, experts = torch.zeros(2), [torch.tensor([1.0, 0.1]), torch.tensor([-0.5, 1.0])]
    beyond = zoo.merge("model_stock", experts, base=base)
    stopped = zoo.merge("model_stock", experts, base=base, parameters={"on_negative": "clamp"})

    assert float(beyond @ sum(experts)) < 0
    assert torch.equal(base, stopped)


def test_mergekits_floor_pulls_small_deltas_to_the_base() -> None:
    base, expert = torch.zeros(4), torch.full((4,), 1e-5)
    kept = zoo.merge("model_stock", [expert, expert], base=base)
    pulled = zoo.merge("model_stock", [expert, expert], base=base, parameters={"floor": 1e-6})

    assert close(kept, expert, 1e-9)
    assert pulled.max() < 1e-8
