"""Averages and interpolations give the specified numbers, and those of a plain oracle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import averages_oracle
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import zoo
from zoo.errors import IncompatibleModels
from zoo.plugins import load_plugins
from zoo.testing import MethodConformance

HERE = Path(__file__).parent / "golden"
METHODS = load_plugins().methods
NAMES = (
    "arcee_fusion",
    "bang",
    "karcher",
    "magmax",
    "model_soups",
    "model_stock",
    "multislerp",
    "nearswap",
    "nuslerp",
    "ram",
    "sparse_soups",
    "wise_ft",
)
ENGINE = {"model_soups": "uniform_soup", "sparse_soups": "sparse_soup"}
"""Golden file -> method, where their names differ."""
OTHERS = {
    ("model_soups", "greedy"): "greedy soups score models on data",
    ("model_soups", "learned"): "learned soups train on data",
    ("sparse_soups", "mask_enforced"): "masks are read off zeros, not given beside the weights",
    ("sparse_soups", "prune_step"): "pruning is a step of training",
}
"""What another feature covers: golden file and start of the case's name -> why."""
ROUNDING = {"multislerp": 1e-8}
"""Golden numbers made with eps added to the norms, which ours are not: that far off."""
NO_PARAMETER = {"kind", "masks", "tie"}
"""What golden files say besides the parameters: there is one choice of it here."""


def cases() -> list[Any]:
    found = []
    for file in NAMES:
        for case in json.loads((HERE / f"{file}.json").read_text()):
            name = f"{file}-{case['case']}"
            why = [w for (f, start), w in OTHERS.items() if name.startswith(f"{f}-{start}")]
            if case.get("tolerance") == "skip":
                why.append("rounding decides: " + case["note"])
            found.append(pytest.param(case, id=name, marks=[pytest.mark.skip(w) for w in why]))
    return found


def parameters(case: dict[str, Any]) -> dict[str, Any]:
    """Golden parameters by the names they have here."""
    asked = {k: v for k, v in case["params"].items() if v is not None and k not in NO_PARAMETER}
    if "weights" in asked:
        asked["weight"] = asked.pop("weights")
    if asked.pop("flatten", False):
        asked["vectors"] = "flat"
    if not 0 <= asked.get("alpha", 0) <= 1:
        asked["allow_extrapolation"] = True
    return asked


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("case", cases())
def test_an_average_gives_the_golden_numbers(
    case: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    experts = [{n: torch.tensor(v, dtype=dtype) for n, v in m.items()} for m in case["models"]]
    base = case["base"] and {n: torch.tensor(v, dtype=dtype) for n, v in case["base"].items()}
    method = ENGINE.get(case["method"], case["method"])

    def run() -> Any:
        return zoo.merge(method, experts, base=base or None, parameters=parameters(case))

    expected = case["expected"]
    if "error" in expected:
        with pytest.raises(IncompatibleModels):
            run()
        return
    merged = run()
    for name, values in expected.get("merged", expected).items():
        if name in merged:
            allowed = max(tolerance, case.get("tolerance", 0), ROUNDING.get(method, 0))

            assert np.abs(merged[name].double().numpy() - np.array(values)).max() <= allowed
    assert set(merged) <= set(expected.get("merged", expected))


SHAPES = [(), (0,), (0, 3), (1,), (5,), (3, 4), (2, 3, 2), (4, 3, 3, 2), (40,)]
PARAMETERS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "arcee_fusion": st.fixed_dictionaries({"iqr_factor": st.sampled_from([0.0, 0.5, 1.5])}),
    "bang": st.fixed_dictionaries({"alpha": st.floats(0, 1)}),
    "karcher": st.fixed_dictionaries(
        {"max_iter": st.sampled_from([0, 1, 10]), "tol": st.sampled_from([1e-9, 1e-5])}
    ),
    "magmax": st.fixed_dictionaries({"lambda": st.floats(-2, 2)}),
    "model_stock": st.fixed_dictionaries(
        {
            "scope": st.sampled_from(["tensor", "row"]),
            "angle": st.sampled_from(["mean_cosine", "mean_angle"]),
            "on_negative": st.sampled_from(["keep", "clamp"]),
            "floor": st.sampled_from([0.0, 1e-6, 2.0]),
        }
    ),
    "multislerp": st.fixed_dictionaries(
        {"normalize_weights": st.booleans(), "log_map": st.booleans()}
    ),
    "nearswap": st.fixed_dictionaries({"t": st.sampled_from([0.0, 1e-7, 1e-3, 0.25, 9.0])}),
    "nuslerp": st.fixed_dictionaries({"vectors": st.sampled_from(["flat", "rows", "columns"])}),
    "ram": st.fixed_dictionaries(
        {
            "epsilon": st.sampled_from([0.0, 1e-5, 0.3]),
            "variant": st.sampled_from(["ram", "ram_plus"]),
            "scope": st.sampled_from(["global", "tensor"]),
            "r": st.sampled_from([0.1, 1.0]),
            "alpha": st.sampled_from([0.2, 3.0]),
        }
    ),
    "sparse_soup": st.just({"allow_union": True}),
    "uniform_soup": st.just({}),
    "wise_ft": st.fixed_dictionaries(
        {"alpha": st.floats(-1, 2), "allow_extrapolation": st.just(True)}
    ),
}
WEIGHTED = {"karcher", "multislerp", "nuslerp", "sparse_soup"}


