"""The methods give what float64 numpy gives, over shapes, types, ties and parameters."""

from __future__ import annotations

from typing import Any

import merge_oracle
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import zoo
from zoo.contract import CHUNK
from zoo.plugins import load_plugins

METHODS = load_plugins().methods
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHAPES = [(), (0,), (0, 3), (1,), (5,), (3, 4), (2, 3, 2), (17,), (40,)]
RELATIVE = {torch.float64: 2.0**-50, torch.float32: 2.0**-22, torch.bfloat16: 2.0**-8}
RELATIVE[torch.float16] = 2.0**-10

QUICK = settings(max_examples=80)


@st.composite
def models(draw: st.DrawFn, experts: st.SearchStrategy[int], coarse: bool) -> Any:
    """(experts, base), values on a grid that every float type holds exactly.

    Sums, products with dyadic weights and comparisons of such values are exact in float32, so
    ties and cancellations are the same ones in the oracle. `coarse` makes nearly all entries tie.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=4))
    count = draw(experts)
    top = draw(st.sampled_from([1, 2, 8] if coarse else [8, 60]))
    mixed = draw(st.booleans())
    dtype = draw(st.sampled_from(DTYPES))
    zeros = draw(st.sampled_from([0.0, 0.5]))

    def model() -> dict[str, torch.Tensor]:
        state = {}
        for i, shape in enumerate(shapes):
            values = rng.integers(-top, top + 1, shape) / 16
            values = np.where(rng.random(shape) < zeros, 0.0, values)
            kept = DTYPES[rng.integers(len(DTYPES))] if mixed else dtype
            # Names whose string order differs from the order they are made in.
            state[f"{'cabd'[i]}.weight"] = torch.tensor(values, dtype=torch.float64).to(kept)
        return state

    return [model() for _ in range(count)], model()


def wide(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: state[name].double().numpy() for name in sorted(state)}


def check(name: str, experts: Any, base: Any, parameters: dict[str, Any], **engine: Any) -> None:
    """Merge with zoo and with the oracle, and compare entry by entry."""
    merged = zoo.merge(METHODS[name], experts, base=base, parameters=parameters, **engine)
    public = {"lambda": "lambda_"}
    expected = getattr(merge_oracle, name)(
        [wide(e) for e in experts],
        wide(base) if base else None,
        **{public.get(k, k): v for k, v in parameters.items()},
    )

    donor = base or experts[0]
    assert sorted(donor) == list(merged)
    for tensor, value in merged.items():
        assert donor[tensor].dtype == value.dtype
        assert donor[tensor].shape == value.shape
        inputs = [*experts, base] if base else experts
        computed = max(i[tensor].dtype == torch.float64 for i in inputs)
        error = (2.0**-48 if computed else 2.0**-19) * 8
        allowed = error + RELATIVE[value.dtype] * np.abs(expected[tensor])
        assert (np.abs(value.double().numpy() - expected[tensor]) <= allowed).all(), tensor


CHUNKS = st.sampled_from([1, 2, 3, 7, 64, CHUNK])
THREADS = st.sampled_from([1, 2])
WEIGHTS = st.floats(-2, 2).map(lambda w: round(w, 3))
DYADIC = st.sampled_from([1.0, 1.0, 1.0, 0.5, 2.0, 0.25, -0.5, -1.0, 0.0])


@QUICK
@given(st.data())
def test_linear_is_the_weighted_mean(data: st.DataObject) -> None:
    experts, base = data.draw(models(st.integers(1, 4), coarse=False))
    weight = data.draw(st.lists(WEIGHTS, min_size=len(experts), max_size=len(experts)))
    normalize = data.draw(st.booleans())
    assume(not normalize or abs(sum(weight)) > 0.25)
    given_base = base if data.draw(st.booleans()) else None

    parameters = {"weight": weight, "normalize": normalize}
    check(
        "linear",
        experts,
        given_base,
        parameters,
        chunk=data.draw(CHUNKS),
        threads=data.draw(THREADS),
    )


@QUICK
@given(st.data())
def test_slerp_goes_along_the_arc_of_each_tensor(data: st.DataObject) -> None:
    experts, _ = data.draw(models(st.just(2), coarse=False))
    t = data.draw(
        st.floats(-0.5, 1.5).map(lambda v: round(v, 3)) | st.sampled_from([0.0, 0.5, 1.0])
    )
    threshold = data.draw(st.sampled_from([0.9995, 0.5, 0.0]))
    for name in experts[0]:
        x, y = (e[name].double().reshape(-1) for e in experts)
        cosine = float(torch.nn.functional.cosine_similarity(x, y, dim=0)) if x.numel() else 0.0
        assume(abs(abs(cosine) - threshold) > 1e-6)
        # The sine of an arc of nearly half a turn magnifies every rounding.
        assume(abs(cosine) < 0.999 or abs(cosine) > threshold)

    parameters = {"t": t, "dot_threshold": threshold, "extrapolate": True}
    check("slerp", experts, None, parameters, chunk=data.draw(CHUNKS), threads=data.draw(THREADS))


@QUICK
@given(st.data())
def test_task_arithmetic_adds_scaled_deltas(data: st.DataObject) -> None:
    experts, base = data.draw(models(st.integers(1, 4), coarse=False))
    weight = data.draw(st.lists(WEIGHTS, min_size=len(experts), max_size=len(experts)))
    normalize = data.draw(st.booleans())
    assume(not normalize or abs(sum(weight)) > 0.25 or sum(weight) == 0)

    parameters = {
        "weight": weight,
        "lambda": data.draw(st.sampled_from([1.0, 0.0, 0.3, -0.5, 2.0])),
        "normalize": normalize,
    }
    check(
        "task_arithmetic",
        experts,
        base,
        parameters,
        chunk=data.draw(CHUNKS),
        threads=data.draw(THREADS),
    )


@settings(QUICK, max_examples=300)
@given(st.data())
def test_ties_trims_elects_and_fuses_exactly(data: st.DataObject) -> None:
    experts, base = data.draw(models(st.integers(1, 3), coarse=True))
    n = len(experts)
    density = st.sampled_from([0.0, 0.1, 0.2, 0.29, 0.5, 0.5, 0.9, 1.0])
    scope = data.draw(st.sampled_from(["global", "tensor"]))
    signs = ["positive", "majority"] if scope == "global" else ["positive"]

    parameters = {
        "density": data.draw(st.lists(density, min_size=n, max_size=n)),
        "weight": data.draw(st.lists(DYADIC, min_size=n, max_size=n)),
        "lambda": data.draw(st.sampled_from([1.0, 1.0, 0.0, 0.5, -1.0, 1.5])),
        "merge": data.draw(st.sampled_from(["mean", "sum", "max"])),
        "scope": scope,
        "trim": data.draw(st.sampled_from(["exact", "kth_value_inclusive", "at_least_one"])),
        "zero_sign": data.draw(st.sampled_from(signs)),
    }
    check("ties", experts, base, parameters, chunk=data.draw(CHUNKS), threads=data.draw(THREADS))


def test_ties_cuts_a_model_of_float32_and_float64_tensors_at_one_magnitude() -> None:
    base = {"a": torch.zeros(4, dtype=torch.float64), "b": torch.zeros(4)}
    expert = {
        "a": torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64),
        "b": torch.tensor([1.5, 2.5, 3.5, 4.5]),
    }

    merged = zoo.merge("ties", [expert], base=base, parameters={"density": 0.5})

    assert [0.0, 0.0, 3.0, 4.0] == merged["a"].tolist()
    assert [0.0, 0.0, 3.5, 4.5] == merged["b"].tolist()


@pytest.mark.parametrize("trim, kept", [("exact", 2), ("kth_value_inclusive", 3)])
def test_the_authors_cut_keeps_one_more(trim: str, kept: int) -> None:
    base = {"w": torch.zeros(10)}
    expert = {"w": torch.arange(1.0, 11.0)}

    merged = zoo.merge("ties", [expert], base=base, parameters={"density": 0.2, "trim": trim})

    assert kept == int((merged["w"] != 0).sum())
