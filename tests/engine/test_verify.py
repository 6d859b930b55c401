"""Verify finds every changed bit, and replay finds everything that would give other bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import State

import zoo
from zoo import Registry
from zoo.errors import InvalidCheckpoint, InvalidRecipe, NotFound, VerificationFailed
from zoo.plugins import load_plugins

Register = Callable[..., zoo.Version]
METHODS = {"linear": {}, "slerp": {"t": 0.5}, "task_arithmetic": {}, "ties": {"density": 0.5}}


def object_of(registry: Registry, ref: str, path: str = "model.safetensors") -> Path:
    version = registry.get(ref)
    (found,) = (f for f in registry.catalog.files(version.id) if f.path == path)
    return registry.store.path(found.object)


def flip(path: Path, bit: int) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def offset_of(registry: Registry, ref: str, tensor: str) -> int:
    from zoo.checkpoints.safetensors_header import read_header

    header = read_header(object_of(registry, ref))
    (info,) = (t for t in header.tensors if t.name == tensor)
    return info.offset


@pytest.mark.parametrize("method", METHODS)
def test_a_sound_merge_verifies_and_replays(
    method: str, registry: Registry, members: list[State]
) -> None:
    parameters: Any = METHODS[method]
    registry.merge(method=method, experts=["a", "b"], parameters=parameters, name="m")

    read = registry.verify("m").as_dict()
    replayed = registry.verify("m", replay=True, threads=1, memory="600MiB").as_dict()

    assert (True, 8, [], None) == tuple(
        read[k] for k in ("ok", "checked", "mismatched", "replay_class")
    )
    assert (True, 8, []) == tuple(replayed[k] for k in ("ok", "checked", "mismatched"))
    assert ("platform" if method == "slerp" else "exact") == replayed["replay_class"]


def test_a_flipped_bit_is_found_and_its_tensor_named(
    registry: Registry, members: list[State]
) -> None:
    registry.merge(method="ties", experts=["a", "b"], name="m")
    flip(object_of(registry, "m"), 8 * offset_of(registry, "m", "layers.1.weight") + 77)

    verdict = registry.verify("m")

    assert not verdict.ok
    assert ("layers.1.weight",) == verdict.mismatched


def test_a_flipped_bit_in_any_byte_of_a_weights_file_is_found(
    registry: Registry, register: Register
) -> None:
    """Length, header, padding and data alike."""
    register("small", {"w": torch.ones(2), "b": torch.zeros(1)})
    path = object_of(registry, "small")
    assert registry.verify("small").ok

    unnoticed = []
    for byte in range(path.stat().st_size):
        bit = 8 * byte + byte % 8
        flip(path, bit)
        try:
            if registry.verify("small").ok:
                unnoticed.append(bit)
        except InvalidCheckpoint:
            pass
        flip(path, bit)

    assert [] == unnoticed
    assert registry.verify("small").ok


def test_a_changed_file_beside_the_weights_is_named(
    registry: Registry, members: list[State]
) -> None:
    registry.merge(method="linear", experts=["a", "b"], name="m")
    flip(object_of(registry, "m", "zoo_recipe.json"), 99)

    assert ("zoo_recipe.json",) == registry.verify("m").mismatched


def test_lost_bytes_are_told(registry: Registry, members: list[State]) -> None:
    registry.merge(method="linear", experts=["a", "b"], name="m")
    object_of(registry, "m").unlink()

    with pytest.raises(NotFound, match=r"bytes of `m@1` are not in the store.*zoo fsck"):
        registry.verify("m")


@pytest.mark.parametrize("changed", ["a", "base"])
def test_a_replay_finds_a_changed_parent(
    changed: str, registry: Registry, members: list[State]
) -> None:
    registry.merge(method="ties", experts=["a", "b"], name="m", parameters={"density": 1.0})
    # The highest byte of a float, so that the change survives every rounding.
    start = offset_of(registry, changed, "layers.0.weight")
    flip(object_of(registry, changed), 8 * (start + 4 * 30 + 3) + 1)

    verdict = registry.verify("m", replay=True)

    assert not verdict.ok
    assert "layers.0.weight" in verdict.mismatched
    assert registry.verify("m").ok
    assert not registry.verify(changed).ok


def test_a_replay_without_its_parents_says_which_is_gone(
    registry: Registry, members: list[State]
) -> None:
    registry.merge(method="linear", experts=["a", "b"], name="m")
    registry.remove("a")

    assert registry.verify("m", replay=True).ok
    registry.gc()
    with pytest.raises(NotFound, match=r"The bytes of `a@1` are not in the store"):
        registry.verify("m", replay=True)
    assert registry.verify("m").ok


def test_a_sample_derives_that_many_tensors_the_same_ones_each_time(
    registry: Registry, members: list[State]
) -> None:
    registry.merge(method="ties", experts=["a", "b"], name="m")

    class Made:
        total = 0

        def start(self, total_bytes: int, label: str) -> None: ...
        def advance(self, nbytes: int) -> None:
            self.total += nbytes

        def done(self) -> None: ...

    few, all_of_them = Made(), Made()
    assert 3 == registry.verify("m", sample=3, progress=few).checked
    assert 8 == registry.verify("m", sample=100, progress=all_of_them).checked
    assert few.total < all_of_them.total
    assert registry.verify("m", sample=1).ok

    # A change that only some samples can see is seen by them every time.
    start = offset_of(registry, "base", "scale")
    flip(object_of(registry, "base"), 8 * (start + 3) + 1)
    seen = [registry.verify("m", sample=n).ok for n in range(1, 9)]
    assert seen == [registry.verify("m", sample=n).ok for n in range(1, 9)]
    assert not seen[-1] and seen == sorted(seen, reverse=True)


@pytest.mark.parametrize("sample", [0, -1])
def test_an_empty_sample_is_refused(sample: int, registry: Registry, members: list[State]) -> None:
    registry.merge(method="linear", experts=["a", "b"], name="m")

    with pytest.raises(InvalidRecipe, match="proves nothing"):
        registry.verify("m", sample=sample)


def test_what_was_registered_has_no_replay(registry: Registry, members: list[State]) -> None:
    assert registry.verify("a").ok
    with pytest.raises(NotFound, match="was registered, not merged"):
        registry.verify("a", replay=True)


PLUGIN = """
import zoo
from zoo import hookimpl, method

