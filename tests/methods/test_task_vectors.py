"""A method composed of stages equals the named one, and refuses what does not go together."""

from __future__ import annotations

from typing import Any

import pytest
import sparsify_oracle as oracle
import torch
from test_sparsify import BOTH, close, family, same_bytes, wide

import zoo
from zoo.errors import InvalidRecipe
from zoo.plugins import load_plugins
from zoo.testing import MethodConformance

METHODS = load_plugins().methods
MEAN = {"elect": "mass", "merge": "mean"}
SAME: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("task_arithmetic", {"weight": [0.5, 1.0, -2.0]}, {"weight": [0.5, 1.0, -2.0]}),
    (
        "ties",
        {"density": 0.4, "zero_sign": "positive", "lambda": 0.5},
        {"sparsify": "magnitude", "density": 0.4, "lambda": 0.5, **MEAN},
    ),
    (
        "ties",
        {"density": 0.4, "zero_sign": "positive", "scope": "tensor", "weight": [1.0, 2.0, -0.5]},
        {
            "sparsify": "magnitude",
            "density": 0.4,
            "scope": "tensor",
            "weight": [1.0, 2.0, -0.5],
            **MEAN,
        },
    ),
    (
        "dare",
        {"density": 0.3},
        {"sparsify": "random", "density": 0.3, "rescale": "probability"},
    ),
    (
        "dare",
        {"density": 0.3, "rescale": "l1", "elect": "count", "merge": "max"},
        {"sparsify": "random", "density": 0.3, "rescale": "l1", "elect": "count", "merge": "max"},
    ),
    (
        "della",
        {},
        {"sparsify": "rank", "density": 0.7, "epsilon": 0.07, "rescale": "probability", **MEAN},
    ),
    (
        "della",
        {"ranking": "layer", "rescale": "none"},
        {"sparsify": "rank", "density": 0.7, "epsilon": 0.07, "scope": "tensor", **MEAN},
    ),
    (
        "breadcrumbs",
        {"density": 0.3, "gamma": 0.1},
        {"sparsify": "band", "density": 0.3, "gamma": 0.1, "lambda": 0.2},
    ),
    (
        "breadcrumbs",
        {"density": 0.3, "gamma": 0.1, "scope": "tensor", "rescale": "l1"},
        {
            "sparsify": "band",
            "density": 0.3,
            "gamma": 0.1,
            "scope": "tensor",
            "rescale": "l1",
            "lambda": 0.2,
        },
    ),
    ("cabs", {"n": 2, "m": 6}, {"sparsify": "blocks", "n": 2, "m": 6, "weight": 1.2}),
]


@pytest.mark.parametrize("name, own, composed", SAME)
@pytest.mark.parametrize("chunk", [30, 1 << 17])
def test_the_stages_of_a_named_method_give_its_bytes(
    name: str, own: dict[str, Any], composed: dict[str, Any], chunk: int
) -> None:
    experts, base = family(dtype=torch.float32)

    expected = zoo.merge(name, experts, base=base, parameters=own, seed=4, chunk=chunk)
    found = zoo.merge("task_vectors", experts, base=base, parameters=composed, seed=4, chunk=chunk)

    same_bytes(expected, found)


@BOTH
@pytest.mark.parametrize("elect", ["mass", "count"])
@pytest.mark.parametrize("elect_of", ["weighted", "plain"])
@pytest.mark.parametrize("merge", ["mean", "sum", "max"])
def test_every_election_agrees_with_an_oracle(
    elect: str, elect_of: str, merge: str, dtype: torch.dtype, tolerance: float
) -> None:
    experts, base = family(dtype=dtype)
    votes = {"elect": elect, "elect_of": elect_of, "merge": merge, "weight": [1.0, 2.0, -0.5]}
    density = 0.4

    def masks(tensor: str, expert: int, delta: Any) -> Any:
        mask = oracle.top_share(oracle.rows_of(delta), density).reshape(delta.shape)
        return mask, mask

    expected = oracle.task_vectors([wide(e) for e in experts], wide(base), masks=masks, **votes)

    asked = {"sparsify": "magnitude", "density": density, "scope": "row", **votes}
    found = zoo.merge("task_vectors", experts, base=base, parameters=asked, chunk=30)

    close(expected, found, tolerance)


@pytest.mark.parametrize(
    "asked, remedy",
    [
        ({"density": 0.5}, "sparsify=magnitude"),
        ({"sparsify": "blocks", "n": 1, "m": 2, "density": 0.5}, "takes no density"),
        ({"sparsify": "blocks"}, "1 <= n <= m"),
        ({"sparsify": "blocks", "n": 3, "m": 2}, "1 <= n <= m"),
        ({"n": 1, "m": 2}, "belongs to sparsify=blocks"),
        ({"sparsify": "magnitude", "gamma": 0.1}, "belongs to sparsify=band"),
        ({"sparsify": "random", "density": 0.5, "epsilon": 0.1}, "belongs to sparsify=rank"),
        ({"sparsify": "random", "density": 0.5, "scope": "row"}, "leave it out"),
        ({"sparsify": "band", "density": 0.5, "scope": "global"}, "scope=row or tensor"),
        ({"sparsify": "rank", "density": 0.5, "epsilon": 0.5}, "smaller epsilon"),
        ({"sparsify": "magnitude", "density": 0.5, "rescale": "probability"}, "rescale=l1"),
        ({"rescale": "l1"}, "rescale=none"),
        ({"elect_of": "plain"}, "leave it out"),
        ({"merge": "max"}, "elect=mass"),
    ],
)
def test_choices_that_do_not_go_together_are_refused(asked: dict[str, Any], remedy: str) -> None:
    with pytest.raises(InvalidRecipe, match=remedy):
        zoo.merge("task_vectors", [torch.ones(4)], base=torch.zeros(4), parameters=asked)


@pytest.mark.parametrize("sparsify", ["magnitude", "random", "band", "rank"])
@pytest.mark.parametrize("rescale", ["none", "l1"])
def test_density_0_gives_the_base_and_density_1_the_expert(sparsify: str, rescale: str) -> None:
    base, expert = torch.tensor([0.5, 1.0, -2.0]), torch.tensor([0.25, 4.0, 8.0])
    asked = {"sparsify": sparsify, "rescale": rescale}

    nothing = zoo.merge("task_vectors", [expert], base=base, parameters={**asked, "density": 0})
    everything = zoo.merge("task_vectors", [expert], base=base, parameters={**asked, "density": 1})

    assert torch.equal(base, nothing)
    assert torch.equal(expert, everything)


class TestTaskVectors(MethodConformance):
    method = METHODS["task_vectors"]


class TestTaskVectorsOfAllStages(MethodConformance):
    method = METHODS["task_vectors"]
    parameters = {
        "sparsify": "band",
        "density": 0.5,
        "gamma": 0.1,
        "scope": "tensor",
        "rescale": "l1",
        "elect": "mass",
        "elect_of": "plain",
        "merge": "mean",
    }
