"""metagpt, lines, awd and pcb, whose statistics see the whole model at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import global_oracle
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo_plugins.awd import redundant
from zoo_plugins.lines import automatic_alpha, scale
from zoo_plugins.pcb import balanced, rescaled

import zoo
from zoo.contract import AGAIN, Chunk
from zoo.errors import IncompatibleModels, InvalidRecipe
from zoo.plugins import load_plugins
from zoo.stages.order import Ranked
from zoo.testing import MethodConformance

METHODS = load_plugins().methods
GOLDEN = Path(__file__).parent / "golden"
QUICK = settings(deadline=None, max_examples=25)
SHAPES = {
    "blocks.0.w": (5, 4),
    "blocks.1.w": (3, 2, 2, 2),
    "blocks.2.w": (11,),
    "embed": (7, 3),
    "none": (0, 3),
    "scale": (),
}
LAYERS = {f"blocks.{i}.w": (i, 3) for i in range(3)}


def family(
    experts: int, seed: int = 0, dtype: torch.dtype = torch.float64, step: float = 0.1
) -> tuple[list[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """Experts near a base, and the base."""
    draw = torch.Generator().manual_seed(seed)
    base = {n: torch.randn(s, generator=draw, dtype=torch.float64) for n, s in SHAPES.items()}
    models = [
        {n: v + step * torch.randn(v.shape, generator=draw, dtype=v.dtype) for n, v in base.items()}
        for _ in range(experts)
    ]
    return [{n: v.to(dtype) for n, v in m.items()} for m in models], {
        n: v.to(dtype) for n, v in base.items()
    }


def merged(method: str, experts: Any, base: Any, **parameters: Any) -> dict[str, torch.Tensor]:
    chunk = parameters.pop("chunk", 1 << 17)
    result: dict[str, torch.Tensor] = zoo.merge(
        METHODS[method], experts, base=base, parameters=parameters, chunk=chunk
    )
    return result


def wide(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.double().numpy() for name, tensor in state.items()}


def close(found: Any, expected: Any, tolerance: float) -> None:
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        there = np.asarray(found[name].double())
        assert there.shape == np.shape(value)
        assert np.allclose(there, value, rtol=0, atol=tolerance), name


# Golden numbers


def golden(method: str) -> list[Any]:
    cases = json.loads((GOLDEN / f"{method}.json").read_text())
    return [pytest.param(c, id=f"{method}-{c['case']}") for c in cases]


def tensors(state: dict[str, Any], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value, dtype=dtype) for name, value in state.items()}


OURS = {"ratio": "density", "then": "merge"}
THEIRS = ("num_blocks", "block_pattern", "optimizer", "multi_task_vector")
"""What the golden cases spell out and the engine finds itself, or has no choice of."""


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize(
    "case", [*golden("metagpt"), *golden("lines"), *golden("awd"), *golden("pcb")]
)
def test_a_method_gives_the_golden_numbers(
    case: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    if isinstance(case["params"].get("multi_task_vector"), dict):
        pytest.skip("the merged vector is given; see the test of lines' formulas")
    given = {OURS.get(k, k): v for k, v in case["params"].items() if k not in THEIRS}
    experts = [tensors(m, dtype) for m in case["models"]]
    result = merged(case["method"], experts, tensors(case["base"], dtype), **given)
    expected = case["expected"]
    if "error" in expected and case["method"] == "metagpt":
        close(result, case["base"], 0)  # the golden file allows the base in place of an error
        return
    if "error" in expected:
        assert all(bool(value.isfinite().all()) for value in result.values())
        return
    tolerance = max(tolerance, case.get("tolerance", 0) if dtype == torch.float32 else 0)
    close(result, expected["merged"], tolerance)


def test_lines_scales_as_the_golden_file_says() -> None:
    for case in json.loads((GOLDEN / "lines.json").read_text()):
        expected, params = case["expected"], case["params"]
        if "scales" not in expected:
            continue
        alpha = expected.get("alpha", params["alpha"])
        for name, factor in expected["scales"].items():
            parts = name.split(".")
            layer = int(parts[1]) if parts[0] == "blocks" else None
            here = Chunk(name, (1,), 0, 1, 0, 1, layer, params["num_blocks"])
            assert scale(alpha, params["beta"], here) == pytest.approx(factor, abs=1e-12)
    other = next(
        c
        for c in json.loads((GOLDEN / "lines.json").read_text())
        if c["case"] == "other_merged_vector"
    )
    taus = [global_oracle.flat(m) for m in other["models"]]
    given = global_oracle.flat(other["params"]["multi_task_vector"])
    found = automatic_alpha(np.abs(sum(taus)).sum(), np.abs(given).sum(), len(taus))
    assert found == pytest.approx(other["expected"]["alpha"], abs=1e-12)


def test_pcb_scores_as_the_golden_file_says() -> None:
    case = next(
        c for c in json.loads((GOLDEN / "pcb.json").read_text()) if "scale" in c["expected"]
    )
    deltas = torch.tensor(np.stack([global_oracle.flat(m) for m in case["models"]]))
    magnitudes = deltas.abs().sort(1).values
    bounds = [(float(row[0]), float(row[10])) for row in magnitudes]
    _, scores = balanced(deltas, bounds, "authors")
    ranked = scores.sort(1).values
    found = rescaled(scores, [(float(row[9]), float(row[11])) for row in ranked])
    expected = np.stack([global_oracle.flat(s) for s in case["expected"]["scale"]])
    assert np.allclose(found.numpy(), expected, rtol=0, atol=1e-9)


# The oracle

CASES: list[tuple[str, dict[str, Any]]] = [
    ("metagpt", {}),
    ("lines", {"beta": 0.4}),
    ("lines", {"beta": 0.4, "alpha": 0.3}),
    ("lines", {"beta": 0.7, "merge": "ties", "density": 0.4}),
    ("awd", {"lr": 0.02, "steps": 40}),
    ("awd", {"steps": 20, "merge": "ties", "density": 0.4, "lambda": 0.5}),
    ("pcb", {"density": 0.25}),
    ("pcb", {"density": 0.1, "clip": 0.05, "lambda": 1.2}),
    ("pcb", {"density": 0.3, "variant": "vision", "clip": 0.01}),
    ("pcb", {"density": 0.3, "variant": "es"}),
    ("pcb", {"density": 0.2, "variant": "paper"}),
    ("pcb", {"density": 1.0}),
]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 2e-5)])
@pytest.mark.parametrize("chunk", [7, 1 << 17])
@pytest.mark.parametrize("method, parameters", CASES)
def test_a_method_gives_what_float64_numpy_gives(
    method: str, parameters: dict[str, Any], chunk: int, dtype: torch.dtype, tolerance: float
) -> None:
    experts, base = family(3, seed=len(str(parameters)), dtype=dtype, step=0.5)
    result = merged(method, experts, base, **parameters, chunk=chunk)
    known = {"lambda_" if k == "lambda" else k: v for k, v in parameters.items()}
    if method == "lines":
        known["layers"] = LAYERS
    expected = getattr(global_oracle, method)([wide(e) for e in experts], wide(base), **known)
    close(result, expected, tolerance)


@QUICK
@given(seed=st.integers(0, 10**6), experts=st.integers(2, 4), variant=st.integers(0, 3))
def test_pcb_gives_what_numpy_gives_where_many_values_tie(
    seed: int, experts: int, variant: int
) -> None:
    rng = np.random.default_rng(seed)
    base = {n: torch.zeros(s, dtype=torch.float64) for n, s in SHAPES.items()}
    models = [
        {n: torch.tensor(rng.integers(-3, 4, s) / 4.0) for n, s in SHAPES.items()}
        for _ in range(experts)
    ]
    parameters = {
        "variant": ["authors", "vision", "es", "paper"][variant],
        "density": float(rng.choice([0.05, 0.3, 0.8])),
    }
    result = merged("pcb", models, base, **parameters, chunk=7)
    expected = global_oracle.pcb([wide(m) for m in models], wide(base), **parameters)
    # Sums that are equal in exact arithmetic may fall to either side of a cut.
    differing = sum(
        int((np.abs(result[n].numpy() - expected[n]) > 1e-9).sum()) for n in sorted(expected)
    )
    assert differing <= (0 if parameters["variant"] == "authors" else 6)


# Order statistics


def ranked(rows: np.ndarray, ranks: list[int], chunk: int) -> tuple[Any, int]:
    """The statistic over the rows as one tensor, and the passes it took."""
    wanted = [lambda i, n, k=k: k for k in ranks]
    statistic = Ranked("k", lambda m, b, c, s: m, wanted, len(rows))
    n = rows.shape[1]
    statistic.elements = n
    count = -(-n // chunk)
    for passes in range(1, 100):
        state = statistic.start("t", (n,), None)
        for i in range(count):
            stop = min(n, (i + 1) * chunk)
            here = Chunk("t", (n,), i * chunk, stop, i, count)
            if statistic.wants(here):
                values = torch.tensor(rows[:, here.start : here.stop])
                statistic.add(state, values, None, here, {})
        found = statistic.finish({"t": state})
        if found is not AGAIN:
            return found, passes
    raise AssertionError("it never ends")


@QUICK
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 400),
    kind=st.sampled_from(["normal", "ties", "equal", "zeros", "sorted", "wild"]),
    wide_floats=st.booleans(),
    chunk=st.sampled_from([1, 13, 64, 500]),
)
def test_the_kth_smallest_is_exact(
    seed: int, n: int, kind: str, wide_floats: bool, chunk: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = {
        "normal": lambda: rng.normal(size=(2, n)),
        "ties": lambda: rng.integers(-2, 3, (2, n)) / 4,
        "equal": lambda: np.full((2, n), 0.7),
        "zeros": lambda: np.where(rng.random((2, n)) < 0.9, 0, rng.normal(size=(2, n))),
        "sorted": lambda: np.sort(rng.normal(size=(2, n)), axis=1),
        "wild": lambda: rng.normal(size=(2, n)) * 10.0 ** rng.integers(-30, 30, (2, n)),
    }[kind]()
    rows = rows.astype(np.float64 if wide_floats else np.float32)
    ranks = sorted({0, n - 1, int(rng.integers(n)), n // 2})
    # Samples and histograms of the size of this test, so that no path is left out.
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("SAMPLE", 20), ("FLUSH", 30), ("BIN_BITS", 4)):
            patch.setattr(f"zoo.stages.order._{name}", value)
        found = ranked(rows, ranks, chunk)[0]
    expected = np.sort(rows, axis=1)
    for row, values in zip(expected, found, strict=True):
        assert [float(row[k]) for k in ranks] == list(values)


def test_two_passes_find_the_ranks_of_a_normal_vector() -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(2, 1 << 21)).astype(np.float32)
    ranks = [209, len(rows[0]) // 2, len(rows[0]) - 210]
    found, passes = ranked(rows, ranks, 1 << 17)
    assert [tuple(np.sort(r)[ranks].astype(float)) for r in rows] == found
    assert passes == 2  # the first of them sampled


# Properties


@QUICK
@given(seed=st.integers(0, 10**6), experts=st.integers(1, 4), factor=st.floats(0.01, 100))
def test_metagpt_is_a_mean_that_the_size_of_the_deltas_does_not_change(
    seed: int, experts: int, factor: float
) -> None:
    models, base = family(experts, seed)
    far = [{n: base[n] + factor * (m[n] - base[n]) for n in base} for m in models]
    near, away = merged("metagpt", models, base), merged("metagpt", far, base)
    for name in base:
        delta = (away[name] - base[name]) / factor
        assert torch.allclose(delta, near[name] - base[name], atol=1e-9)
        stack = torch.stack([m[name] for m in models])
        assert bool((near[name] <= stack.amax(0) + 1e-9).all())
        assert bool((near[name] >= stack.amin(0) - 1e-9).all())


@QUICK
@given(seed=st.integers(0, 10**6), alpha=st.floats(-1, 2), beta=st.floats(-1, 2))
def test_lines_is_linear_in_alpha_and_beta(seed: int, alpha: float, beta: float) -> None:
    models, base = family(2, seed)
    whole = merged("lines", models, base, alpha=alpha, beta=beta)
    one = merged("lines", models, base, alpha=1.0, beta=0.0)
    ramp = merged("lines", models, base, alpha=0.0, beta=1.0)
    for name in base:
        expected = base[name] + alpha * (one[name] - base[name]) + beta * (ramp[name] - base[name])
        assert torch.allclose(whole[name], expected, atol=1e-9)


@QUICK
@given(seed=st.integers(0, 10**6), experts=st.integers(2, 4))
def test_awd_keeps_differences_and_lowers_the_cosines(seed: int, experts: int) -> None:
    models, base = family(experts, seed, step=0.3)
    d = global_oracle.deltas([wide(m) for m in models], wide(base))
    coefficients = np.array(redundant(d @ d.T, alpha=0.0, lr=0.002, steps=100))
    v = d - coefficients @ d

    def cosines(x: np.ndarray) -> float:
        unit = x / np.linalg.norm(x, axis=1)[:, None]
        inner = np.abs(unit @ unit.T)
        return float((inner.sum() - len(x)) / len(x) / (len(x) - 1))

    assert cosines(v) <= cosines(d) + 1e-4
    assert np.allclose(v[0] - v[1], d[0] - d[1])


def test_awd_measured_by_the_deltas_does_not_depend_on_their_size() -> None:
    models, base = family(3, 5)
    d = global_oracle.deltas([wide(m) for m in models], wide(base))
    near = redundant(d @ d.T, alpha=0.1, lr=0.05, steps=50, relative=True)
    far = redundant(1e6 * d @ d.T, alpha=0.1, lr=0.05, steps=50, relative=True)
    assert near == pytest.approx(far)
    assert any(near)


@QUICK
@given(seed=st.integers(0, 10**6), variant=st.sampled_from(["authors", "vision", "es", "paper"]))
def test_pcb_stays_between_the_deltas_it_competes_for(seed: int, variant: str) -> None:
    models, base = family(3, seed, step=1.0)
    result = merged("pcb", models, base, density=0.3, variant=variant)
    for name in base:
        largest = torch.stack([(m[name] - base[name]).abs() for m in models]).amax(0)
        # The scripts clip the smallest magnitudes up to a bound, which here is the smallest.
        assert bool(((result[name] - base[name]).abs() <= largest + 1e-9).all())


def test_pcb_on_paper_scales_with_the_deltas() -> None:
    models, base = family(3, 4)
    far = [{n: base[n] + 8 * (m[n] - base[n]) for n in base} for m in models]
    near = merged("pcb", models, base, variant="paper")
    away = merged("pcb", far, base, variant="paper")
    for name in base:
        assert torch.allclose(away[name] - base[name], 8 * (near[name] - base[name]), atol=1e-9)


# Edges


@pytest.mark.parametrize("method", ["metagpt", "lines", "awd"])
def test_one_expert_at_full_strength_comes_back_bit_for_bit(method: str) -> None:
    (expert,), base = family(1, dtype=torch.float32)
    parameters = {"alpha": 1.0, "beta": 0.0} if method == "lines" else {}
    result = merged(method, [expert], base, **parameters)
    assert all(torch.equal(result[n], expert[n]) for n in expert)


@pytest.mark.parametrize(
    "method, parameters",
    [
        ("lines", {"alpha": 0.0, "beta": 0.0}),
        ("lines", {"beta": 0.5, "weight": 0.0}),
        ("lines", {"beta": 0.5, "merge": "ties", "density": 0.0}),
        ("awd", {"lambda": 0.0}),
        ("pcb", {"lambda": 0.0}),
        ("pcb", {"density": 0.0}),
    ],
)
def test_nothing_added_is_the_base_bit_for_bit(method: str, parameters: dict[str, Any]) -> None:
    models, base = family(2, dtype=torch.float32)
    result = merged(method, models, base, **parameters)
    assert all(torch.equal(result[n], base[n]) for n in base)


@pytest.mark.parametrize(
    "method, parameters",
    [
        ("metagpt", {}),
        ("lines", {"beta": 0.5}),
        ("lines", {"beta": 0.5, "merge": "ties"}),
        ("awd", {"relative": True}),
        ("awd", {"merge": "ties", "relative": True}),
        *[("pcb", {"variant": v}) for v in ("authors", "vision", "es", "paper")],
    ],
)
@pytest.mark.parametrize("kind", ["all zero", "one zero", "identical"])
def test_zero_and_equal_deltas_have_a_finite_answer(
    method: str, parameters: dict[str, Any], kind: str
) -> None:
    models, base = family(3)
    if kind == "all zero":
        models = [dict(base) for _ in models]
    elif kind == "one zero":
        models[1] = dict(base)
    else:
        models = [models[0]] * 3
    result = merged(method, models, base, **parameters)
    for name in base:
        assert bool(result[name].isfinite().all())
        if kind == "all zero":
            assert torch.equal(result[name], base[name])
        if kind == "identical" and method == "metagpt":
            assert torch.allclose(result[name], models[0][name], atol=1e-12)


@pytest.mark.parametrize("variant", ["authors", "vision", "es", "paper"])
def test_an_expert_that_is_the_base_does_not_compete(variant: str) -> None:
    models, base = family(2, step=1.0)
    with_base = merged("pcb", [*models, dict(base)], base, variant=variant, density=0.4)
    zero = global_oracle.pcb(
        [wide(m) for m in [*models, base]], wide(base), variant=variant, density=0.4
    )
    close(with_base, zero, 1e-9)


def test_pcb_asks_for_two_experts() -> None:
    models, base = family(1)
    with pytest.raises(IncompatibleModels, match="2 or more"):
        merged("pcb", models, base)


def test_many_experts_do_not_overflow_the_scores() -> None:
    draw = torch.Generator().manual_seed(1)
    base = {"w": torch.zeros(50)}
    models = [{"w": torch.randn(50, generator=draw)} for _ in range(120)]
    result = merged("pcb", models, base, density=0.2)["w"]
    assert bool(result.isfinite().all())
    assert bool(result.any())


def test_awd_refuses_steps_too_long_for_the_deltas() -> None:
    models, base = family(3, step=1e-5)
    with pytest.raises(InvalidRecipe, match="relative: true"):
        merged("awd", models, base, lr=1.0)
    merged("awd", models, base, relative=True)


def test_a_negative_step_is_refused() -> None:
    models, base = family(2)
    with pytest.raises(InvalidRecipe, match="lr"):
        merged("awd", models, base, lr=-1.0)


def test_each_stack_of_layers_has_its_own_ramp() -> None:
    names = ["encoder.layers.0.w", "encoder.layers.1.w", "decoder.layers.0.w"]
    base = {n: torch.zeros(2) for n in [*names, "decoder.layers.4.w", "final.w"]}
    expert = {n: torch.ones(2) for n in base}
    result = merged("lines", [expert], base, alpha=0.0, beta=1.0)
    assert {n: float(v[0]) for n, v in result.items()} == {
        "encoder.layers.0.w": 0.0,
        "encoder.layers.1.w": 1.0,
        "decoder.layers.0.w": 0.0,
        "decoder.layers.4.w": 1.0,
        "final.w": 0.0,
    }


class TestMetagpt(MethodConformance):
    method = METHODS["metagpt"]


class TestLines(MethodConformance):
    method = METHODS["lines"]


class TestLinesOnTies(MethodConformance):
    method = METHODS["lines"]
    parameters = {"beta": 0.3, "merge": "ties"}


class TestAwd(MethodConformance):
    method = METHODS["awd"]


class TestAwdThenTies(MethodConformance):
    method = METHODS["awd"]
    parameters = {"merge": "ties", "relative": True}


class TestPcb(MethodConformance):
    method = METHODS["pcb"]


class TestPcbOnPaper(MethodConformance):
    method = METHODS["pcb"]
    parameters = {"variant": "paper"}
