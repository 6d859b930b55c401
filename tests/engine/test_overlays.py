"""Versions with parts per task: stored, verified, replayed, resumed, and put together again."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import State, bits, family, left_behind, same_bytes, write

import zoo
from zoo import Registry
from zoo.checkpoints.safetensors_header import read_header
from zoo.errors import (
    GateFailed,
    IncompatibleModels,
    InvalidCheckpoint,
    InvalidRecipe,
    NotFound,
    VerificationFailed,
)
from zoo.networks.loading import opened
from zoo.overlays.overlay import overlay_path, task_names
from zoo.plugins import load_plugins

Register = Callable[..., zoo.Version]
METHODS: dict[str, dict[str, Any]] = {
    "tall_masks": {},
    "emr": {},
    "twin": {"rank_fraction": 0.5},
    "tsv_compress": {},
}
TASKS = ("task-a", "task-b", "task-c")


def stored(registry: Registry, method: str = "emr", name: str = "m", **options: Any) -> zoo.Version:
    """The three members, merged."""
    recipe = {"method": method, "experts": ["a", "b", "c"], "base": "base"}
    recipe |= {"parameters": METHODS.get(method, {}), **options.pop("recipe", {})}
    version = registry.merge(recipe, name=name, **options)
    assert version is not None
    return version


def overlays(registry: Registry, ref: str = "m") -> dict[str, str]:
    """Path -> object."""
    files = registry.catalog.files(registry.get(ref).id)
    return {f.path: f.object for f in files if f.path.startswith("overlays/")}


def flip(path: Path, byte: int = -1) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[byte] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("method", METHODS)
def test_each_task_is_what_the_same_merge_in_memory_gives(
    method: str, registry: Registry, members: list[State]
) -> None:
    base, *experts = members
    stored(registry, method)
    parameters = METHODS[method]
    made = zoo.merge(method, experts, base=base, parameters=parameters)

    assert same_bytes(registry.load_state("m"), dict(made))
    for i, task in enumerate(TASKS):
        found = registry.load_state("m", task=task)
        assert same_bytes(found, made.task(i))
        # Nobody averages counters: each task has its expert's.
        assert torch.tensor(11 + i) == found["norm.num_batches_tracked"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_mask_chooses_between_the_trunks_bits_and_the_bases(
    dtype: torch.dtype, registry: Registry, register: Register
) -> None:
    for name, state in zip(("base", "a", "b", "c"), family(3, dtype), strict=True):
        register(name, state, base=None if name == "base" else "base", task=f"task-{name}")
    stored(registry, "tall_masks")
    trunk, base, found = (
        registry.load_state("m"),
        registry.load_state("base"),
        registry.load_state("m", task="task-b"),
    )

    for key, packed in load_file(registry.path("m") / overlay_path("task-b")).items():
        kind, _, name = key.partition(":")
        if kind != "mask":
            continue
        n = trunk[name].numel()
        mask = (
            torch.from_numpy(np.unpackbits(packed.numpy())[:n])
            .bool()
            .repeat_interleave(dtype.itemsize)
        )
        assert torch.equal(
            torch.where(mask, bits(trunk[name]), bits(base[name])), bits(found[name])
        )


@pytest.mark.parametrize("method", METHODS)
def test_threads_and_memory_change_nothing(
    method: str, registry: Registry, members: list[State]
) -> None:
    for name, threads, memory in (("m", 1, "600MiB"), ("n", 3, "4GiB")):
        stored(registry, method, name, threads=threads, memory=memory)

    assert overlays(registry, "m") == overlays(registry, "n")
    assert {overlay_path(t) for t in TASKS} == overlays(registry).keys()


# Names of tasks


def test_tasks_are_called_as_registered_and_else_as_their_entries(
    registry: Registry, register: Register
) -> None:
    models = family(4)
    register("base", models[0], kind="base")
    for name, task, state in zip(
        ("x", "y", "team/z", "w"),
        ("math", "math", None, "Bild-Entrauschung / 2"),
        models[1:],
        strict=True,
    ):
        register(name, state, base="base", task=task)

    registry.merge(method="emr", where="base = 'base'", order_by="name", name="m")

    assert [overlay_path(t) for t in ("Bild-Entrauschung-2", "team-z", "x", "y")] == sorted(
        overlays(registry)
    )


def test_names_that_two_tasks_share_are_numbered() -> None:
    assert ["a", "a-2", "A-3", "a-2-2"] == task_names(["a", "a", "A", "a-2"])
    assert ["task", "x-..-y", "task-2"] == task_names(["//", "x/../y", "..."])


def test_another_task_is_refused_with_those_there_are(
    registry: Registry, members: list[State]
) -> None:
    stored(registry)
    registry.merge(method="linear", experts=["a", "b"], name="plain")

    with pytest.raises(NotFound, match=r"no task `task-d`. Did you mean `task-"):
        registry.load_state("m", task="task-d")
    with pytest.raises(NotFound, match="one model for everything"):
        registry.export("plain", "nowhere", task="task-a")


# Heads


@pytest.fixture
def heads(register: Register) -> Iterator[list[State]]:
    """A base without a head, and three experts with heads of 2, 3 and 4 classes."""
    models = family(3)
    for i, model in enumerate(models[1:]):
        model["head.weight"] = torch.randn(2 + i, 7, generator=torch.Generator().manual_seed(i))
        model["head.bias"] = torch.arange(2.0 + i)
    register("base", models[0], kind="base")
    for i, name in enumerate("abc"):
        about = {"base": "base", "task": f"task-{name}", "config": {"num_labels": 2 + i}}
        register(name, models[1 + i], **about)
    yield models


@pytest.mark.parametrize("method", METHODS)
def test_heads_stay_with_their_tasks(
    method: str, registry: Registry, heads: list[State], tmp_path: Path
) -> None:
    stored(registry, method, recipe={"exclude": ["head.*"]})

    assert registry.load_state("m").keys() == heads[0].keys()
    for task, expert in zip(TASKS, heads[1:], strict=True):
        found = registry.load_state("m", task=task)
        assert found.keys() == expert.keys()
        assert all(torch.equal(expert[n], found[n]) for n in ("head.weight", "head.bias"))
    assert registry.verify("m", replay=True).ok


def test_a_task_has_the_configuration_of_its_expert(
    registry: Registry, heads: list[State], tmp_path: Path
) -> None:
    stored(registry, recipe={"exclude": ["head.*"]})
    registry.export("m", tmp_path / "all")
    registry.merge(method="linear", experts=["m"], name="later")

    for i, (ref, task) in enumerate((("m", "task-a"), (str(tmp_path / "all"), "task-b"))):
        target = registry.export(ref, tmp_path / task, task=task)
        assert 2 + i == json.loads((target / "config.json").read_text())["num_labels"]
        assert not (target / "overlays").exists()
    assert "num_labels" not in json.loads((registry.path("m") / "config.json").read_text())
    assert not (registry.path("later") / "overlays").exists()
    assert registry.verify("m").ok


def test_heads_that_are_not_excluded_are_refused(registry: Registry, heads: list[State]) -> None:
    with pytest.raises(IncompatibleModels, match=r"head\.weight"):
        stored(registry)


def test_what_is_excluded_and_the_bases_own_takes_no_room(
    registry: Registry, register: Register
) -> None:
    base, a, b = family(2)
    a["layers.0.weight"] = base["layers.0.weight"]
    for name, state in (("base", base), ("a", a), ("b", b)):
        register(name, state, base=None if name == "base" else "base")
    recipe = {"method": "emr", "experts": ["a", "b"], "exclude": ["layers.*"]}
    registry.merge(recipe, name="m")

    parts = load_file(registry.path("m") / overlay_path("a"))
    own = {name for name in parts if name.startswith("full:")}
    assert {"layers.0.bias", "layers.1.weight", "layers.1.bias", "norm.num_batches_tracked"} == {
        k.removeprefix("full:") for k in own
    }
    for task, expert in (("a", a), ("b", b)):
        found = registry.load_state("m", task=task)
        assert all(torch.equal(expert[n], found[n]) for n in expert if n.startswith("layers."))


def test_the_type_asked_for_is_every_tasks_type(registry: Registry, heads: list[State]) -> None:
    stored(registry, "twin", recipe={"exclude": ["head.*"], "dtype": "bfloat16"})

    found = registry.load_state("m", task="task-c")

    types = {n: t.dtype for n, t in found.items() if n != "norm.num_batches_tracked"}
    assert {torch.bfloat16} == set(types.values())
    assert torch.equal(heads[3]["head.weight"].bfloat16(), found["head.weight"])


def test_slices_have_no_room_for_parts(registry: Registry, members: list[State]) -> None:
    models = [{"model": m, "layer_range": [0, 2]} for m in ("base", "a")]
    recipe = {"merge_method": "linear", "slices": [{"sources": models}]}
    registry.plan(recipe | {"parameters": {"weight": 0.5}})

    with pytest.raises((InvalidRecipe, IncompatibleModels)):
        registry.plan(recipe | {"merge_method": "emr", "base_model": "base"})


# Audit


@pytest.mark.parametrize("method", METHODS)
def test_a_sound_version_verifies_replays_and_passes_fsck(
    method: str, registry: Registry, members: list[State]
) -> None:
    stored(registry, method)

    for check in ({}, {"replay": True}, {"replay": True, "sample": 3}):
        assert registry.verify("m", **check).ok
    assert registry.fsck().ok
    assert [] == left_behind(registry)


@pytest.mark.parametrize("byte", [100, -1], ids=["header", "data"])
def test_a_flipped_bit_of_an_overlay_is_found(
    byte: int, registry: Registry, members: list[State]
) -> None:
    stored(registry)
    key = overlays(registry)[overlay_path("task-b")]
    flip(registry.store.path(key), byte)

    try:
        assert (overlay_path("task-b"),) == registry.verify("m").mismatched
        assert not registry.verify("m", replay=True, sample=100).ok or byte == 100
    except InvalidCheckpoint as refused:
        assert byte == 100 and "task-b" in str(refused)
    (damage,) = registry.fsck().damaged
    assert (key, ["m@1"]) == (damage["object"], damage["versions"])


def test_a_replay_that_makes_another_mask_is_found(
    registry: Registry, members: list[State], plugins: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trunk alone would not tell."""
    stored(registry, "tall_masks")
    function = plugins.methods["tall_masks"].function

    def other(deltas: torch.Tensor, **given: Any) -> zoo.Parts:
        made: zoo.Parts = function(deltas, **given)
        assert made.masks is not None
        made.masks[1].logical_not_()
        return made

    monkeypatch.setitem(plugins.methods["tall_masks"].__dict__, "function", other)
    monkeypatch.setitem(plugins.methods["tall_masks"].__dict__, "code_hash", "sha256:0")

    assert (overlay_path("task-b"),) == registry.verify("m", replay=True).mismatched
    sampled = registry.verify("m", replay=True, sample=8).mismatched
    assert sampled and all(n.startswith(overlay_path("task-b") + "/mask:") for n in sampled)


