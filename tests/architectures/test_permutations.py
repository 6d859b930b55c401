"""Permutations of units: the convention, against golden numbers; what they leave and what not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from zoo_plugins.mlp_architecture import Mlp
from zoo_plugins.vit_architecture import Vit

from zoo.errors import PluginError
from zoo.networks.transformer_block import block_class
from zoo.permutations import group_sizes, permuted

GOLDEN = Path(__file__).parent / "golden"
MLP = {"inputs": 5, "width": 6, "depth": 2, "classes": 3, "activation": "relu"}


def golden(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    return content


def test_a_permutation_is_applied_as_weight_matching_has_it():
    known = golden("weight-matching")
    b = {n: torch.tensor(v, dtype=torch.float64) for n, v in known["model_b"].items()}
    moves = {g: torch.tensor(p) for g, p in known["expected"]["perm"].items()}

    found = permuted(b, known["axes_to_perm"], moves)

    assert known["expected"]["permuted_b"] == {n: t.tolist() for n, t in found.items()}
    sizes = group_sizes(known["axes_to_perm"], {n: t.shape for n, t in b.items()})
    assert {"P0": 4, "P1": 3} == sizes


def attention(known: dict[str, Any]) -> tuple[torch.nn.Module, torch.Tensor]:
    """Our attention with the golden matrices, and its input, (1, 3, 4)."""
    module = block_class()(4, 2, 4, causal=False).attention.double().requires_grad_(False)
    for ours, theirs in {"q": "wq", "k": "wk", "v": "wv", "out": "wo"}.items():
        layer = module.get_submodule(ours)
        layer.weight.copy_(torch.tensor(known[theirs], dtype=torch.float64))
        layer.bias.zero_()
    return module, torch.tensor([known["x"]], dtype=torch.float64)


def test_attention_and_its_heads_are_as_in_the_golden_numbers():
    known = golden("transformer-symmetry")
    module, x = attention(known)
    axes = {f"{n}.weight": ("heads", None) for n in "qkv"} | {"out.weight": (None, "heads")}
    state = {n: t.clone() for n, t in module.state_dict().items()}
    expected = {k: torch.tensor([v]).double() for k, v in known["expected"].items()}

    torch.testing.assert_close(module(x), expected["output"])
    module.load_state_dict(permuted(state, axes, {"heads": torch.tensor([1, 0])}))
    torch.testing.assert_close(module(x), expected["after_head_swap"])
    torch.testing.assert_close(module.q.weight, state["q.weight"][known["head_perm"]])
    # Rows dealt to other heads make another function.
    module.load_state_dict(permuted(state, axes, {"heads": torch.tensor(known["bad_perm"])}))
    torch.testing.assert_close(module(x), expected["after_cross_head_permutation"])


@given(st.permutations(range(6)), st.permutations(range(6)))
def test_permutations_compose_and_invert(f, g):
    state = Mlp().build(MLP).state_dict()
    axes = Mlp().axes(MLP)
    f, g = torch.tensor(f), torch.tensor(g)

    def moved(s, order):
        return permuted(s, axes, {"fc1": order, "fc2": order})

    twice, once = moved(moved(state, f), g), moved(state, f[g])
    back = moved(moved(state, f), f.argsort())
    for name, tensor in state.items():
        assert torch.equal(twice[name], once[name])
        assert torch.equal(tensor, back[name])
        assert torch.equal(tensor.flatten().sort()[0], once[name].flatten().sort()[0])


def test_groups_that_are_not_named_stay():
    state = Mlp().build(MLP).state_dict()
    found = permuted(state, Mlp().axes(MLP), {"fc2": torch.arange(6).flip(0)})

    assert torch.equal(state["fc1.weight"], found["fc1.weight"])
    assert torch.equal(state["fc2.weight"].flip(0), found["fc2.weight"])
    assert torch.equal(state["head.weight"].flip(1), found["head.weight"])


@pytest.mark.parametrize(
    ("axes", "units", "said"),
    [
        ({"v": ("a",)}, {}, "there is no tensor `v`"),
        ({"w": ("a",)}, {}, "`w` has 2 axes, and 1 are described"),
        ({"w": ("a", None), "b": ("a",)}, {}, "6 entries, no multiple of the 4 units of `a`"),
        ({"w": ("a", None)}, {"a": 4}, "6 entries, no multiple of the 4 units of `a`"),
        ({"w": ("a", None)}, {"h": 2}, "no axis has the group `h`"),
    ],
)
def test_groups_that_do_not_fit_are_told(axes, units, said):
    with pytest.raises(PluginError) as caught:
        group_sizes(axes, {"w": (6, 3), "b": (4,)}, units)
    assert said in str(caught.value)


def test_heads_are_counted_by_the_architecture():
    config = {"channels": 1, "size": 4, "patch": 2, "width": 8, "depth": 1, "heads": 2}
    config |= {"inner": 5, "classes": 3}
    vit = Vit()
    shapes = {n: t.shape for n, t in vit.build(config).state_dict().items()}

    sizes = group_sizes(vit.axes(config), shapes, vit.units(config))
    assert {"residual": 8, "blocks.0.heads": 2, "blocks.0.mlp": 5} == sizes
