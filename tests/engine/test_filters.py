"""Values that hold for some tensors only: parts of names, globs, regular expressions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_llamas import EMBEDDINGS, HEAD, NORM, llama

import zoo.engine.in_memory
from zoo.errors import InvalidRecipe

ALL = set(llama(0, 3))
IN_LAYERS = {n for n in ALL if ".layers." in n}
FITS: list[tuple[Any, set[str]]] = [
    ("*", ALL),
    ("mlp", {n for n in ALL if "mlp" in n}),
    ("", ALL),
    ("model.layers.*", IN_LAYERS),
    ("*norm.weight", {n for n in ALL if n.endswith("norm.weight")}),
    ("mlp*", set()),
    ("model.layers.[02].mlp.*", {f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 2)}),
    (r"/layers\.[12]\..*proj/", {n for n in IN_LAYERS if ".0." not in n and "proj" in n}),
    ("/^(lm_head|model.norm)/", {HEAD, NORM}),
    ({"regex": "embed"}, {EMBEDDINGS}),
    ({"glob": "lm_head.weight"}, {HEAD}),
    ({"glob": "lm_head"}, set()),
]


def scaled(rules: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Models of ones, scaled as rules say."""
    ones = {n: torch.ones_like(t) for n, t in llama(0, 3).items()}
    found: dict[str, torch.Tensor] = zoo.engine.in_memory.merge(
        "passthrough", [ones], parameters={"scale": rules}
    )
    return found


@pytest.mark.parametrize("pattern, names", FITS, ids=[str(pattern) for pattern, _ in FITS])
def test_a_filter_fits_these_tensors(pattern: Any, names: set[str]) -> None:
    found = scaled([{"filter": pattern, "value": 2.0}, {"value": 1.0}])

    assert names == {n for n, t in found.items() if t.eq(2).all()}
    assert ALL - names == {n for n, t in found.items() if t.eq(1).all()}


def test_the_first_rule_that_fits_holds_and_may_be_a_gradient() -> None:
    found = scaled(
        [
            {"filter": "/o_proj|down_proj/", "value": {"gradient": [0, 1]}},
            {"filter": "*.self_attn.*", "value": 5},
            {"value": 3},
        ]
    )

    for i, share in enumerate((0.0, 0.5, 1.0)):
        assert share == found[f"model.layers.{i}.self_attn.o_proj.weight"].unique().item()
        assert 5 == found[f"model.layers.{i}.self_attn.q_proj.weight"].unique().item()
    assert 3 == found[HEAD].unique().item()


@pytest.mark.parametrize(
    "pattern, message",
    [
        ("/(/", "no regular expression"),
        ({"regx": "a"}, "one key of regex and glob"),
        ({"regex": "a", "glob": "b"}, "one key of regex and glob"),
        ({"glob": 1}, "one key of regex and glob"),
        (3, "a filter is text, not 3"),
    ],
    ids=str,
)
def test_a_filter_that_is_none_is_refused(pattern: Any, message: str) -> None:
    with pytest.raises(InvalidRecipe, match=message):
        scaled([{"filter": pattern, "value": 1}, {"value": 1}])