# The base


@pytest.mark.parametrize("method", ["tall_masks", "emr"])
def test_gc_keeps_the_bytes_of_a_removed_base_while_a_mask_needs_them(
    method: str, registry: Registry, members: list[State]
) -> None:
    stored(registry, method)
    before = registry.load_state("m", task="task-a")
    for ref in ("a", "b", "c", "base"):
        registry.remove(ref)
    registry.gc()

    assert same_bytes(before, registry.load_state("m", task="task-a"))
    assert registry.fsck().ok

    registry.remove("m")
    registry.gc()
    assert [] == list(registry.store.objects())


def test_a_base_that_is_gone_is_told_and_may_be_named(
    registry: Registry, members: list[State], tmp_path: Path
) -> None:
    """A directory that a merge wrote knows its base by digest alone."""
    digest = registry.get("base").digest
    recipe = {"method": "emr", "experts": ["a", "b", "c"], "base": "base"}
    registry.merge(recipe, out=tmp_path / "out")
    wanted = registry.load_state(tmp_path / "out", task="task-a")
    kept = registry.export("base", tmp_path / "kept")
    other = registry.export("a", tmp_path / "other")
    elsewhere = tmp_path / "none.db"

    with pytest.raises(NotFound, match=f"(?s){digest}.*--base PATH"):
        zoo.load_state(tmp_path / "out", task="task-a", registry=elsewhere)
    with pytest.raises(VerificationFailed, match="is not the base"):
        zoo.load_state(tmp_path / "out", task="task-a", base=other, registry=elsewhere)
    found = zoo.load_state(tmp_path / "out", task="task-a", base=kept, registry=elsewhere)
    assert same_bytes(wanted, found)
    assert same_bytes(
        dict(zoo.load_state(tmp_path / "out", registry=elsewhere)),
        registry.load_state(tmp_path / "out"),
    )
    assert not elsewhere.exists()


