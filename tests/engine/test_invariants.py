"""What the papers promise of the methods, and the trivial cases bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from small_models import State, family, same_bytes

from zoo import merge
from zoo.plugins import load_plugins

METHODS = load_plugins().methods
QUICK = settings(deadline=None, max_examples=25)
SEEDS = st.integers(0, 2**31)


def run(
    method: str, experts: list[State], base: State | None = None, dtype: str | None = None, **p: Any
) -> State:
    parameters = {("lambda" if k == "lambda_" else k): v for k, v in p.items()}
    return merge(METHODS[method], experts, base=base, parameters=parameters, dtype=dtype)


def floats(state: State) -> State:
    return {n: t for n, t in state.items() if t.is_floating_point()}


def near(a: State, b: State, tolerance: float = 1e-5) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance)


def mapped(state: State, change: Any) -> State:
    return {n: change(t) if t.is_floating_point() else t for n, t in state.items()}


def combined(a: State, b: State, change: Any) -> State:
    return {n: change(t, b[n]) if t.is_floating_point() else t for n, t in a.items()}


# Trivial cases, bit for bit

WHOLE = ["linear", "task_arithmetic", "ties"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_a_scale_of_zero_gives_the_base(method: str, dtype: torch.dtype) -> None:
    base, *experts = family(3, dtype)

    assert same_bytes(base, run(method, experts, base, lambda_=0.0))
    assert same_bytes(base, run(method, experts, base, weight=0.0))


def test_a_density_of_zero_gives_the_base() -> None:
    base, *experts = family(3, torch.bfloat16)

    assert same_bytes(base, run("ties", experts, base, density=0.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_one_expert_with_coefficient_one_gives_that_expert(dtype: torch.dtype) -> None:
    base, expert, other = family(2, dtype)
    expected = {**expert, "norm.num_batches_tracked": base["norm.num_batches_tracked"]}

    assert same_bytes(expert, run("linear", [expert]))
    assert same_bytes(expert, run("linear", [expert], weight=-3.0))
    assert same_bytes(expected, run("linear", [other, expert], base, weight=[0.0, 0.7]))
    assert same_bytes(expected, run("task_arithmetic", [expert], base))
    assert same_bytes(expected, run("task_arithmetic", [other, expert], base, weight=[0.0, 1.0]))
    assert same_bytes(expected, run("task_arithmetic", [expert], base, weight=0.25, normalize=True))
    assert same_bytes(expected, run("ties", [expert], base, density=1.0))
    assert same_bytes(expected, run("ties", [expert], base, density=1.0, merge="sum"))


def test_the_ends_of_slerp_are_its_inputs() -> None:
    _, a, b = family(2, torch.bfloat16)
    counter = "norm.num_batches_tracked"

    assert same_bytes(a, run("slerp", [a, b], t=0.0))
    assert same_bytes({**b, counter: a[counter]}, run("slerp", [a, b], t=1.0))


def test_signed_zeros_and_subnormals_survive_the_trivial_cases() -> None:
    odd = {"w": torch.tensor([-0.0, 0.0, 1e-45, -1e-45, 3.4e38])}
    other = {"w": torch.ones(5)}

    assert same_bytes(odd, run("linear", [odd, other], weight=[1.0, 0.0]))
    assert same_bytes(odd, run("task_arithmetic", [other], odd, lambda_=0.0))
    assert same_bytes(odd, run("ties", [odd], other, density=1.0))
    assert same_bytes(odd, run("slerp", [other, odd], t=1.0))


@pytest.mark.parametrize("n", range(1, 10))
def test_the_mean_of_copies_is_the_copy(n: int) -> None:
    model = family(0)[0]

    merged = run("linear", [model] * n)

    assert same_bytes(model, merged) or n not in (1, 2, 4)
    near(model, merged, 1e-6)


def test_experts_equal_to_the_base_give_the_base() -> None:
    base = family(0)[0]

    for method in ("task_arithmetic", "ties"):
        near(base, run(method, [base] * 3, base, weight=[0.3, 1.0, -2.0]), 0)
    near(base, run("slerp", [base, base], t=0.37), 1e-6)


def test_identical_experts_at_full_density_give_that_expert() -> None:
    base, expert = family(1)

    for merging in ("mean", "max"):
        near(
            floats(expert),
            floats(run("ties", [expert] * 3, base, density=1.0, merge=merging)),
            1e-6,
        )


# Order


@QUICK
@given(SEEDS, st.permutations(range(3)))
def test_the_order_of_experts_does_not_matter(seed: int, order: list[int]) -> None:
    base, *experts = family(3, seed=seed)
    weight = [0.2, 1.3, -0.4]
    turned = [experts[i] for i in order]
    turned_weight = [weight[i] for i in order]

    for method in WHOLE:
        forth = floats(run(method, experts, base, weight=weight))
        near(forth, floats(run(method, turned, base, weight=turned_weight)))


# Linear


@QUICK
@given(SEEDS, st.floats(0.1, 10) | st.floats(-10, -0.1), st.floats(-3, 3))
def test_the_normalized_mean_commutes_with_affine_maps(seed: int, a: float, b: float) -> None:
    experts = [floats(m) for m in family(2, torch.float64, seed)]
    del_var = [{n: t for n, t in m.items() if n != "norm.running_var"} for m in experts]
    weight = [0.5, 1.5, 0.25]

    expected = mapped(run("linear", del_var, weight=weight), lambda t: a * t + b)

    moved = [mapped(m, lambda t: a * t + b) for m in del_var]
    near(expected, run("linear", moved, weight=weight), 1e-10)


@QUICK
@given(SEEDS, st.floats(0.01, 100) | st.floats(-100, -0.01))
def test_only_the_ratio_of_normalized_weights_matters(seed: int, scale: float) -> None:
    experts = family(2, seed=seed)
    weight = [0.3, 0.5, 1.0]

    near(
        run("linear", experts, weight=weight),
        run("linear", experts, weight=[w * scale for w in weight]),
    )


@QUICK
@given(SEEDS, st.lists(st.floats(0, 5), min_size=3, max_size=3))
def test_a_mean_lies_between_its_inputs(seed: int, weight: list[float]) -> None:
    assume(sum(weight) > 0.01)
    experts = family(2, seed=seed)

    merged = run("linear", experts, weight=weight)

    for name, value in floats(merged).items():
        stack = torch.stack([e[name] for e in experts])
        slack = 1e-5
        assert (value >= stack.amin(0) - slack).all() and (value <= stack.amax(0) + slack).all()


@QUICK
@given(SEEDS)
def test_linear_with_weights_of_sum_one_is_task_arithmetic_on_any_base(seed: int) -> None:
    base, *experts = family(3, seed=seed)
    weight = [0.2, 0.5, 0.3]

    near(
        floats(run("linear", experts, weight=weight)),
        floats(run("task_arithmetic", experts, base, weight=weight)),
    )


# Slerp


@QUICK
@given(SEEDS, st.floats(0, 1))
def test_slerp_is_symmetric(seed: int, t: float) -> None:
    _, a, b = (floats(m) for m in family(2, seed=seed))

    near(run("slerp", [a, b], t=t), run("slerp", [b, a], t=1 - t), 2e-5)


@QUICK
@given(SEEDS, st.floats(0, 1), st.floats(0.01, 100))
def test_slerp_commutes_with_scaling(seed: int, t: float, scale: float) -> None:
    a = {"w": torch.randn(50, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)}
    b = {"w": torch.randn(50, generator=torch.Generator().manual_seed(seed + 1)).double()}

    expected = mapped(run("slerp", [a, b], t=t), lambda x: x * scale)

    scaled = [mapped(m, lambda x: x * scale) for m in (a, b)]
    near(expected, run("slerp", scaled, t=t), 1e-9)


@QUICK
@given(SEEDS, st.floats(0, 1))
def test_slerp_keeps_a_common_norm(seed: int, t: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(40, generator=generator, dtype=torch.float64) for _ in range(2))
    b *= a.norm() / b.norm()

    merged = run("slerp", [{"w": a}, {"w": b}], t=t)["w"]

    torch.testing.assert_close(a.norm(), merged.norm())


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_slerp_without_a_fallback_survives_colinear_tensors(sign: float) -> None:
    """With dot_threshold=1 nothing is a line, and the arc of parallel vectors has no length."""
    a = {"w": torch.tensor([0.6, 0.8, 0.0])}
    b = {"w": sign * a["w"]}

    merged = run("slerp", [a, b], t=0.25, dot_threshold=1.0)

    expected = a["w"] * (0.75 + 0.25 * sign)
    torch.testing.assert_close(merged["w"], expected)


# Task arithmetic


@QUICK
@given(SEEDS, st.floats(-2, 2), st.floats(-2, 2))
def test_scales_of_task_arithmetic_add_up(seed: int, first: float, second: float) -> None:
    base, expert = (floats(m) for m in family(1, torch.float64, seed))
    del base["norm.running_var"], expert["norm.running_var"]
    once = run("task_arithmetic", [expert], base, lambda_=first)
    moved = combined(combined(expert, base, torch.sub), once, torch.add)

    near(
        run("task_arithmetic", [expert], base, lambda_=first + second),
        run("task_arithmetic", [moved], once, lambda_=second),
        1e-12,
    )


@QUICK
@given(SEEDS)
def test_a_scale_of_one_over_n_is_the_mean(seed: int) -> None:
    base, *experts = family(4, seed=seed)

    near(
        floats(run("task_arithmetic", experts, base, lambda_=0.25)),
        floats(run("linear", experts)),
    )


def test_an_analogy_is_a_sum_with_a_negative_weight() -> None:
    base, a, b, c = family(3, torch.float64)

    merged = run("task_arithmetic", [a, b, c], base, weight=[-1.0, 1.0, 1.0])

    for name, value in floats(merged).items():
        expected = c[name] + b[name] - a[name]
        if name.endswith("running_var"):
            expected = expected.clamp_min(0)
        torch.testing.assert_close(value, expected)


def test_a_variance_never_becomes_negative() -> None:
    base = {"norm.running_var": torch.tensor([1.0, 2.0])}
    expert = {"norm.running_var": torch.tensor([3.0, 2.5])}

    merged = run("task_arithmetic", [expert], base, lambda_=-1.0)

    assert [0.0, 1.5] == merged["norm.running_var"].tolist()


# Ties


@QUICK
@given(SEEDS, st.sampled_from([0.125, 0.5, 2.0, 8.0]))
def test_ties_commutes_with_positive_scaling(seed: int, scale: float) -> None:
    zero, *deltas = grid(3, seed)

    expected = mapped(run("ties", deltas, zero, density=0.4), lambda t: t * scale)

    scaled = [mapped(d, lambda t: t * scale) for d in deltas]
    near(expected, run("ties", scaled, zero, density=0.4), 1e-6)


@QUICK
@given(SEEDS, st.sampled_from([0.1, 0.4, 1.0]), st.sampled_from(["mean", "sum", "max"]))
def test_ties_keeps_few_entries_between_zero_and_the_extreme(
    seed: int, density: float, how: str
) -> None:
    zero, *deltas = grid(3, seed)
    elements = sum(t.numel() for t in zero.values())

    merged = run("ties", deltas, zero, density=density, merge=how)

    kept = sum(int((t != 0).sum()) for t in merged.values())
    assert kept <= 3 * int(density * elements)
    for name, value in merged.items():
        stack = torch.stack([d[name] for d in deltas])
        top = stack.clamp_min(0).sum(0) if how == "sum" else stack.clamp_min(0).amax(0)
        bottom = stack.clamp_max(0).sum(0) if how == "sum" else stack.clamp_max(0).amin(0)
        assert (value <= top + 1e-6).all() and (value >= bottom - 1e-6).all()


@QUICK
@given(SEEDS)
def test_ties_without_trim_or_conflict_is_the_mean_or_task_arithmetic(seed: int) -> None:
    zero, *deltas = grid(3, seed)
    agreeing = [mapped(d, torch.abs) for d in deltas]
    # An entry that is zero somewhere is not counted there, so the mean is of the others.
    filled = [mapped(d, lambda t: t + 0.25) for d in agreeing]

    near(run("linear", filled), run("ties", filled, zero, density=1.0))
    near(
        run("task_arithmetic", agreeing, zero),
        run("ties", agreeing, zero, density=1.0, merge="sum"),
    )


@QUICK
@given(SEEDS)
def test_tensors_are_independent_in_tensor_scope_only(seed: int) -> None:
    zero, *deltas = grid(2, seed)
    assume(bool(deltas[0]["b"].any()))
    louder = [{**d, "a": d["a"] * 64} for d in deltas]
    options = {"density": 0.3, "scope": "tensor", "zero_sign": "positive"}

    alone = run("ties", deltas, zero, **options)["b"]

    assert torch.equal(alone, run("ties", louder, zero, **options)["b"])


def test_in_global_scope_a_loud_tensor_takes_the_places_of_a_quiet_one() -> None:
    zero = {"loud": torch.zeros(10), "quiet": torch.zeros(10)}
    delta = {"loud": torch.full((10,), 5.0), "quiet": torch.full((10,), 1.0)}

    everywhere = run("ties", [delta], zero, density=0.5)
    each = run("ties", [delta], zero, density=0.5, scope="tensor", zero_sign="positive")

    assert [5.0] * 10 == everywhere["loud"].tolist() and not everywhere["quiet"].any()
    assert [1.0] * 5 + [0.0] * 5 == each["quiet"].tolist()


def grid(experts: int, seed: int) -> list[State]:
    """A base of zeros and deltas whose values tie often."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (5, 4), "b": (13,), "c": ()}
    zero = {n: torch.zeros(s) for n, s in shapes.items()}
    return [
        zero,
        *(
            {n: torch.randint(-8, 9, s, generator=generator) / 8 for n, s in shapes.items()}
            for _ in range(experts)
        ),
    ]