@st.composite
def merges(draw: st.DrawFn, name: str) -> Any:
    """(experts, base, parameters): float64 or float32 models, some of their tensors unchanged."""
    method = METHODS[name]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3))
    count = draw(st.integers(method.min_experts, method.max_experts or 4))
    dtype = draw(st.sampled_from([torch.float64, torch.float32]))
    step = draw(st.sampled_from([0.0, 1e-2, 1.0, 100.0]))
    zeros = draw(st.sampled_from([0.0, 0.6]))

    def numbers(shape: tuple[int, ...], scale: float) -> Any:
        values = np.where(rng.random(shape) < zeros, 0.0, scale * rng.standard_normal(shape))
        return torch.tensor(values, dtype=dtype)

    base = {f"{'cab'[i]}.weight": numbers(shape, 1.0) for i, shape in enumerate(shapes)}
    experts = [
        {n: t + numbers(tuple(t.shape), step) for n, t in base.items()} for _ in range(count)
    ]
    given = draw(PARAMETERS[name])
    if name in WEIGHTED:
        given = given | {"weight": [draw(st.sampled_from([0.25, 1.0, 3.0])) for _ in range(count)]}
    with_base = method.base == "required" or (method.takes_base and draw(st.booleans()))
    return experts, base if with_base else None, given


@pytest.mark.parametrize("name", sorted(PARAMETERS))
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_an_average_gives_what_the_oracle_gives(name: str, data: st.DataObject) -> None:
    experts, base, given = data.draw(merges(name))
    chunk = data.draw(st.sampled_from([7, 64, 1 << 17]))

    def run() -> Any:
        return zoo.merge(name, experts, base=base, parameters=given, chunk=chunk)

    wide = [{n: t.double().numpy() for n, t in e.items()} for e in experts]
    origin = base and {n: t.double().numpy() for n, t in base.items()}
    public = {k if k != "lambda" else "lambda_": v for k, v in given.items()}
    try:
        if name == "ram":
            expected = averages_oracle.ram(wide, origin, **public)
        else:
            rule = getattr(averages_oracle, name)
            expected = averages_oracle.by_tensor(rule, wide, origin, **public)
    except averages_oracle.NoMeanError:
        with pytest.raises(IncompatibleModels, match="cancel out"):
            run()
        return
    sizes = {t: max(float(np.abs(e[t]).max(initial=0)) for e in wide) for t in expected}
    # Near a pole, as of model_stock's ratio, the last bits of the inputs are magnified.
    assume(all(np.abs(v).max(initial=0) <= 4 * sizes[t] + 4 for t, v in expected.items()))
    for tensor, value in run().items():
        exact = 1e-5 if name == "nuslerp" else 1e-9  # short vectors can be nearly opposite
        allowed = (exact if value.dtype == torch.float64 else 1e-4) * max(sizes[tensor], 1e-30)
        off = np.abs(value.double().numpy() - expected[tensor]) > allowed

        assert not off.any(), (tensor, value, expected[tensor])


class TestNuslerp(MethodConformance):
    method = METHODS["nuslerp"]


class TestNuslerpByRows(MethodConformance):
    method = METHODS["nuslerp"]
    parameters = {"weight": 1.0, "vectors": "rows"}


class TestNuslerpByColumns(MethodConformance):
    method = METHODS["nuslerp"]
    parameters = {"weight": 1.0, "vectors": "columns"}


class TestMultislerp(MethodConformance):
    method = METHODS["multislerp"]


class TestMultislerpWithTheLogMap(MethodConformance):
    method = METHODS["multislerp"]
    parameters = {"weight": 1.0, "log_map": True}


class TestKarcher(MethodConformance):
    method = METHODS["karcher"]


class TestWiseFt(MethodConformance):
    method = METHODS["wise_ft"]


class TestBang(MethodConformance):
    method = METHODS["bang"]


class TestModelStock(MethodConformance):
    method = METHODS["model_stock"]


class TestModelStockByRows(MethodConformance):
    method = METHODS["model_stock"]
    parameters = {"scope": "row", "angle": "mean_angle", "on_negative": "clamp"}


class TestUniformSoup(MethodConformance):
    method = METHODS["uniform_soup"]


class TestSparseSoup(MethodConformance):
    method = METHODS["sparse_soup"]


class TestArceeFusion(MethodConformance):
    method = METHODS["arcee_fusion"]


class TestNearswap(MethodConformance):
    method = METHODS["nearswap"]


class TestRam(MethodConformance):
    method = METHODS["ram"]


class TestRamPlus(MethodConformance):
    method = METHODS["ram"]
    parameters = {"variant": "ram_plus"}


class TestMagmax(MethodConformance):
    method = METHODS["magmax"]