def test_a_base_whose_bytes_were_lost_is_told(registry: Registry, members: list[State]) -> None:
    stored(registry)
    (weights,) = (f for f in registry.catalog.files(registry.get("base").id) if "model" in f.path)
    registry.store.path(weights.object).unlink()

    with pytest.raises(NotFound, match=r"base of `m` is gone"):
        registry.load_state("m", task="task-a")
    assert registry.load_state("m")


# Use


@pytest.mark.parametrize("method", METHODS)
def test_an_exported_task_is_a_plain_model(
    method: str, registry: Registry, members: list[State], tmp_path: Path, load: Any
) -> None:
    stored(registry, method)

    target = registry.export("m", tmp_path / "out", task="task-b")

    assert {"config.json", "model.safetensors"} == {p.name for p in target.iterdir()}
    assert same_bytes(registry.load_state("m", task="task-b"), load(target))
    assert registry.register(target, name="again").digest


def test_a_version_that_leaves_and_comes_back_keeps_its_tasks(
    registry: Registry, members: list[State], tmp_path: Path
) -> None:
    stored(registry)
    registry.export("m", tmp_path / "out")

    registry.register(tmp_path / "out", name="back", kind="merge")

    for task in TASKS:
        assert same_bytes(
            registry.load_state("m", task=task), registry.load_state("back", task=task)
        )
    assert registry.verify("back").ok
    kept = registry.compression("back")
    assert kept is not None and TASKS == tuple(t.task for t in kept.tasks)
    assert kept.ratio is None


