"""Models of one family under the names of one of them: what is read, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.checkpoint import MemoryCheckpoint, Opened, state_of
from zoo.engine.planned import Model
from zoo.families.renamed import aligned

EXPERTS, INNER, WIDTH = 3, 2, 5
PREFIX = "model.layers.0."
CONFIG = {
    "model_type": "mixtral",
    "architectures": ["MixtralForCausalLM"],
    "num_hidden_layers": 1,
    "num_local_experts": EXPERTS,
}
State = dict[str, torch.Tensor]


def model(label: str, state: Mapping[str, torch.Tensor], config: dict[str, Any] = CONFIG) -> Model:
    checkpoint = MemoryCheckpoint(state, Opened(label, config=config))
    digests = {n: f"{label}:{n}" for n in state}
    return Model(label, f"digest of {label}", checkpoint, digests=digests)


def separate(seed: int) -> State:
    """Experts one by one, as files have them."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {"w1": (INNER, WIDTH), "w2": (WIDTH, INNER), "w3": (INNER, WIDTH)}
    at = PREFIX + "block_sparse_moe."
    state = {
        f"{at}experts.{e}.{w}.weight": torch.randn(shape, generator=draw)
        for e in range(EXPERTS)
        for w, shape in shapes.items()
    }
    return {**state, f"{at}gate.weight": torch.randn(EXPERTS, WIDTH, generator=draw)}


def fused(state: State) -> State:
    """The same, as modules have them: what transformers makes of files."""
    at = PREFIX + "block_sparse_moe."
    w1, w2, w3 = (
        torch.stack([state[f"{at}experts.{e}.{w}.weight"] for e in range(EXPERTS)])
        for w in ("w1", "w2", "w3")
    )
    return {
        f"{PREFIX}mlp.experts.gate_up_proj": torch.cat([w1, w3], dim=1),
        f"{PREFIX}mlp.experts.down_proj": w2,
        f"{PREFIX}mlp.gate.weight": state[f"{at}gate.weight"],
    }


@pytest.mark.parametrize("apart", [True, False], ids=["taken apart", "put together"])
def test_fused_experts_are_shown_as_the_first_model_has_them(apart: bool) -> None:
    one, two = separate(1), separate(2)
    pair = (one, fused(two)) if apart else (fused(one), two)

    found = aligned([model("one", pair[0]), model("two", pair[1])])

    expected = two if apart else fused(two)
    shown = state_of(found.models[1].checkpoint)
    assert [] == found.problems
    assert expected.keys() == shown.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, shown[name])
    assert found.models[1].digest == "digest of two"
    assert found.models[0].checkpoint.tensors.keys() == pair[0].keys()


@given(st.data())
def test_any_bytes_of_a_fused_tensor_are_those_of_its_parts(example: Any) -> None:
    name = f"{PREFIX}mlp.experts.gate_up_proj"
    view = aligned([model("one", fused(ONE)), model("two", ONE)]).models[1].checkpoint
    whole = fused(ONE)[name].numpy().tobytes()
    start = example.draw(st.integers(0, len(whole)))
    stop = example.draw(st.integers(start, len(whole)))
    data = bytearray(stop - start)

    view.read_into(name, start, memoryview(data))

    assert whole[start:stop] == bytes(data)


ONE = separate(1)


def test_tensors_shown_under_another_name_keep_their_digests() -> None:
    one, two = separate(1), fused(separate(2))

    digests = aligned([model("one", one), model("two", two)]).models[1].digests

    assert f"two:{PREFIX}mlp.gate.weight" == digests[f"{PREFIX}block_sparse_moe.gate.weight"]
    parts = [digests[f"{PREFIX}block_sparse_moe.experts.{e}.w1.weight"] for e in range(EXPERTS)]
    assert len(set(parts)) == EXPERTS


def test_models_whose_names_agree_are_not_touched() -> None:
    pair = [model("one", separate(1)), model("two", separate(2))]

    found = aligned(pair)

    assert pair[0] is found.models[0]
    assert pair[1] is found.models[1]
    assert [] == found.notes


def test_models_of_other_families_stay_what_they_are() -> None:
    other = model("other", {"x.weight": torch.zeros(2)}, {"model_type": "bert"})

    assert other is aligned([model("one", separate(1)), other]).models[1]


def test_values_in_another_order_are_told_of_with_the_remedy() -> None:
    config = {"model_type": "kimi_k25", "architectures": ["Kimi_K25ForConditionalGeneration"]}
    at = "model.vision_tower.layers.0.attn."
    split = {f"{at}{p}_proj.weight": torch.zeros(4, 4) for p in "qkv"}
    whole = {"vision_tower.encoder.blocks.0.wqkv.weight": torch.zeros(12, 4)}

    found = aligned([model("one", split, config), model("two", whole, config)])

    assert len(found.problems) == 1
    assert "`two` stores what makes up" in found.problems[0]
    assert "save_pretrained(NEW)" in found.problems[0]
