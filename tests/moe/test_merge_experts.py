"""Experts of a mixture become fewer, and what is left is their average."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_siblings import HIDDEN, INNER, LAYERS, logits

from zoo import Registry
from zoo.errors import IncompatibleModels, InvalidRecipe
from zoo.moe.alignment import assignment
from zoo.moe.grouping import by_cores, consecutive

Siblings = Callable[[str], list[Path]]
State = dict[str, torch.Tensor]
EXPERTS = 4
LAYOUTS = {"llama": "mixtral", "qwen2": "qwen2_moe", "qwen3": "qwen3_moe"}
PARTS = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}


@pytest.fixture(scope="session")
def mixtures(
    siblings: Siblings, tmp_path_factory: pytest.TempPathFactory, plugins: Any
) -> Callable[[str], Path]:
    """A mixture of four experts of each layout, its router drawn; read and never changed."""
    known: dict[str, Path] = {}

    def made(kind: str) -> Path:
        if kind not in known:
            models = siblings(kind)
            experts = [{"source_model": str(m)} for m in models]
            document = {"base_model": str(models[0]), "gate_mode": "random", "experts": experts}
            folder = tmp_path_factory.mktemp(f"moe-{kind}")
            with Registry(str(folder / "r.db"), plugins=plugins) as registry:
                registry.upcycle(document, out=folder / "moe")
            known[kind] = folder / "moe"
        return known[kind]

    return made


def tensors(directory: Path) -> State:
    return load_file(directory / "model.safetensors")


def config(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "config.json").read_text())
    return found


def block(kind: str, layer: int) -> str:
    return f"model.layers.{layer}." + ("block_sparse_moe" if kind == "llama" else "mlp")


def matrices(state: State, kind: str, layer: int, expert: int) -> dict[str, torch.Tensor]:
    names = PARTS if kind == "llama" else {p: p for p in PARTS}
    prefix = f"{block(kind, layer)}.experts.{expert}"
    return {p: state[f"{prefix}.{n}.weight"] for p, n in names.items()}


def fused(source: Path, target: Path, kind: str) -> Path:
    """The same mixture with the experts of a layer in two tensors."""
    target.mkdir()
    state = tensors(source)
    for layer in range(LAYERS):
        own = [matrices(state, kind, layer, e) for e in range(EXPERTS)]
        inner = f"model.layers.{layer}.mlp"
        if kind == "llama":
            state[f"{inner}.gate.weight"] = state.pop(f"{block(kind, layer)}.gate.weight")
        state[f"{inner}.experts.gate_up_proj"] = torch.stack(
            [torch.cat([m["gate_proj"], m["up_proj"]]) for m in own]
        )
        state[f"{inner}.experts.down_proj"] = torch.stack([m["down_proj"] for m in own])
    kept = {n: t for n, t in state.items() if ".experts." not in n or "_proj" in n.split(".")[-1]}
    save_file(kept, target / "model.safetensors", {"format": "pt"})
    (target / "config.json").write_text((source / "config.json").read_text())
    return target


@pytest.mark.parametrize("kind", LAYOUTS)
def test_groups_become_their_weighted_averages(
    kind: str, registry: Registry, mixtures: Callable[[str], Path], tmp_path: Path
):
    source = mixtures(kind)
    groups, usage = [[2, 0], [1, 3]], [0.1, 0.0, 0.3, 0.6]
    options = {"groups": groups, "frequencies": usage}

    registry.merge_moe_experts(str(source), options=options, out=tmp_path / "small")

    before, after = tensors(source), tensors(tmp_path / "small")
    logits(tmp_path / "small")
    own = config(tmp_path / "small")
    assert 2 == own.get("num_local_experts", own.get("num_experts"))
    for layer in range(LAYERS):
        gate = f"{block(kind, layer)}.gate.weight"
        for i, members in enumerate(groups):
            weights = np.array([usage[e] for e in members]) / sum(usage[e] for e in members)
            rows = before[gate].double().numpy()
            expected = sum(w * rows[e] for w, e in zip(weights, members, strict=True))
            np.testing.assert_allclose(expected, after[gate][i].numpy(), rtol=1e-6, atol=1e-7)
            for part, made in matrices(after, kind, layer, i).items():
                each = [matrices(before, kind, layer, e)[part].double().numpy() for e in members]
                expected = sum(w * m for w, m in zip(weights, each, strict=True))
                np.testing.assert_allclose(expected, made.numpy(), rtol=1e-6, atol=1e-7)
    rest = {n for n in before if ".experts." not in n and not n.endswith(".gate.weight")}
    assert all(torch.equal(before[n], after[n]) for n in rest)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_as_many_experts_as_before_are_the_same_bytes(
    kind: str, registry: Registry, mixtures: Callable[[str], Path], tmp_path: Path
):
    source = mixtures(kind)
    options = {"experts": EXPERTS, "align": True}

    registry.merge_moe_experts(str(source), options=options, out=tmp_path / "same")

    before, after = tensors(source), tensors(tmp_path / "same")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert config(source) == config(tmp_path / "same")


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize(
    "options",
    [
        {"experts": 3},
        {"experts": 2, "grouping": "weights", "align": True},
        {"groups": [[0, 3], [1, 2]], "align": True, "frequencies": [1, 2, 3, 4]},
        {"experts": 2, "router": "keep", "align": True},
    ],
)
def test_fused_experts_are_merged_as_separate_ones_are(
    kind: str,
    options: dict[str, Any],
    registry: Registry,
    mixtures: Callable[[str], Path],
    tmp_path: Path,
):
    source = mixtures(kind)
    one = fused(source, tmp_path / "fused", kind)

    registry.merge_moe_experts(str(source), options=options, out=tmp_path / "a")
    registry.merge_moe_experts(str(one), options=options, out=tmp_path / "b")

    torch.testing.assert_close(logits(tmp_path / "a"), logits(tmp_path / "b"), rtol=0, atol=1e-6)
    shape = tensors(tmp_path / "b")["model.layers.0.mlp.experts.gate_up_proj"].shape
    left = EXPERTS if "router" in options else options.get("experts", 2)
    assert (left, 2 * INNER, HIDDEN) == shape


def test_a_kept_router_reaches_the_merged_expert_by_each_of_its_rows(
    registry: Registry, mixtures: Callable[[str], Path], tmp_path: Path
):
    source = mixtures("qwen3")
    options = {"groups": [[0, 1, 2, 3]], "router": "keep", "experts_per_token": 3}

    registry.merge_moe_experts(str(source), options=options, out=tmp_path / "kept")
    registry.merge_moe_experts(
        str(source), options={"groups": [[0, 1, 2, 3]]}, out=tmp_path / "one"
    )

    # Routing weights sum to 1, and all experts are one: the router has nothing to say.
    torch.testing.assert_close(
        logits(tmp_path / "one"), logits(tmp_path / "kept"), rtol=1e-5, atol=1e-5
    )
    gate = "model.layers.0.mlp.gate.weight"
    assert torch.equal(tensors(source)[gate], tensors(tmp_path / "kept")[gate])
    assert 1 == config(tmp_path / "one")["num_experts_per_tok"]


def test_aligned_experts_that_are_permutations_of_one_stay_that_one(
    registry: Registry, mixtures: Callable[[str], Path], tmp_path: Path
):
    source, shuffled = mixtures("llama"), tmp_path / "shuffled"
    shuffled.mkdir()
    state = tensors(source)
    generator = torch.Generator().manual_seed(0)
    for layer in range(LAYERS):
        first = matrices(state, "llama", layer, 0)
        for e in range(1, EXPERTS):
            order = torch.randperm(INNER, generator=generator)
            for part, name in PARTS.items():
                moved = first[part][:, order] if part == "down_proj" else first[part][order]
                key = f"{block('llama', layer)}.experts.{e}.{name}.weight"
                state[key] = moved.contiguous()
    save_file(state, shuffled / "model.safetensors", {"format": "pt"})
    (shuffled / "config.json").write_text((source / "config.json").read_text())

    def merged(align: bool) -> torch.Tensor:
        out = tmp_path / f"merged-{align}"
        registry.merge_moe_experts(str(shuffled), options={"experts": 1, "align": align}, out=out)
        return logits(out)

    torch.testing.assert_close(logits(shuffled), merged(True), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits(shuffled), merged(False), atol=1e-1)


def test_experts_alike_find_each_other(
    registry: Registry, mixtures: Callable[[str], Path], tmp_path: Path
):
    source, paired = mixtures("llama"), tmp_path / "paired"
    paired.mkdir()
    state = tensors(source)
    for layer in range(LAYERS):
        gate = f"{block('llama', layer)}.gate.weight"
        state[gate][2:] = state[gate][[1, 0]] * torch.tensor([[2.0], [0.5]])
        for name in PARTS.values():
            for e, twin in ((2, 0), (3, 1)):
                prefix = f"{block('llama', layer)}.experts"
                noise = 0.01 * torch.randn_like(state[f"{prefix}.0.{name}.weight"])
                state[f"{prefix}.{e}.{name}.weight"] = (
                    state[f"{prefix}.{twin}.{name}.weight"] + noise
                )
    save_file(state, paired / "model.safetensors", {"format": "pt"})
    (paired / "config.json").write_text((source / "config.json").read_text())

    def groups(**options: Any) -> Any:
        version = registry.merge_moe_experts(str(paired), options=options, name="small")
        assert version is not None
        assert registry.verify(version.ref, replay=True).ok
        return version.notes["groups"]

    def every(layer: list[list[int]]) -> dict[str, list[list[int]]]:
        return {str(i): layer for i in range(LAYERS)}

    assert every([[0, 3], [1, 2]]) == groups(experts=2)
    assert every([[0, 2], [1, 3]]) == groups(experts=2, grouping="weights")
    assert every([[0, 1], [2, 3]]) == groups(experts=2, grouping="consecutive")
    often = [[0.1, 0.2, 0.3, 0.4]] * LAYERS
    assert every([[1, 3], [0, 2]]) == groups(experts=2, grouping="weights", frequencies=often)


@given(experts=st.integers(1, 40), data=st.data())
def test_neighbours_are_cut_evenly(experts: int, data: st.DataObject):
    count = data.draw(st.integers(1, experts))

    found = consecutive(experts, count)

    assert list(range(experts)) == [e for group in found for e in group]
    sizes = [len(group) for group in found]
    assert count == len(sizes)
    assert max(sizes) - min(sizes) <= 1


@given(data=st.data())
def test_reordered_experts_are_grouped_alike(data: st.DataObject):
    n = data.draw(st.integers(2, 7))
    count = data.draw(st.integers(1, n))
    order = data.draw(st.permutations(range(n)))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    rows, usage = rng.normal(size=(n, 5)), rng.permutation(n).astype(float)

    plain = by_cores(rows @ rows.T, list(usage), count)
    moved = by_cores((rows @ rows.T)[np.ix_(order, order)], list(usage[order]), count)

    assert plain == tuple(tuple(sorted(order[e] for e in group)) for group in moved)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(0, 10_000), st.booleans())
def test_no_assignment_gains_more(n: int, seed: int, ties: bool):
    from itertools import permutations

    rng = np.random.default_rng(seed)
    gain = rng.integers(-2, 3, (n, n)).astype(float) if ties else rng.normal(size=(n, n))

    found = assignment(gain)

    best = max(sum(gain[i, p[i]] for i in range(n)) for p in permutations(range(n)))
    assert list(range(n)) == sorted(found)
    assert best == pytest.approx(sum(gain[i, found[i]] for i in range(n)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "say either how many `experts` to leave or which `groups`"),
        ({"experts": 2, "groups": [[0, 1, 2, 3]]}, "say either how many `experts`"),
        ({"experts": 5}, "5 experts cannot be left of 4"),
        ({"groups": [[0, 1], [2]]}, "`groups` must have each expert from 0 to 3 once"),
        ({"groups": [[0, 1, 2, 3], []]}, "and none empty"),
        ({"groups": [[0, 1, 2], [3, 3]]}, "`groups` must have each expert"),
        ({"experts": 2, "experts_per_token": 3}, "is 3, and 2 experts are left"),
        ({"experts": 2, "frequencies": [1, 2]}, "`frequencies` must have 4 numbers"),
        ({"experts": 2, "frequencies": []}, "`frequencies` must have 4 numbers"),
        ({"experts": 2, "frequencies": [[1, 2, 3, 4]]}, "has 1 layers, and the mixture 3"),
    ],
)
def test_options_that_do_not_fit_the_mixture_are_refused(
    options: dict[str, Any],
    said: str,
    registry: Registry,
    mixtures: Callable[[str], Path],
    tmp_path: Path,
):
    with pytest.raises(IncompatibleModels) as caught:
        registry.merge_moe_experts(str(mixtures("llama")), options=options, out=tmp_path / "small")

    assert said in str(caught.value)
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"experts": 0},
        {"experts": 2, "frequencies": [1, -1, 1, 1]},
        {"experts": 2, "grouping": "logits"},
        {"expert": 2},
    ],
)
def test_options_out_of_range_are_refused(
    options: dict[str, Any],
    registry: Registry,
    mixtures: Callable[[str], Path],
    tmp_path: Path,
):
    with pytest.raises(InvalidRecipe):
        registry.merge_moe_experts(str(mixtures("llama")), options=options, out=tmp_path / "small")


def test_what_is_no_mixture_is_refused(registry: Registry, siblings: Siblings, tmp_path: Path):
    with pytest.raises(IncompatibleModels, match="has no mixture that is known"):
        registry.merge_moe_experts(
            str(siblings("llama")[0]), options={"experts": 2}, out=tmp_path / "small"
        )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"mlp.experts.3.up_proj.weight": None},
            "has 3 experts with `up_proj`, and its router has 4",
        ),
        ({"mlp.gate.bias": torch.ones(4)}, "takes part in routing, and it is not known how"),
        ({"mlp.experts.0.up_proj.weight": torch.ones(2, 16)}, "differ in the shape of `up_proj`"),
        ({"mlp.experts.0.up_proj.scales": torch.ones(2)}, "is no matrix of an expert"),
        ({"mlp.gate.weight": torch.ones(4, 5)}, "is for 16 elements, its router for 5"),
        ({"mlp.gate.weight": torch.ones(3, 16)}, "the layers have [3, 4] experts"),
        (
            {"mlp.experts.0.up_proj.weight": torch.ones(24, 16).to(torch.int8)},
            "is I8: give the mixture dequantized",
        ),
    ],
)
def test_a_mixture_that_is_not_whole_is_refused(
    change: dict[str, torch.Tensor | None],
    said: str,
    registry: Registry,
    mixtures: Callable[[str], Path],
    tmp_path: Path,
):
    source, odd = mixtures("qwen3"), tmp_path / "odd"
    odd.mkdir()
    state = {**tensors(source), **{f"model.layers.1.{n}": t for n, t in change.items()}}
    kept = {n: t for n, t in state.items() if t is not None}
    save_file(kept, odd / "model.safetensors", {"format": "pt"})
    (odd / "config.json").write_text((source / "config.json").read_text())

    with pytest.raises(IncompatibleModels) as caught:
        registry.merge_moe_experts(str(odd), options={"experts": 2}, out=tmp_path / "small")

    assert any(said in p for p in caught.value.problems), caught.value.problems
