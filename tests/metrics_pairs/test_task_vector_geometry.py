"""Task vectors: the specified numbers, those of an oracle, and what must hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pair_subjects import Array, golden, numbers, stored, subject
from torch import nn
from zoo_plugins.geometry_metrics import effective_rank, mode_subspace_overlap

from zoo.architecture import Architecture
from zoo.errors import IncompatibleModels, InvalidRecipe
from zoo.subject import Subject

FEW = settings(max_examples=25)


def pair(
    a: Mapping[str, Any], b: Mapping[str, Any], base: Mapping[str, Any] | None = None
) -> list[Subject]:
    """Two experts with these task vectors on one base."""
    start = base or {name: np.zeros_like(np.asarray(t)) for name, t in a.items()}
    origin = stored(start, "base")
    return [
        stored({n: start[n] + np.asarray(t) for n, t in delta.items()}, name, origin)
        for name, delta in (("a", a), ("b", b))
    ]


def drawn(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


# Golden numbers


def test_values_of_a_pair_are_the_golden_ones() -> None:
    case = golden("task-vector-geometry")
    expected = case["expected"]
    models = pair({"w": case["tau_a"]}, {"w": case["tau_b"]})

    found = numbers("task_vectors", models, top=0.5)

    assert expected["cosine"] == pytest.approx(found["task_vector_cosine"])
    assert expected["norm_ratio"] == pytest.approx(found["task_vector_norm_ratio"])
    assert expected["sign_agreement"] == found["sign_agreement"]
    assert expected["sign_agreement_top50"] == found["top_sign_agreement"]
    inner = found["task_vector_cosine"] * np.prod(expected["norms"])
    assert expected["interference_trace"] == pytest.approx(inner)


def test_values_of_one_expert_are_the_golden_ones() -> None:
    case = golden("task-vector-geometry")
    expected = case["expected"]
    models = pair({"w": case["tau_a"]}, {"w": case["tau_b"]})

    first, second = (numbers("task_vector", [model]) for model in models)

    assert expected["norms"] == pytest.approx([one["task_vector_norm"] for one in (first, second)])
    assert expected["effective_rank"] == pytest.approx(first["task_vector_effective_rank"])
    assert expected["stable_rank"] == pytest.approx(first["task_vector_stable_rank"])
    assert "task_vector_relative_norm" not in first  # the base is zero


@pytest.mark.parametrize("energy", ["0.5", "0.9"])
def test_overlap_of_subspaces_is_the_golden_one(energy: str) -> None:
    case = golden("task-vector-geometry")
    expected = case["expected"]["mso"][energy]
    models = pair({"w": case["tau_a"]}, {"w": case["tau_b"]})

    found = numbers("subspace_overlap", models, energy=float(energy))

    assert expected["mso"] == pytest.approx(found["subspace_overlap"])
    assert expected["random_baseline"] == found["subspace_overlap_chance"]
    assert expected["mso"] - expected["random_baseline"] == pytest.approx(
        found["subspace_overlap_excess"]
    )


# An oracle


def flat(state: Mapping[str, Array]) -> Array:
    return np.concatenate([state[n].ravel() for n in sorted(state)])


def oracle(a: Array, b: Array, top: float) -> dict[str, float]:
    """Of two flat task vectors."""
    both = (a != 0) & (b != 0)
    k = max(1, round(top * a.size))
    largest = [(t != 0) & (np.abs(t) >= np.sort(np.abs(t))[-k]) for t in (a, b)]
    chosen = largest[0] & largest[1]
    elected = np.sign(a + b)
    against = sum(np.abs(t)[np.sign(t) != elected].sum() for t in (a, b))
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    found = {
        "task_vector_cosine": a @ b / np.prod(lengths),
        "task_vector_norm_ratio": max(lengths) / min(lengths),
        "sign_agreement": (np.sign(a) == np.sign(b))[both].mean(),
        "top_overlap": chosen.sum() / (largest[0] | largest[1]).sum(),
        "sign_conflict": against / (np.abs(a).sum() + np.abs(b).sum()),
    }
    if chosen.any():
        found["top_sign_agreement"] = (np.sign(a) == np.sign(b))[chosen].mean()
    return found


@FEW
@given(st.integers(0, 999), st.sampled_from([0.01, 0.2, 0.5, 1.0]), st.booleans())
def test_values_of_a_pair_are_those_of_the_oracle(seed: int, top: float, coarse: bool) -> None:
    shapes = {"one": (3, 4), "two": (5,), "three": (2, 2, 3)}

    def state(i: int) -> dict[str, Array]:
        """In whole numbers, where many are equal and some zero; or in sixteenths."""
        step = 1 if coarse else 16
        return {n: np.round(step * drawn(4 * seed + i, *s)) / step for n, s in shapes.items()}

    base, a, b = (state(i) for i in range(3))
    a["one"][0, 0] = b["two"][0] = 1.0

    found = numbers("task_vectors", pair(a, b, base), top=top)

    assert oracle(flat(a), flat(b), top) == pytest.approx(found)


@FEW
@given(st.integers(0, 999))
def test_values_of_one_expert_are_those_of_the_oracle(seed: int) -> None:
    delta = {"m": drawn(seed, 4, 6), "t": drawn(seed + 1, 3, 2, 2), "v": drawn(seed + 2, 5)}
    base = {n: drawn(seed + 3, *t.shape) for n, t in delta.items()}
    effective, stable = [], []
    for name in ("m", "t"):
        values = np.linalg.svd(delta[name].reshape(len(delta[name]), -1), compute_uv=False)
        p = values / values.sum()
        effective.append(np.exp(-(p * np.log(p)).sum()))
        stable.append((values**2).sum() / values[0] ** 2)

    found = numbers("task_vector", pair(delta, delta, base)[:1])

    expected = {
        "task_vector_norm": np.linalg.norm(flat(delta)),
        "task_vector_relative_norm": np.linalg.norm(flat(delta)) / np.linalg.norm(flat(base)),
        "task_vector_effective_rank": np.mean(effective),
        "task_vector_stable_rank": np.mean(stable),
    }
    assert expected == pytest.approx(found)


@FEW
@given(st.integers(0, 999), st.sampled_from([0.1, 0.5, 0.9, 1.0]))
def test_overlap_of_subspaces_is_that_of_the_oracle(seed: int, energy: float) -> None:
    deltas = [{"m": drawn(seed + i, 5, 4), "v": drawn(seed + 10 + i, 3)} for i in range(2)]

    def basis(matrix: Array) -> Array:
        left, values, _ = np.linalg.svd(matrix, full_matrices=False)
        held = np.cumsum(values**2) / (values**2).sum()
        return left[:, : int(np.argmax(held >= energy - 1e-12)) + 1]

    overlaps, chances = [], []
    for name in ("m", "v"):
        q = [basis(d[name].reshape(len(d[name]), -1)) for d in deltas]
        overlaps.append((q[0].T @ q[1]).ravel() @ (q[0].T @ q[1]).ravel())
        overlaps[-1] /= min(q[0].shape[1], q[1].shape[1])
        chances.append(max(q[0].shape[1], q[1].shape[1]) / len(deltas[0][name]))

    found = numbers("subspace_overlap", pair(*deltas), energy=energy)

    assert np.mean(overlaps) == pytest.approx(found["subspace_overlap"])
    assert np.mean(chances) == pytest.approx(found["subspace_overlap_chance"])


# What must hold


def test_an_expert_is_like_itself_and_against_its_negative() -> None:
    delta = {"m": drawn(1, 4, 6), "v": drawn(2, 5)}
    negative = {n: -t for n, t in delta.items()}

    same, against = (numbers("task_vectors", pair(delta, t)) for t in (delta, negative))

    assert {
        "task_vector_cosine": 1,
        "task_vector_norm_ratio": 1,
        "sign_agreement": 1,
        "top_sign_agreement": 1,
        "top_overlap": 1,
        "sign_conflict": 0,
    } == pytest.approx(same)
    assert {
        "task_vector_cosine": -1,
        "task_vector_norm_ratio": 1,
        "sign_agreement": 0,
        "top_sign_agreement": 0,
        "top_overlap": 1,
        "sign_conflict": 1,
    } == pytest.approx(against)


@FEW
@given(st.integers(0, 99), st.floats(0.1, 10))
def test_the_order_of_the_two_changes_nothing(seed: int, scale: float) -> None:
    a, b = {"m": drawn(seed, 4, 6)}, {"m": scale * drawn(seed + 1, 4, 6)}

    for name in ("task_vectors", "subspace_overlap"):
        assert numbers(name, pair(a, b)) == pytest.approx(numbers(name, pair(b, a)))


@FEW
@given(st.integers(0, 99), st.floats(0.1, 10), st.sampled_from([0.3, 0.9, 1.0]))
def test_overlap_knows_no_scale_and_no_common_rotation(
    seed: int, scale: float, energy: float
) -> None:
    a, b = (torch.tensor(drawn(seed + i, 5, 7)) for i in range(2))
    turn, _ = torch.linalg.qr(torch.tensor(drawn(seed + 2, 5, 5)))

    assert mode_subspace_overlap(a, scale * a, energy)[0] == pytest.approx(1)
    assert mode_subspace_overlap(a, b, 1.0)[0] == pytest.approx(1)  # both span everything
    turned = mode_subspace_overlap(turn @ a, turn @ b, energy)
    assert mode_subspace_overlap(a, b, energy) == pytest.approx(turned)


def test_effective_rank_counts_equal_directions() -> None:
    assert 3 == pytest.approx(effective_rank(torch.tensor([2.0, 2, 2, 0])))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_types_are_measured_in_float64(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    base, a, b = (nn.Linear(6, 4).to(dtype) for _ in range(3))
    for module in (base, a, b):
        module.load_state_dict(
            {n: torch.randn(t.shape, generator=generator) for n, t in module.state_dict().items()}
        )
    origin = subject(base, "base")
    deltas = [
        {
            n: (t.double() - base.state_dict()[n].double()).numpy()
            for n, t in module.state_dict().items()
        }
        for module in (a, b)
    ]

    found = numbers("task_vectors", [subject(m, n, origin) for m, n in ((a, "a"), (b, "b"))])

    expected = oracle(flat(deltas[0]), flat(deltas[1]), 0.2)
    assert expected == pytest.approx(found, rel=1e-6)


def test_statistics_and_counters_are_no_weights() -> None:
    module, base = (nn.BatchNorm1d(3) for _ in range(2))
    module.running_var.fill_(9)
    module.num_batches_tracked.fill_(100)
    module.weight.data += torch.tensor([3.0, 0, 4])

    found = numbers("task_vector", [subject(module, base=subject(base))])

    assert {"task_vector_norm": 5, "task_vector_relative_norm": 5 / 3**0.5} == pytest.approx(found)


def test_a_head_of_the_experts_own_is_left_out() -> None:
    origin = stored({"body": np.zeros(2), "head": np.zeros(3)}, "base")
    expert = stored(
        {"body": np.array([3.0, 4]), "head": np.ones(5), "more": np.ones(2)}, "e", origin
    )

    assert {"task_vector_norm": 5} == numbers("task_vector", [expert])


def test_tensors_can_be_left_out_and_told_one_by_one() -> None:
    delta = {"a.weight": np.array([3.0]), "a.bias": np.array([4.0]), "b.weight": np.array([12.0])}
    (model, _) = pair(delta, delta)

    whole = numbers("task_vector", [model], exclude=["b.*"])
    each = numbers("task_vector", [model], parts="tensors")

    assert {"task_vector_norm": 5} == whole
    assert {
        "task_vector_norm": 13,
        "task_vector_norm/a.weight": 3,
        "task_vector_norm/a.bias": 4,
        "task_vector_norm/b.weight": 12,
    } == each


def test_layers_are_told_where_the_architecture_knows_them() -> None:
    class Known(Architecture):
        name = "known"

        def build(self, config: Mapping[str, Any]) -> nn.Module:
            raise NotImplementedError

        def layers(self, config: Mapping[str, Any]) -> Sequence[Sequence[str]]:
            return [["0.*"], ["1.*"]]

    module, base = (nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1)) for _ in range(2))
    module.load_state_dict({n: t + 1 for n, t in base.state_dict().items()})
    expert = subject(module, base=subject(base), architecture=Known())

    found = numbers("task_vector", [expert], parts="layers")

    assert 5**0.5 == pytest.approx(found["task_vector_norm"], rel=1e-6)
    assert 3**0.5 == pytest.approx(found["task_vector_norm/0"], rel=1e-6)
    assert 2**0.5 == pytest.approx(found["task_vector_norm/1"], rel=1e-6)
    with pytest.raises(InvalidRecipe, match="layers of `model` are not known"):
        numbers("task_vector", [subject(module, base=subject(base))], parts="layers")


def test_an_expert_that_is_its_base_has_no_direction() -> None:
    zero, delta = {"w": np.zeros((2, 3))}, {"w": drawn(1, 2, 3)}

    assert {"task_vector_norm": 0} == numbers("task_vector", pair(zero, delta)[:1])
    assert {"top_overlap", "sign_conflict"} == set(numbers("task_vectors", pair(zero, delta)))
    assert {} == numbers("subspace_overlap", pair(zero, delta))


# Errors


def test_experts_of_two_bases_are_refused() -> None:
    first, second = pair({"w": drawn(1, 3)}, {"w": drawn(2, 3)})
    other = stored({"w": drawn(2, 3)}, "b", stored({"w": drawn(3, 3)}, "another"))

    for metric in ("task_vectors", "subspace_overlap"):
        with pytest.raises(IncompatibleModels, match=r"`a`: `base`, `b`: `another`"):
            numbers(metric, [first, other])
        with pytest.raises(IncompatibleModels, match=r"`lone`: none"):
            numbers(metric, [second, stored({"w": drawn(2, 3)}, "lone")])


def test_an_expert_without_a_base_has_no_task_vector() -> None:
    with pytest.raises(IncompatibleModels, match="`lone` has no base"):
        numbers("task_vector", [stored({"w": drawn(2, 3)}, "lone")])


def test_models_that_share_no_tensor_are_refused() -> None:
    origin = stored({"w": drawn(1, 3)}, "base")
    with pytest.raises(IncompatibleModels, match="shares no tensor with the base `base`"):
        numbers("task_vector", [stored({"v": drawn(1, 3)}, "other", origin)])