# What does not merge


def test_integers_come_from_the_base_or_the_first_expert() -> None:
    base, a, b = family(2)

    assert 10 == run("linear", [a, b], base)["norm.num_batches_tracked"]
    assert 11 == run("linear", [a, b])["norm.num_batches_tracked"]
    assert 12 == run("slerp", [b, a], t=0.5)["norm.num_batches_tracked"]
    assert 10 == run("ties", [a, b], base)["norm.num_batches_tracked"]


def test_integers_and_bools_of_any_width_are_carried_and_do_not_count_for_ties() -> None:
    extra = {
        "flags": torch.tensor([True, False] * 30),
        "i8": torch.arange(100, dtype=torch.int8),
        "i64": torch.arange(100) * 2**40,
        "u8": torch.arange(100, dtype=torch.uint8),
    }
    base = {"w": torch.zeros(10), **extra}
    expert = {"w": torch.arange(1.0, 11.0), **{n: t.clone() for n, t in extra.items()}}

    merged = run("ties", [expert], base, density=0.2)

    assert same_bytes(extra, {n: merged[n] for n in extra})
    assert [0.0] * 8 + [9.0, 10.0] == merged["w"].tolist()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_the_result_has_the_type_that_is_asked_for(dtype: str) -> None:
    base, *experts = family(2, torch.bfloat16)
    wanted = getattr(torch, dtype)

    merged = run("task_arithmetic", experts, base, dtype=dtype, lambda_=0.5)

    assert {wanted} == {t.dtype for t in floats(merged).values()}
    assert {torch.int64} == {t.dtype for n, t in merged.items() if n not in floats(merged)}
    for name, value in floats(merged).items():
        b, x, y = (m[name].float() for m in (base, *experts))
        torch.testing.assert_close(value, (b + (0.5 * (x - b) + 0.5 * (y - b))).to(wanted))


def test_a_merge_is_computed_in_float32_and_rounded_once() -> None:
    """1 + 2^-8 is a tie in bfloat16, and 1 + 2^-8 + 2^-20 is above it."""
    ones = {"w": torch.ones(1, dtype=torch.bfloat16)}
    more = {"w": torch.tensor([2.0**-8], dtype=torch.bfloat16)}
    bit = {"w": torch.tensor([2.0**-20], dtype=torch.bfloat16)}

    merged = run("linear", [ones, more, bit], normalize=False)

    assert 1 + 2.0**-7 == merged["w"].item()