def test_a_large_tensor_is_put_together_alike_however_it_is_read(
    registry: Registry, register: Register
) -> None:
    draw = torch.Generator().manual_seed(0)
    for name in ("base", "a", "b"):
        state = {"w": torch.randn(1100, 1009, generator=draw)}
        register(name, state, base=None if name == "base" else "base")
    for method in ("emr", "twin"):
        registry.merge(method=method, experts=["a", "b"], name=method)
        whole = bits(registry.load_state(method, task="b")["w"]).numpy().tobytes()
        with ExitStack() as stack:
            model = opened(registry, method, "b", None, stack).model
            for start, size in ((0, 5), (1, 4_000_003), (4_194_303, 17), (len(whole) - 3, 3)):
                piece = bytearray(size)
                model.read_into("w", start, memoryview(piece))
                assert whole[start : start + size] == bytes(piece)


def test_an_overlay_of_another_model_is_refused(
    registry: Registry, members: list[State], tmp_path: Path
) -> None:
    stored(registry)
    out = registry.export("m", tmp_path / "out")
    path = out / overlay_path("task-a")
    found = load_file(path)
    for wrong in (
        {"mask:layers.0.bias": torch.zeros(9, dtype=torch.uint8)},
        {"mask:no.such": torch.zeros(2, dtype=torch.uint8)},
        {"left:layers.0.weight": torch.zeros(12, 2)},
        {"left:layers.0.weight": torch.zeros(12, 2), "right:layers.0.weight": torch.zeros(3, 7)},
        {"scale:layers.0.bias": torch.zeros(2, dtype=torch.float64)},
        {"what:layers.0.bias": torch.zeros(2)},
    ):
        base = registry.get("base").digest
        save_file({**found, **wrong}, path, {"base": base})
        with pytest.raises(InvalidCheckpoint, match="is no overlay of"):
            registry.load_state(out, task="task-a")