@method("mine", version="{version}")
def mine(experts, *, scale: float = 1.0):
    '''The first, scaled. {note}'''
    return experts[0] * scale

@hookimpl
def zoo_register_methods(register):
    register(mine)
"""


def with_plugin(directory: Path, version: str = "1.0.0", note: str = "", name: str = "mine") -> Any:
    directory.mkdir(parents=True)
    (directory / f"{name}.py").write_text(PLUGIN.format(version=version, note=note))
    return load_plugins([directory])


def test_a_method_that_changed_or_is_gone_is_told(
    zoo_path: Path, members: list[State], tmp_path: Path
) -> None:
    def opened(*args: Any) -> Registry:
        return zoo.open(
            zoo_path, plugins=with_plugin(tmp_path / str(len(args)) / "-".join(args), *args)
        )

    with opened() as registry:
        registry.merge(method="mine", experts=["a"], name="m")
        assert () == registry.verify("m", replay=True).notes
    with opened("1.0.0", "Edited.") as registry:
        verdict = registry.verify("m", replay=True)
        assert verdict.ok
        assert ("the method's code differs from the code that made this version",) == verdict.notes
    with (
        opened("2.0.0") as registry,
        pytest.raises(VerificationFailed, match=r"`mine` is version 2\.0\.0 here, and 1\.0\.0"),
    ):
        registry.verify("m", replay=True)
    with zoo.open(zoo_path) as registry, pytest.raises(NotFound, match=r"Install `mine\.py`,"):
        registry.verify("m", replay=True)


def test_a_replay_writes_nothing(registry: Registry, members: list[State]) -> None:
    registry.merge(method="ties", experts=["a", "b"], name="m")

    def files() -> dict[Path, int]:
        root = registry.store.root
        return {p: p.lstat().st_mtime_ns for p in root.rglob("*") if not p.name.startswith("lock")}

    before = files()
    registry.verify("m", replay=True)
    registry.verify("m")

    assert before == files()


def test_a_merge_with_a_schedule_and_a_dtype_replays(
    registry: Registry, members: list[State]
) -> None:
    registry.merge(
        {
            "method": "task_arithmetic",
            "base": "base",
            "experts": ["a", "b", "a"],
            "dtype": "float16",
            "parameters": {
                "lambda": [
                    {"filter": "bias", "value": 0.0},
                    {"value": {"gradient": [0.25, 1.0]}},
                ],
                "weight": [0.5, -0.25, 1.0],
            },
        },
        name="m",
    )

    assert registry.verify("m", replay=True).ok


ELSEWHERE = """
import torch
import zoo
from zoo import hookimpl, method

OFF = [0.0]

@method("elsewhere", version="1.0.0", replay="platform", tolerance=1e-3)
def elsewhere(experts):
    '''The first, and what another machine would make of it.'''
    return experts[0] * (1 + OFF[0])

@hookimpl
def zoo_register_methods(register):
    register(elsewhere)
"""


@pytest.mark.parametrize(
    ("off", "moved", "ok", "near"),
    [
        (0.0, True, True, 0),
        (5e-4, True, True, 3),
        (5e-4, False, False, 0),
        (1e-2, True, False, 0),
    ],
)
def test_a_replay_on_another_platform_allows_what_the_method_states(
    registry: Registry,
    register: Register,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    off: float,
    moved: bool,
    ok: bool,
    near: int,
) -> None:
    from zoo.engine import verify

    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "elsewhere.py").write_text(ELSEWHERE)
    plugins = load_plugins([tmp_path / "plugins"])
    module = plugins.method("elsewhere").function.__globals__
    state = {name: torch.rand(300) + 1 for name in "xyz"} | {"n": torch.arange(3)}
    register("a", state)
    with zoo.open(registry.url, plugins=plugins) as opened:
        opened.merge(method="elsewhere", experts=["a"], name="m")
        monkeypatch.setitem(module, "OFF", [off])
        if moved:
            here = verify.environment
            monkeypatch.setattr(verify, "environment", lambda *a: here(*a) | {"machine": "vax"})

        verdict = opened.verify("m", replay=True)

    assert ok == verdict.ok
    assert near == len(verdict.near)
    assert moved == any("machine" in note and "here vax" in note for note in verdict.notes)
    assert "platform" == verdict.replay_class
