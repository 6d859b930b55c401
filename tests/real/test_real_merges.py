"""Published families merge by the four methods as the arithmetic says, and replay."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import zoo

FAMILIES = {
    "mixed float16 and float32": (
        "w2x-upconv7-photo/base-scale",
        "w2x-upconv7-photo/noise0",
        "w2x-upconv7-photo/noise2",
    ),
    "half frozen": (
        "ani-potentials/ani1x-m0",
        "ani-potentials/ani1ccx-m0",
        "ani-potentials/ani1x-m0",
    ),
    "integer counters": (
        "pangolin-splice/r1-heart-psplice",
        "pangolin-splice/r1-liver-psplice",
        "pangolin-splice/r1-brain-usage",
    ),
    "a 0-d tensor": (
        "wakeword-zoo/b/en-lisa",
        "wakeword-zoo/b/en-janet",
        "wakeword-zoo/b/en-hey-anna",
    ),
    "torch files": (
        "gnn-gcn-chem/gcn_contextpred.pth",
        "gnn-gcn-chem/gcn_supervised.pth",
        "gnn-gcn-chem/gcn_supervised_contextpred.pth",
    ),
}
ROUNDING = {torch.float16: 2.0**-10, torch.float32: 2.0**-22}

State = Mapping[str, torch.Tensor]


def read(path: Path) -> State:
    if path.is_dir():
        return load_file(path / "model.safetensors")
    state: State = torch.load(path, map_location="cpu", weights_only=True)
    return state


def linear(base: State, a: State, b: State, names: list[str]) -> State:
    return {n: (a[n].double() + b[n].double()) / 2 for n in names}


def task_arithmetic(base: State, a: State, b: State, names: list[str]) -> State:
    return {n: base[n] + 0.5 * (a[n].double() + b[n].double() - 2 * base[n]) for n in names}


def slerp(base: State, a: State, b: State, names: list[str]) -> State:
    merged = {}
    for n in names:
        x, y = a[n].double(), b[n].double()
        norms = float(x.norm() * y.norm()) or 1.0
        angle = (x * y).sum() / norms
        if abs(angle) > 0.9995:
            merged[n] = 0.7 * x + 0.3 * y
        else:
            arc = angle.acos()
            merged[n] = ((0.7 * arc).sin() * x + (0.3 * arc).sin() * y) / arc.sin()
    return merged


def ties(base: State, a: State, b: State, names: list[str]) -> State:
    rows = []
    for expert in (a, b):
        delta = torch.cat([(expert[n].float() - base[n].float()).flatten() for n in names])
        largest = torch.sort(-delta.abs(), stable=True).indices[: int(0.3 * len(delta))]
        rows.append(torch.zeros_like(delta).index_put((largest,), delta[largest]))
    kept = torch.stack(rows)
    sign = kept.sum(0).sign()
    sign[sign == 0] = 1.0 if sign.sum() >= 0 else -1.0
    agree = kept.sign() == sign
    fused = (kept * agree).sum(0).double() / agree.sum(0).clamp_min(1)
    parts = fused.split([base[n].numel() for n in names])
    return {n: base[n] + part.reshape(base[n].shape) for n, part in zip(names, parts, strict=True)}


METHODS = {
    linear: {},
    slerp: {"t": 0.3},
    task_arithmetic: {"lambda": 0.5},
    ties: {"density": 0.3},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_merges_as_the_arithmetic_says_and_replays(family, data, tmp_path):
    sources = [data / path for path in FAMILIES[family]]
    base, a, b = (read(source) for source in sources)
    floats = sorted(n for n, t in base.items() if t.is_floating_point())

    with zoo.open(tmp_path / "registry.db") as registry:
        for name, source in zip(("base", "a", "b"), sources, strict=True):
            registry.register(source, name=name)
        for by_hand, parameters in METHODS.items():
            name = by_hand.__name__
            based = by_hand in (task_arithmetic, ties)
            registry.merge(
                method=name,
                experts=["a", "b"],
                base="base" if based else None,
                parameters=parameters,
                name=name,
            )
            merged = registry.load_state(name)
            expected = by_hand(base, a, b, floats)

            assert sorted(base) == sorted(merged)
            for n, value in merged.items():
                donor = (base if based else a)[n]
                assert (donor.dtype, donor.shape) == (value.dtype, value.shape), n
                if n not in expected:
                    assert torch.equal(donor, value), n
                    continue
                size = base[n].double().abs() + a[n].double().abs() + b[n].double().abs()
                error = (value.double() - expected[n]).abs()
                assert (error <= ROUNDING[value.dtype] * size + 1e-7).all(), (name, n)
            assert registry.verify(name, replay=True).ok
        assert registry.fsck().ok