def test_a_scale_beyond_the_type_is_told_when_the_task_is_read() -> None:
    """Rare: a task whose mask leaves next to nothing of a large delta."""
    models = [{"w": torch.tensor(v)} for v in ([60000.0, 1e-3], [-5e4, -1.0], [0.0, 0.0])]
    models[1]["w"][1] = 1e-3
    made = zoo.merge("emr", models[:2], base=models[2], dtype="float16")

    made.overlays[1]["scale:w"].fill_(1e12)
    with pytest.raises(GateFailed, match="does not fit in F16"):
        made.task(1)


# What it takes


@pytest.mark.parametrize("method", METHODS)
def test_the_bytes_of_a_version_are_told_beside_those_of_its_experts(
    method: str, registry: Registry, members: list[State]
) -> None:
    version = stored(registry, method)
    sizes = {f.path: f.bytes for f in registry.catalog.files(version.id)}

    kept = registry.compression("m")

    assert kept is not None
    assert {t.task: sizes[overlay_path(t.task)] for t in kept.tasks} == {
        t.task: t.bytes for t in kept.tasks
    }
    assert ["a@1", "b@1", "c@1"] == [t.expert for t in kept.tasks]
    assert sum(registry.get(r).bytes for r in "abc") == kept.expert_bytes
    assert kept.trunk_bytes in (sizes["model.safetensors"], 0)
    assert kept.expert_bytes / kept.bytes == kept.ratio
    registry.merge(method="linear", experts=["a", "b"], name="plain")
    assert registry.compression("plain") is None


