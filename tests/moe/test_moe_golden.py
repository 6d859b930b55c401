"""Numbers worked out elsewhere: of gates and routing, and of merging experts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zoo.checkpoint import MemoryCheckpoint
from zoo.moe.alignment import assignment, likeness
from zoo.moe.grouping import by_cores, cosines
from zoo.moe.merging import Merging
from zoo.moe.mixed import blocks_of
from zoo.moe.router import conditions, unit

FOLDER = Path(__file__).parents[3] / "shared/methods/golden"


def golden(name: str) -> dict[str, Any]:
    path = FOLDER / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"the collection of published numbers is not here: {name}")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_gates_are_unit_rows_of_positive_minus_negative_states():
    given = golden("moe-upcycling")
    positive, negative = (torch.tensor(given[k]) for k in ("hidden_pos", "hidden_neg"))
    only_the_second = torch.tensor([[0.0], [1.0], [0.0]])

    gates = unit(positive - only_the_second * negative)

    torch.testing.assert_close(torch.tensor(given["expected"]["gates"]), gates)
    assert given["expected"]["cond"] == pytest.approx(conditions(gates[None])[0], rel=1e-5)


def test_transformers_routes_by_such_gates_as_published():
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    given = golden("moe-upcycling")
    config = MixtralConfig(
        hidden_size=4, intermediate_size=4, num_local_experts=3, num_experts_per_tok=2
    )
    block = MixtralSparseMoeBlock(config)
    positive, negative = (torch.tensor(given[k]) for k in ("hidden_pos", "hidden_neg"))
    gates = unit(positive - torch.tensor([[0.0], [1.0], [0.0]]) * negative)
    with torch.no_grad():
        block.gate.weight.copy_(gates)
        _, weights, chosen = block.gate(torch.tensor(given["x"]))

    assert given["expected"]["top_experts"] == chosen.tolist()
    torch.testing.assert_close(torch.tensor(given["expected"]["top_weights"]), weights)
    torch.testing.assert_close(torch.ones(5), weights.sum(dim=1))


def test_experts_choose_their_cores_as_published():
    given = golden("m-smoe")
    logits = np.array(given["router_logits"])

    similarity = cosines(logits.T @ logits)

    np.testing.assert_allclose(given["expected"]["similarity"], similarity, atol=1e-12)
    labels, core = given["expected"]["labels"], given["expected"]["core"]
    members = tuple(tuple(e for e in range(5) if labels[e] == i) for i in range(len(core)))
    assert members == by_cores(similarity, given["usage"], 2)


def test_units_are_permuted_as_published():
    given = golden("m-smoe")
    into, out = np.array(given["wi"]), np.array(given["wo"])

    found = [assignment(likeness([(into[0], into[e])], (out[0], out[e]))) for e in range(len(into))]

    assert given["expected"]["perms_to_expert0"] == found


@pytest.mark.parametrize("chunk", [1, 4, 6])
def test_groups_are_averaged_as_published_in_chunks_of_any_size(chunk: int):
    given = golden("m-smoe")
    state = {"layers.0.mlp.gate.weight": torch.zeros(5, 2, dtype=torch.float64)}
    for e in range(5):
        for part, key in (("w1", "wi"), ("w2", "wo")):
            name = f"layers.0.mlp.experts.{e}.{part}.weight"
            state[name] = torch.tensor(given[key][e], dtype=torch.float64)
    source = MemoryCheckpoint(state)
    (block,), problems = blocks_of(source)
    merging = Merging(source, block, given["usage"], ((0, 1, 4), (2, 3)), "router", True, {})

    assert [] == problems
    for i, members in enumerate(merging.groups):
        expected = given["expected"]["merged"][str(i)]
        for part, key in (("w1", "wi"), ("w2", "wo")):
            runs = [merging.matrix(part, members, s, min(chunk, 6 - s)) for s in range(0, 6, chunk)]
            # Published with 1e-7 added to the sum of the frequencies.
            torch.testing.assert_close(
                torch.tensor(expected[key], dtype=torch.float64).reshape(-1),
                torch.cat(runs),
                rtol=5e-7,
                atol=0,
            )
