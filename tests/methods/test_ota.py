"""OTA merging with Fast Fisher Grafting, and the artifacts it reads beside the experts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click.testing
import global_oracle
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from zoo_cli.main import cli

import zoo
from zoo.checkpoint import MemoryCheckpoint
from zoo.checkpoints.rank_one import COLUMNS, ROWS, compressed, expanded
from zoo.errors import (
    GateFailed,
    IncompatibleModels,
    InvalidCheckpoint,
    InvalidName,
    InvalidRecipe,
    PluginError,
)
from zoo.plugins import load_plugins
from zoo.testing import MethodConformance

OTA = load_plugins().methods["ota"]
GOLDEN = json.loads((Path(__file__).parent / "golden" / "ota_ffg.json").read_text())
QUICK = settings(deadline=None, max_examples=25)
SHAPES = {
    "layers.0.weight": (6, 5),
    "layers.1.weight": (3, 2, 2, 2),
    "bias": (11,),
    "none": (0, 3),
    "scale": (),
}
State = dict[str, torch.Tensor]


def family(experts: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    """(experts, base, second moments of each expert)"""
    draw = torch.Generator().manual_seed(seed)

    def normal() -> State:
        return {n: torch.randn(s, generator=draw, dtype=torch.float64) for n, s in SHAPES.items()}

    base = normal()
    models = [{n: base[n] + 0.1 * d for n, d in normal().items()} for _ in range(experts)]
    moments = [{n: 1e-3 * d.square() for n, d in normal().items()} for _ in range(experts)]

    def kept(state: State) -> State:
        return {n: v.to(dtype) for n, v in state.items()}

    return [kept(m) for m in models], kept(base), [kept(m) for m in moments]


def ota(experts: Any, base: Any, moments: Any, chunk: int = 1 << 17, **parameters: Any) -> State:
    merged: State = zoo.merge(
        OTA,
        experts,
        base=base,
        artifacts={"exp_avg_sq": moments},
        parameters=parameters,
        chunk=chunk,
    )
    return merged


def wide(state: State) -> dict[str, np.ndarray]:
    return {name: tensor.double().numpy() for name, tensor in state.items()}


def close(found: State, expected: Any, tolerance: float) -> None:
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        assert np.allclose(found[name].double().numpy(), value, rtol=0, atol=tolerance), name


# Golden numbers, and the oracle


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("case", [pytest.param(c, id=c["case"]) for c in GOLDEN])
def test_ota_gives_the_golden_numbers(
    case: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    def tensors(state: dict[str, Any]) -> State:
        return {n: torch.tensor(v, dtype=dtype) for n, v in state.items()}

    given = {k: v for k, v in case["params"].items() if k not in ("second_moments", "output")}
    if "keep_ratio" in given:
        given["density"] = given.pop("keep_ratio")
    base = tensors(case["base"]) if case["base"] else None
    moments = [tensors(m) for m in case["params"]["second_moments"]]
    merged = ota([tensors(m) for m in case["models"]], base, moments, **given)
    close(merged, case["expected"].get("grafted", case["expected"]), tolerance)


CASES: list[dict[str, Any]] = [
    {},
    {"power": 1.0},
    {"power": 0.3},
    {"power": 2.0},
    {"density": 0.4},
    {"density": [0.1, 0.5, 1.0]},
    {"density": 0.3, "fallback": "mean"},
    {"saliency_threshold": [1e-6, 1e-5, 0.0]},
    {"compress": "rank1"},
    {"compress": "rank1", "density": 0.5},
    {"normalize": "mean"},
    {"normalize": "mean", "compress": "rank1", "power": 1.0},
    {"weight": [1.0, 0.5, 2.0], "epsilon": 1e-8},
]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("with_base, chunk", [(True, 7), (True, 1 << 17), (False, 7)])
@pytest.mark.parametrize("parameters", CASES)
def test_ota_gives_what_float64_numpy_gives(
    parameters: dict[str, Any], with_base: bool, chunk: int, dtype: torch.dtype, tolerance: float
) -> None:
    models, base, moments = family(3, dtype=dtype)
    base = base if with_base else None
    merged = ota(models, base, moments, chunk, **parameters)
    expected = global_oracle.ota(
        [wide(m) for m in models],
        wide(base) if base else None,
        [wide(m) for m in moments],
        **parameters,
    )
    close(merged, expected, tolerance)


# Properties


@QUICK
@given(
    seed=st.integers(0, 10**6),
    experts=st.integers(1, 4),
    density=st.floats(0, 1),
    power=st.sampled_from([0.5, 1.0]),
)
def test_the_result_lies_between_the_experts_and_the_base(
    seed: int, experts: int, density: float, power: float
) -> None:
    models, base, moments = family(experts, seed)
    merged = ota(models, base, moments, density=density, power=power)
    for name in base:
        stack = torch.stack([base[name], *(m[name] for m in models)])
        assert bool((merged[name] <= stack.amax(0) + 1e-9).all())
        assert bool((merged[name] >= stack.amin(0) - 1e-9).all())


@QUICK
@given(seed=st.integers(0, 10**6), factor=st.sampled_from([1e-12, 1e-3, 7.0, 1e6]))
def test_a_factor_that_all_second_moments_have_changes_nothing(seed: int, factor: float) -> None:
    models, base, moments = family(3, seed)
    scaled = [{n: v * factor for n, v in m.items()} for m in moments]
    for parameters in ({}, {"density": 0.4}):
        near = ota(models, base, moments, epsilon=0.0, **parameters)
        close(ota(models, base, scaled, epsilon=0.0, **parameters), wide(near), 1e-9)


@QUICK
@given(seed=st.integers(0, 10**6), low=st.floats(0, 1), more=st.floats(0, 1))
def test_what_is_grafted_grows_with_density(seed: int, low: float, more: float) -> None:
    (model,), base, moments = family(1, seed)
    few = ota([model], base, moments, density=low)
    many = ota([model], base, moments, density=max(low, more))
    for name in base:
        assert not bool(((few[name] != base[name]) & (many[name] == base[name])).any())


@QUICK
@given(seed=st.integers(0, 10**6), m=st.integers(1, 9), n=st.integers(1, 9))
def test_a_matrix_kept_as_sums_has_the_same_sums(seed: int, m: int, n: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    v = torch.rand(m, n, generator=draw).square() * 1e-12
    small = compressed(MemoryCheckpoint({"w": v, "b": v[0], "c": v.reshape(m, n, 1)}))
    assert sorted(small.tensors) == ["b", "c", "w" + COLUMNS, "w" + ROWS]
    again = expanded(small)
    data = bytearray(again.tensors["w"].nbytes)
    again.read_into("w", 0, memoryview(data))
    found = np.frombuffer(data, np.float32).reshape(m, n)
    assert np.allclose(found, global_oracle.rank_one(v.double().numpy()), rtol=1e-6, atol=0)
    start, stop = 4 * (m * n // 3), 4 * (m * n - m * n // 4)  # any part of it
    part = bytearray(stop - start)
    again.read_into("w", start, memoryview(part))
    assert bytes(part) == bytes(data[start:stop])


# Edges


def test_one_expert_comes_back_bit_for_bit() -> None:
    (model,), base, moments = family(1, dtype=torch.float32)
    merged = ota([model], base, moments)
    assert all(torch.equal(merged[n], model[n]) for n in model)


def test_density_0_is_the_base_bit_for_bit() -> None:
    models, base, moments = family(2, dtype=torch.float32)
    merged = ota(models, base, moments, density=0.0)
    assert all(torch.equal(merged[n], base[n]) for n in base)


def test_a_density_that_keeps_less_than_one_entry_keeps_none() -> None:
    models, base, moments = family(2)
    merged = ota(models, base, moments, density=1e-6)
    close(merged, wide(base), 0)


def test_second_moments_of_zero_give_the_mean() -> None:
    models, base, moments = family(3)
    zero = [{n: torch.zeros_like(v) for n, v in m.items()} for m in moments]
    mean = {n: torch.stack([m[n] for m in models]).mean(0) for n in base}
    close(ota(models, base, zero), wide(mean), 1e-12)
    close(ota(models, base, zero, epsilon=0.0), wide(base), 0)  # no weight at all: the base
    for parameters in ({"compress": "rank1"}, {"normalize": "mean"}):
        close(ota(models, base, zero, **parameters), wide(mean), 1e-12)


def test_the_moments_of_a_language_model_do_not_vanish_in_float32() -> None:
    models, base, moments = family(2, dtype=torch.float32)
    tiny = [{n: v * 1e-27 for n, v in m.items()} for m in moments]
    small = [{n: base[n] + (m[n] - base[n]) * 1e-4 for n in base} for m in models]
    merged = ota(small, base, tiny, density=0.5, epsilon=0.0)
    changed = sum(int((merged[n] != base[n]).sum()) for n in base)
    assert changed > 20  # products of these are below what float32 holds


def test_a_tensor_without_moments_is_averaged_and_noted() -> None:
    models, base, moments = family(2)
    del moments[1]["bias"]
    merged = ota(models, base, moments, density=0.5, compress="rank1", normalize="mean")
    expected = global_oracle.ota(
        [wide(m) for m in models],
        wide(base),
        [wide(m) for m in moments],
        density=0.5,
        compress="rank1",
        normalize="mean",
    )
    close(merged, expected, 1e-9)


@pytest.mark.parametrize("bad, message", [(-1.0, "negative"), (float("nan"), "not finite")])
def test_second_moments_that_cannot_be_are_refused(bad: float, message: str) -> None:
    models, base, moments = family(2)
    moments[1]["bias"][3] = bad
    with pytest.raises(GateFailed, match=message) as raised:
        ota(models, base, moments)
    assert "bias" in str(raised.value)


def test_missing_moments_are_a_problem_with_its_remedy() -> None:
    models, base, moments = family(2)
    with pytest.raises(IncompatibleModels, match=r"needs `exp_avg_sq` beside `expert 1`.*attach"):
        ota(models, base, moments[:1])


def test_moments_of_another_shape_are_a_problem() -> None:
    models, base, moments = family(2)
    moments[0]["bias"] = torch.zeros(3)
    moments[1]["surplus"] = torch.zeros(3)
    with pytest.raises(IncompatibleModels) as raised:
        ota(models, base, moments)
    assert "`bias` is [3]" in str(raised.value)
    assert "surplus" in str(raised.value)


def test_two_masks_at_once_are_refused() -> None:
    models, base, moments = family(2)
    with pytest.raises(InvalidRecipe, match="give one of them"):
        ota(models, base, moments, density=0.5, saliency_threshold=1e-9)


def test_a_method_names_its_artifacts_last() -> None:
    def careless(experts: Any, exp_avg_sq: Any, base: Any) -> Any:
        """Average."""

    with pytest.raises(PluginError, match="last positional arguments"):
        zoo.method("careless", version="1.0.0", artifacts=["exp_avg_sq"])(careless)


class TestOta(MethodConformance):
    method = OTA


class TestFastFisherGrafting(MethodConformance):
    method = OTA
    parameters = {"density": 0.3, "compress": "rank1", "normalize": "mean"}


# In a registry


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[zoo.Registry]:
    with zoo.open(tmp_path / "registry.db") as opened:
        yield opened


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, State], str]:
    def save(name: str, state: State) -> str:
        save_file(state, tmp_path / f"{name}.safetensors")
        return str(tmp_path / f"{name}.safetensors")

    return save


@pytest.fixture
def members(registry: zoo.Registry, write: Callable[[str, State], str]) -> Any:
    """`base`, and `a` and `b` with their second moments attached."""
    models, base, moments = family(2, dtype=torch.float32)
    registry.register(write("base", base), name="base", kind="base")
    for name, model, own in zip("ab", models, moments, strict=True):
        registry.register(write(name, model), name=name, base="base", task=f"task-{name}")
        registry.attach(name, "exp_avg_sq", write(f"{name}-adam", own))
    return models, base, moments


def result(registry: zoo.Registry, version: zoo.Version | None) -> State:
    assert version is not None
    return load_file(registry.path(version.ref) / "model.safetensors")


def test_a_merge_finds_what_is_attached_to_its_experts(registry: Any, members: Any) -> None:
    merged = registry.merge(method="ota", experts=["a", "b"], base="base", name="ab")
    in_memory = ota(*members)
    found = result(registry, merged)
    assert all(torch.equal(found[n], in_memory[n]) for n in found)


def test_lineage_and_lock_say_which_artifacts_went_in(registry: Any, members: Any) -> None:
    merged = registry.merge(method="ota", experts=["a", "b"], base="base", name="ab")
    edges = registry.lineage(merged.ref).edges
    parents = {(e["role"], e["parent"]) for e in edges if e["child"] == merged.ref}
    assert parents == {
        ("base", "base@1"),
        ("expert", "a@1"),
        ("expert", "b@1"),
        ("exp_avg_sq", "a.exp_avg_sq@1"),
        ("exp_avg_sq", "b.exp_avg_sq@1"),
    }
    lock = json.loads((registry.path(merged.ref) / "zoo_recipe.json").read_text())["recipe"]
    attached = [registry.get(f"{n}.exp_avg_sq").digest for n in "ab"]
    assert lock["artifacts"] == {"exp_avg_sq": attached}


def test_a_merge_with_artifacts_replays(registry: Any, members: Any, write: Any) -> None:
    merged = registry.merge(
        method="ota", experts=["a", "b"], base="base", name="ab", parameters={"density": 0.4}
    )
    newer = {n: v + 1 for n, v in members[2][0].items()}
    registry.attach("a", "exp_avg_sq", write("newer", newer))  # the lock names the older one
    assert registry.verify(merged.ref, replay=True).ok
    again = registry.merge(
        method="ota", experts=["a", "b"], base="base", name="ab", parameters={"density": 0.4}
    )
    assert again.digest != merged.digest


def test_gc_keeps_artifacts_and_fsck_checks_them(registry: Any, members: Any) -> None:
    registry.gc()
    assert registry.fsck().as_dict()["ok"]
    assert registry.merge(method="ota", experts=["a", "b"], base="base", name="ab")


def test_an_artifact_is_a_version_and_no_expert(registry: Any, members: Any) -> None:
    artifact = registry.get("a.exp_avg_sq")
    assert (artifact.kind, artifact.base, artifact.task) == ("artifact", "a@1", "task-a")
    merged = registry.merge(
        method="linear", where="task is not null and kind != 'merge'", order_by="name", name="mean"
    )
    edges = registry.lineage(merged.ref).edges
    assert {e["parent"] for e in edges if e["role"] == "expert"} == {"a@1", "b@1"}


def test_a_recipe_names_artifacts_beside_its_experts(
    registry: Any, members: Any, write: Any
) -> None:
    models, base, moments = members
    other = [{n: v * 3 + 1e-3 for n, v in m.items()} for m in moments]
    recipe = {
        "method": "ota",
        "base": "base",
        "experts": [
            {"model": "a", "exp_avg_sq": write("other", other[0]), "weight": 0.5},
            {"model": "b", "exp_avg_sq": "a.exp_avg_sq"},
        ],
    }
    merged = registry.merge(recipe, name="ab")
    expected = ota(models, base, [other[0], moments[0]], weight=[0.5, 1.0])
    found = result(registry, merged)
    assert all(torch.equal(found[n], expected[n]) for n in found)
    assert registry.get("a.exp_avg_sq").version == 2  # the path was registered
    assert registry.verify(merged.ref, replay=True).ok


def test_paths_merge_with_artifacts_and_no_registry(tmp_path: Path, write: Any) -> None:
    models, base, moments = family(2, dtype=torch.float32)
    recipe = {
        "method": "ota",
        "base": write("base", base),
        "experts": [
            {"model": write(f"m{i}", m), "exp_avg_sq": write(f"v{i}", v)}
            for i, (m, v) in enumerate(zip(models, moments, strict=True))
        ],
    }
    with zoo.open(tmp_path / "registry.db") as registry:
        registry.merge(recipe, out=tmp_path / "out")
        found = load_file(tmp_path / "out" / "model.safetensors")
        expected = ota(models, base, moments)
        assert all(torch.equal(found[n], expected[n]) for n in found)
        version = registry.merge(recipe, name="kept")
        assert registry.get("m0.exp_avg_sq").kind == "artifact"
        assert registry.verify(version.ref, replay=True).ok


def test_compressed_moments_are_small_and_merge_like_compressing_late(
    registry: Any, members: Any, write: Any
) -> None:
    models, base, moments = members
    for name, own in zip("ab", moments, strict=True):
        version = registry.attach(name, "exp_avg_sq", write(f"{name}-s", own), compress="rank1")
        names = {t.name for t in registry.catalog.tensors(version.id)}
        assert "layers.0.weight" + ROWS in names
        assert "layers.0.weight" not in names
    merged = registry.merge(method="ota", experts=["a", "b"], base="base", name="ab")
    close(result(registry, merged), wide(ota(models, base, moments, compress="rank1")), 1e-6)


def test_a_plan_tells_of_tensors_without_moments(registry: Any, members: Any, write: Any) -> None:
    registry.attach("a", "exp_avg_sq", write("few", {"bias": members[2][0]["bias"]}))
    plan = registry.plan(method="ota", experts=["a", "b"], base="base")
    assert any("exp_avg_sq" in note and "layers.0.weight" in note for note in plan.notes)


def test_attaching_what_does_not_fit_is_refused(registry: Any, members: Any, write: Any) -> None:
    with pytest.raises(IncompatibleModels, match="surplus"):
        registry.attach("a", "exp_avg_sq", write("wrong", {"surplus": torch.zeros(2)}))
    with pytest.raises(IncompatibleModels, match="of floats"):
        registry.attach("a", "exp_avg_sq", write("ints", {"bias": torch.zeros(11).int()}))
    with pytest.raises(InvalidName, match="role"):
        registry.attach("a", "../role", write("bad", {"bias": torch.zeros(11)}))


def test_half_of_a_compressed_matrix_is_refused(registry: Any, members: Any, write: Any) -> None:
    half = {"layers.0.weight" + ROWS: torch.zeros(6)}
    with pytest.raises(InvalidCheckpoint, match="both of its sums"):
        registry.attach("a", "exp_avg_sq", write("half", half))


def test_tied_tensors_share_their_moments(registry: Any, write: Any, tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(1)

    def model() -> State:
        embedding = torch.randn(6, 4, generator=draw)
        return {"embed_tokens.weight": embedding, "lm_head.weight": embedding.clone()}

    for i, name in enumerate(["base", "a", "b"]):
        folder = tmp_path / f"tied-{name}"
        folder.mkdir()
        save_file(model(), folder / "model.safetensors")
        (folder / "config.json").write_text('{"tie_word_embeddings": true}')
        registry.register(folder, name=name, base="base" if i else None)
        if i:
            own = {"embed_tokens.weight": torch.rand(6, 4, generator=draw)}
            registry.attach(name, "exp_avg_sq", write(f"{name}-v", own))
    merged = registry.merge(method="ota", experts=["a", "b"], base="base", name="ab")
    found = result(registry, merged)
    assert torch.equal(found["embed_tokens.weight"], found["lm_head.weight"])
    assert not torch.equal(
        found["lm_head.weight"],
        (
            result(registry, registry.get("a"))["lm_head.weight"]
            + result(registry, registry.get("b"))["lm_head.weight"]
        )
        / 2,
    )


def test_the_command_line_attaches(tmp_path: Path, members: Any, write: Any) -> None:
    source = write("again", members[2][0])
    where = ["--registry", str(tmp_path / "registry.db")]
    ran = click.testing.CliRunner().invoke(
        cli,
        [*where, "attach", "a", "exp_avg_sq", source, "--compress", "rank1", "--json"],
        prog_name="zoo",
    )
    assert ran.exit_code == 0, ran.output
    shown = json.loads(ran.output)
    assert (shown["name"], shown["kind"], shown["base"]) == ("a.exp_avg_sq", "artifact", "a@1")