def test_masks_of_bf16_experts_take_a_sixteenth_of_them(
    registry: Registry, register: Register
) -> None:
    draw = torch.Generator().manual_seed(0)
    for name in ("base", *"abcdefgh"):
        state = {"w": torch.randn(512, 128, generator=draw).bfloat16()}
        register(name, state, base=None if name == "base" else "base")

    found = registry.compress(where="kind = 'expert' and base = 'base'", name="m")

    header = 400
    assert all(512 * 128 / 8 <= t.bytes < 512 * 128 / 8 + header for t in found.sizes.tasks)
    # 8 experts in one trunk and 8 masks of a sixteenth of its bytes: 8 / 1.5.
    assert found.sizes.ratio == pytest.approx(8 / 1.5, rel=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_the_error_of_each_task_is_that_of_its_weights(
    method: str, registry: Registry, members: list[State]
) -> None:
    found = registry.compress(
        experts=["a", "b", "c"], method=method, parameters=METHODS[method], name="m"
    )

    for error, expert in zip(found.errors, members[1:], strict=True):
        task = registry.load_state("m", task=error.task)
        names = [n for n in expert if expert[n].is_floating_point() and "running" not in n]

        def norm(a: State, b: State, names: list[str] = names) -> float:
            return sum(float((a[n].double() - b[n]).square().sum()) for n in names) ** 0.5

        zero = {n: torch.zeros_like(expert[n]) for n in names}
        assert error.relative == pytest.approx(norm(task, expert) / norm(expert, zero), abs=1e-9)
        assert error.of_delta == pytest.approx(
            norm(task, expert) / norm(expert, members[0]), abs=1e-9
        )


def test_a_method_of_one_model_does_not_compress(registry: Registry, members: list[State]) -> None:
    with pytest.raises(InvalidRecipe, match="keeps nothing per task"):
        registry.compress(where="kind = 'expert'", method="ties", name="m")
    with pytest.raises(InvalidRecipe, match="one of the two"):
        registry.compress(where="kind = 'expert'", experts=["a"], name="m")
    with pytest.raises(InvalidRecipe, match="one of the two"):
        registry.compress(name="m")


# Interruption

PLUGIN = '''
    import torch
    from zoo import Overlay, Parts, hookimpl, method

    seen, stop_at = [], [0]

    @method("noted", version="1.0.0", overlays=lambda p, e, shape: Overlay("mask"))
    def noted(experts: torch.Tensor, base: torch.Tensor, *, chunk) -> Parts:
        """The mean, a mask per task, and a note of each tensor made."""
        seen.append(chunk.tensor)
        if len(seen) == stop_at[0]:
            raise KeyboardInterrupt
        return Parts(experts.mean(0), masks=experts > base)

    @hookimpl
    def zoo_register_methods(register):
        register(noted)
'''


@pytest.fixture
def noted(zoo_path: Path, members: list[State], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Merges by a method that stops at its n-th tensor, and tells the tensors it made."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "notes.py").write_text(textwrap.dedent(PLUGIN))
    with zoo.open(zoo_path, plugins=load_plugins([tmp_path / "plugins"])) as registry:
        settings = registry.plugins.methods["noted"].function.__globals__

        def merge(stop_at: int = 0) -> tuple[list[str], zoo.Version | None]:
            settings["seen"].clear()
            settings["stop_at"][0] = stop_at
            version = None
            with suppress(KeyboardInterrupt):
                version = stored(registry, "noted", threads=1)
            return list(settings["seen"]), version

        merge.registry = registry  # type: ignore[attr-defined]
        yield merge


def staging(registry: Registry) -> Path:
    (found,) = (registry.store.root / "staging").iterdir()
    return found


def test_an_interrupted_merge_goes_on_and_its_parts_with_it(noted: Any) -> None:
    registry = noted.registry
    first, _ = noted(stop_at=4)

    second, version = noted()

    assert set(first[:3]).isdisjoint(second) and first[3] in second
    assert registry.verify("m", replay=True).ok
    assert version is not None and registry.verify("m").ok
    assert [] == left_behind(registry)


def test_a_part_that_was_damaged_is_made_again_with_its_tensor(noted: Any) -> None:
    registry = noted.registry
    first, _ = noted(stop_at=4)
    path = staging(registry) / overlay_path("task-c")
    (info,) = (t for t in read_header(path).tensors if t.name == f"mask:{first[1]}")
    flip(path, info.offset)

    second, _ = noted()

    assert first[1] in second
    assert {first[0], first[2]}.isdisjoint(second)
    assert registry.verify("m").ok and registry.verify("m", replay=True).ok


@pytest.mark.parametrize("placed", ["model.safetensors", overlay_path("task-b")])
@pytest.mark.parametrize("damaged", [False, True])
def test_a_merge_interrupted_as_it_publishes_goes_on(
    placed: str, damaged: bool, noted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = noted.registry

    def interrupted(registry: Registry, staged: Any, *rest: Any) -> None:
        for record, path in staged.items():
            if record.path == placed:
                with registry.store.publishing():
                    registry.store.place([(path, record.object)])
                if damaged:
                    flip(registry.store.path(record.object))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("zoo.engine.merging.publish", interrupted)
        first, _ = noted()
    assert not (staging(registry) / placed).exists()

    second, version = noted()

    assert version is not None
    assert (set(first) if damaged else set()) == set(second)
    assert registry.verify("m").ok and registry.verify("m", replay=True).ok
    assert registry.fsck().ok


def test_a_directory_gets_the_overlays_too(
    registry: Registry, members: list[State], tmp_path: Path
) -> None:
    stored(registry)
    registry.merge(
        {"method": "emr", "experts": ["a", "b", "c"], "base": "base"}, out=tmp_path / "out"
    )

    for path, key in overlays(registry).items():
        assert registry.store.path(key).read_bytes() == (tmp_path / "out" / path).read_bytes()
    header = (tmp_path / "out" / overlay_path("task-a")).read_bytes()
    length = int.from_bytes(header[:8], "little")
    about = json.loads(header[8 : 8 + length])["__metadata__"]
    assert {
        "format": "pt",
        "zoo.overlay": "1",
        "task": "task-a",
        "base": registry.get("base").digest,
        "expert": registry.get("a").digest,
        "method": "emr 1.0.0",
    } == about


def test_a_state_dict_can_be_compressed_where_it_was_written(tmp_path: Path) -> None:
    """Paths alone, no registry: the merge, its tasks, and the base by its path."""
    paths = [write(tmp_path / str(i), m) for i, m in enumerate(family(2))]
    none = tmp_path / "none.db"
    with zoo.Registry(str(none), create=False) as registry:
        registry.merge(
            {"method": "tall_masks", "experts": [str(p) for p in paths[1:]], "base": str(paths[0])},
            out=tmp_path / "out",
        )
        found = registry.export(
            str(tmp_path / "out"), tmp_path / "one", task="1", base=str(paths[0])
        )

    assert (found / "model.safetensors").is_file()
    assert not none.exists()
