"""The golden numbers of the specification, computed in float64 by independent code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from zoo.engine.in_memory import merge
from zoo.errors import InvalidRecipe

HERE = Path(__file__).parent / "golden"
METHODS = ("linear", "slerp", "task_arithmetic", "ties")
INTEGERS = {"int64": torch.int64}


def cases() -> list[Any]:
    found = []
    for method in METHODS:
        for case in json.loads((HERE / f"{method}.json").read_text()):
            found.append(pytest.param(case, id=f"{method}-{case['case']}"))
    return found


def parameters(case: dict[str, Any]) -> dict[str, Any]:
    given = {k: v for k, v in case["params"].items() if v is not None}
    if "weights" in given:
        given["weight"] = given.pop("weights")
    if case["method"] == "ties" and "normalize" in given:
        given["merge"] = "mean" if given.pop("normalize") else "sum"
    return given


def state(values: dict[str, Any], dtypes: dict[str, str], dtype: torch.dtype) -> dict[str, Any]:
    return {
        name: torch.tensor(v, dtype=INTEGERS.get(dtypes.get(name, ""), dtype))
        for name, v in values.items()
    }


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("case", cases())
def test_a_method_gives_the_golden_numbers(
    case: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    dtypes = case.get("dtypes") or {}
    experts = [state(m, dtypes, dtype) for m in case["models"]]
    base = state(case["base"], dtypes, dtype) if case["base"] else None

    def run() -> dict[str, torch.Tensor]:
        return merge(case["method"], experts, base=base, parameters=parameters(case))

    if "error" in case["expected"]:
        with pytest.raises(InvalidRecipe, match="sum to zero"):
            run()
        return
    merged = run()

    assert merged.keys() == case["expected"].keys()
    for name, value in case["expected"].items():
        expected = torch.tensor(value, dtype=torch.float64)
        torch.testing.assert_close(merged[name].double(), expected, rtol=0, atol=tolerance)
