"""Diff says what two versions share, and how far apart the rest is."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import State, family

import zoo
from zoo import Registry
from zoo.engine.diff import Diff
from zoo.errors import NotFound

Register = Callable[..., zoo.Version]
Compare = Callable[[State, State], Diff]
REAL = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture
def compare(registry: Registry, register: Register) -> Compare:
    def run(a: State, b: State) -> Diff:
        return registry.diff(register("left", a).ref, register("right", b).ref)

    return run


def test_distances_are_what_numpy_says(compare: Compare) -> None:
    left, right = family(1)

    diff = compare(left, right)

    assert sorted(n for n in left if n not in ("unused", "norm.num_batches_tracked")) == [
        d.tensor for d in diff.changed
    ]
    for found in diff.changed:
        a, b = (s[found.tensor].double().numpy().ravel() for s in (left, right))
        assert math.isclose(np.linalg.norm(a - b), found.distance_l2, rel_tol=1e-12)
        assert found.relative is not None and found.cosine is not None
        assert math.isclose(
            np.linalg.norm(a - b) / np.linalg.norm(a), found.relative, rel_tol=1e-12
        )
        cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert math.isclose(cosine, found.cosine, rel_tol=1e-12)
        assert np.abs(a - b).max() == found.max_abs
    whole = [
        np.concatenate(
            [
                s[n].double().numpy().ravel()
                for n in sorted(s)
                if s[n].is_floating_point() and n != "norm.running_var"
            ]
        )
        for s in (left, right)
    ]
    assert math.isclose(np.linalg.norm(whole[0] - whole[1]), diff.total.distance_l2, rel_tol=1e-12)


def test_a_version_compared_with_itself_shares_everything(
    registry: Registry, members: list[State]
) -> None:
    diff = registry.diff("a", "a")

    assert sorted(members[1]) == list(diff.shared)
    assert () == diff.changed == diff.carried == diff.only_a == diff.only_b == diff.shape_differs
    assert (0.0, 1.0) == (diff.total.distance_l2, diff.total.cosine)


def test_what_cannot_be_measured_is_listed_by_kind(compare: Compare) -> None:
    left = {
        "same": torch.ones(2),
        "shape": torch.ones(3),
        "left": torch.ones(3),
        "int": torch.tensor([1, 2]),
        "kind": torch.ones(2),
    }
    right = {
        "same": torch.ones(2),
        "shape": torch.ones(3, 1),
        "right": torch.ones(3),
        "int": torch.tensor([1, 3]),
        "kind": torch.ones(2, dtype=torch.int64),
    }

    diff = compare(left, right)

    assert ("same",) == diff.shared
    assert ("left",) == diff.only_a and ("right",) == diff.only_b
    assert ("shape",) == diff.shape_differs
    assert ("int", "kind") == diff.carried
    assert () == diff.changed


def test_types_may_differ(compare: Compare) -> None:
    values = torch.tensor([1.0, 1.00390625, -3.0])

    diff = compare({"w": values}, {"w": values.to(torch.bfloat16)})

    (found,) = diff.changed
    assert 0.00390625 == found.max_abs == found.distance_l2


@pytest.mark.parametrize("scale", [1e-45, 1e-30, 1e-200, 1e100, 5e37, 1e-310])
def test_extreme_scales_have_a_cosine(scale: float, compare: Compare) -> None:
    dtype = torch.float32 if 1e-46 < scale < 1e39 else torch.float64
    a = torch.tensor([3.0, 4.0], dtype=torch.float64) * scale
    b = torch.tensor([4.0, 3.0], dtype=torch.float64) * scale

    diff = compare({"w": a.to(dtype)}, {"w": b.to(dtype)})

    (found,) = diff.changed
    if scale > 1e-150:
        assert found.cosine is not None and math.isclose(24 / 25, found.cosine, rel_tol=0.05)
    assert found.max_abs > 0


def test_zeros_have_no_cosine(compare: Compare) -> None:
    diff = compare({"w": torch.zeros(2)}, {"w": torch.tensor([3.0, 4.0])})

    (found,) = diff.changed
    assert (5.0, None, None, 4.0) == (
        found.distance_l2,
        found.relative,
        found.cosine,
        found.max_abs,
    )


def test_nearly_orthogonal_tensors_have_an_exact_cosine(compare: Compare) -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(4000, generator=generator) for _ in range(2))
    b = b * 1e6

    diff = compare({"w": a}, {"w": b})

    expected = float(a.double() @ b.double() / a.double().norm() / b.double().norm())
    assert diff.total.cosine is not None
    assert math.isclose(expected, diff.total.cosine, abs_tol=1e-10)


def test_nan_is_compared_without_a_crash_and_as_json(compare: Compare) -> None:
    diff = compare({"w": torch.tensor([1.0, float("nan")])}, {"w": torch.ones(2)})

    assert ["w"] == [d.tensor for d in diff.changed]
    json.dumps(diff.as_dict())


def test_a_merge_is_compared_with_its_parents(registry: Registry, members: list[State]) -> None:
    registry.merge(
        {
            "method": "task_arithmetic",
            "base": "base",
            "experts": ["a"],
            "parameters": {"lambda": [{"filter": "layers.0", "value": 0.0}, {"value": 0.5}]},
        },
        name="m",
    )

    with_base, with_expert = registry.diff("base", "m"), registry.diff("a", "m")

    assert {"layers.0.weight", "layers.0.bias"} <= set(with_base.shared)
    halves = {d.tensor: d.distance_l2 for d in with_base.changed}
    for found in with_expert.changed:
        if found.tensor in halves:
            assert math.isclose(halves[found.tensor], found.distance_l2, rel_tol=1e-4)


def test_bytes_that_are_gone_are_told(registry: Registry, members: list[State]) -> None:
    version = registry.get("a")
    for file in registry.catalog.files(version.id):
        registry.store.path(file.object).unlink(missing_ok=True)

    with pytest.raises(NotFound, match="bytes of `a@1` are not in the store"):
        registry.diff("a", "b")


def test_a_diff_is_plain_data(registry: Registry, members: list[State]) -> None:
    shown = json.loads(json.dumps(registry.diff("a", "b").as_dict()))

    assert ("a@1", "b@1") == (shown["a"], shown["b"])
    assert {"tensor", "distance_l2", "relative", "cosine", "max_abs"} == set(shown["changed"][0])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 1e-3, 1.0, 100.0]))
def test_distances_are_symmetric_and_bounded(seed: int, step: float) -> None:
    from zoo.checkpoints.reading import Reader
    from zoo.engine.diff import _sums
    from zoo.engine.in_memory import _model

    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(50, generator=generator)
    b = a + step * torch.randn(50, generator=generator)
    pair = [_model(n, {"w": t}).checkpoint for n, t in (("a", a), ("b", b))]

    aa, bb, ab, dd, largest = _sums(Reader(wide=True), "w", pair)

    assert (bb, aa, ab, dd, largest) == _sums(Reader(wide=True), "w", pair[::-1])
    assert largest**2 <= dd * (1 + 1e-9) and math.sqrt(dd) <= math.sqrt(aa) + math.sqrt(bb) + 1e-9


# Published families whose ancestry their names hide or show


@pytest.fixture
def real(registry: Registry) -> Callable[..., None]:
    def add(folder: str, *names: str) -> None:
        if not (REAL / folder).is_dir():
            pytest.skip(f"no {folder} beside the repository")
        for name in names:
            registry.register(REAL / folder / name, name=name, link_mode="symlink")

    return add


def test_half_frozen_pairs_share_their_frozen_tensors(
    registry: Registry, real: Callable[..., None]
) -> None:
    real("ani-potentials", "ani1x-m0", "ani1ccx-m0", "ani1x-m1")

    pair = registry.diff("ani1x-m0", "ani1ccx-m0")
    strangers = registry.diff("ani1x-m0", "ani1x-m1")

    assert 16 == len(pair.shared) == len(pair.changed)
    # Layers 1 and 3 of each element's network.
    assert {"0", "4"} == {name.split(".")[1] for name in pair.shared}
    assert pair.total.cosine is not None and pair.total.cosine > 0.99
    assert strangers.total.cosine is not None and abs(strangers.total.cosine) < 0.05
    assert () == strangers.shared


def test_names_that_hide_their_ancestry_are_exposed(
    registry: Registry, real: Callable[..., None]
) -> None:
    """Called replicate 3 by their authors; they descend from the family of replicate 1."""
    real(
        "pangolin-splice",
        "r1-heart-psplice",
        "r1-brain-psplice",
        "r1-heart-usage",
        "v2-r3-heart-psplice",
        "v2-r3-brain-psplice",
    )

    def cosine(a: str, b: str) -> float:
        found = registry.diff(a, b).total.cosine
        assert found is not None
        return found

    assert cosine("v2-r3-heart-psplice", "r1-heart-psplice") == pytest.approx(0.993, abs=0.005)
    assert cosine("v2-r3-brain-psplice", "r1-brain-psplice") == pytest.approx(0.99, abs=0.01)
    assert 0.8 < cosine("r1-heart-psplice", "r1-brain-psplice") < 0.92
    assert 0.8 < cosine("v2-r3-heart-psplice", "r1-brain-psplice") < 0.92
    heads = registry.diff("r1-heart-psplice", "r1-heart-usage")
    # Each expert carries all eight heads; seven of them are the base's own.
    assert 6 <= len({n.split(".")[0] for n in heads.shared if n.startswith("conv_last")})
    assert "resblocks.0.bn1.num_batches_tracked" in {*heads.carried, *heads.shared}
