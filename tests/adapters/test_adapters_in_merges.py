"""Adapters as inputs of merges: true deltas, whatever the method, the memory and the threads."""

from __future__ import annotations

import json
import logging
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from small_adapters import base_state, dense, write_adapter

import zoo
from zoo.adapters.adapted import AdaptedCheckpoint
from zoo.adapters.adapter import adapter_in
from zoo.checkpoint import MemoryCheckpoint, state_of
from zoo.errors import IncompatibleModels, NotFound, UnsupportedFormat
from zoo.registry import Registry
from zoo.source import format_of


def largest(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    return max(float((t.double() - theirs[n].double()).abs().max()) for n, t in ours.items())


def test_a_sum_of_two_adapters_is_the_dense_sum(registry: Registry, tmp_path: Path) -> None:
    one, two = dense(tmp_path / "one"), dense(tmp_path / "two")
    recipe = {"method": "task_arithmetic", "experts": ["one", "two"], "dtype": "float32"}

    merged = registry.merge(recipe, name="sum")

    assert merged is not None
    expected = {n: one[n] + two[n] - t.double() for n, t in base_state().items()}
    assert largest(registry.load_state("sum"), expected) < 1e-6
    assert merged.base == "base@1"
    assert registry.verify("sum", replay=True).ok


def test_one_adapter_alone_is_merged_into_its_base_in_the_type_of_the_base(
    registry: Registry, tmp_path: Path
) -> None:
    registry.merge(method="linear", experts=["one"], name="merged")

    ours = registry.load_state("merged")

    expected = {n: t.to(torch.bfloat16) for n, t in dense(tmp_path / "one").items()}
    assert {torch.bfloat16} == {t.dtype for t in ours.values()}
    assert all(torch.equal(t, expected[n]) for n, t in ours.items())


@pytest.mark.parametrize("method", ["ties", "dare", "knots", "breadcrumbs", "slerp", "linear"])
def test_methods_see_what_they_would_see_of_full_models(
    method: str, registry: Registry, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        folder = tmp_path / f"full_{name}"
        folder.mkdir()
        state = {n: t.float() for n, t in dense(tmp_path / name).items()}
        save_file(state, folder / "model.safetensors")
        registry.register(folder, name=f"full_{name}", base="base")
    base = None if method in ("slerp", "linear") else "base"
    # Draws depend on the inputs' digests, so nothing is drawn.
    parameters = {"dare": {"density": 1.0}, "slerp": {"t": 0.3}}.get(method, {})

    def merged(*experts: str) -> dict[str, torch.Tensor]:
        recipe = {"method": method, "experts": list(experts), "dtype": "float32"}
        recipe["parameters"] = parameters
        version = registry.merge({**recipe, **({"base": base} if base else {})}, name="m")
        assert version is not None
        assert registry.verify(version.ref, replay=True).ok
        return registry.load_state(version.ref)

    assert largest(merged("one", "two"), merged("full_one", "full_two")) < 1e-5
    assert largest(merged("one", "full_two"), merged("full_one", "full_two")) < 1e-5


def test_a_query_for_adapters_merges_them(registry: Registry) -> None:
    merged = registry.merge(method="ties", where="kind = 'adapter'", base="base", name="m")

    assert merged is not None
    nodes = {n["ref"]: n for n in registry.lineage("m").as_dict()["nodes"]}
    assert {"m@1", "base@1", "one@1", "two@1"} == nodes.keys()
    assert registry.verify("m", replay=True).ok


def test_lineage_remembers_the_base_of_an_adapter_that_is_merged_alone(registry: Registry) -> None:
    registry.merge(method="linear", experts=["one", "two"], name="m")

    run = registry.catalog.run_of(registry.get("m").id)

    assert run is not None
    base = registry.get("base").id
    assert [("adapted", base)] == [(i.role, i.version) for i in run.inputs if i.role != "expert"]
    assert registry.verify("m", replay=True).ok


def test_the_bytes_are_the_same_over_threads_and_memory(registry: Registry) -> None:
    digests = set()
    for threads, memory in ((1, "1GiB"), (2, "1GiB"), (3, "500MiB"), (1, "370MiB")):
        merged = registry.merge(
            method="ties",
            experts=["one", "two"],
            base="base",
            name="m",
            threads=threads,
            memory=memory,
        )
        assert merged is not None
        digests.add(merged.digest)

    assert 1 == len(digests)


def test_the_digest_of_what_a_merge_of_adapters_makes_is_this(registry: Registry) -> None:
    merged = registry.merge(
        {"method": "task_arithmetic", "experts": ["one", "two"], "dtype": "float32"}, name="m"
    )

    assert merged is not None
    assert "sha256:a1e9b17d582e8134" == merged.digest[:23]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(st.data())
def test_a_read_from_anywhere_gives_the_bytes_of_the_whole(data: st.DataObject) -> None:
    checkpoint = adapted_in_memory(dora=data.draw(st.booleans()))
    name = data.draw(st.sampled_from(sorted(checkpoint.tensors)))
    info = checkpoint.tensors[name]
    whole = bytearray(info.nbytes)
    checkpoint.read_into(name, 0, memoryview(whole))
    start = data.draw(st.integers(0, info.nbytes))
    stop = data.draw(st.integers(start, info.nbytes))

    part = bytearray(stop - start)
    checkpoint.read_into(name, start, memoryview(part))

    assert whole[start:stop] == part


@cache
def adapted_in_memory(dora: bool) -> AdaptedCheckpoint:
    """An adapter of which nothing is on disk; of several blocks."""
    from zoo.adapters.change import Change, Magnitude
    from zoo.adapters.updates import LowRank

    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    base = MemoryCheckpoint({"w": random(300, 700).bfloat16(), "t": random(700, 60).half()})
    factors = MemoryCheckpoint(
        {"b": random(300, 5), "a": random(5, 700), "c": random(60, 3), "d": random(3, 700)}
        | {"m": random(300).abs(), "n": random(60).abs()}
    )
    t = factors.tensors
    changes = {
        "w": Change("w", updates=[LowRank(t["b"], t["a"], 0.3)]),
        "t": Change("t", updates=[LowRank(t["c"], t["d"], 0.3, transposed=True)]),
    }
    if dora:
        changes["w"].magnitude = Magnitude(t["m"], "rows")
        changes["t"].magnitude = Magnitude(t["n"], "columns")
    return AdaptedCheckpoint(base, factors, changes)


@pytest.mark.parametrize("dora", [False, True])
def test_adapted_tensors_are_rounded_once(dora: bool) -> None:
    checkpoint = adapted_in_memory(dora)
    base, factors = state_of(checkpoint._base), state_of(checkpoint._adapter)

    found = state_of(checkpoint)

    w = base["w"].double() + 0.3 * factors["b"].double() @ factors["a"].double()
    t = base["t"].double() + 0.3 * (factors["c"].double() @ factors["d"].double()).T
    if dora:
        w = w / w.norm(dim=1, keepdim=True) * factors["m"].double()[:, None]
        t = t / t.norm(dim=0, keepdim=True) * factors["n"].double()
    assert largest(found, {"w": w, "t": t}) < 1e-6


def test_adapters_given_by_path_are_applied_to_the_base_of_the_merge(
    registry: Registry, tmp_path: Path, base_folder: Path
) -> None:
    paths = [str(tmp_path / "one"), str(tmp_path / "two")]
    registry.merge(method="ties", experts=["one", "two"], base="base", name="stored")

    registry.merge(method="ties", experts=paths, base=str(base_folder), out=tmp_path / "out")

    assert largest(registry.load_state("stored"), registry.load_state(tmp_path / "out")) == 0
    assert len(registry.select()) == 4


def test_adapters_given_by_path_become_versions_of_their_base(
    tmp_path: Path, base_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = write_adapter(tmp_path / "one", 1, base_model_name_or_path=str(base_folder))
    two = write_adapter(tmp_path / "two", 2, base_model_name_or_path=str(base_folder))
    with zoo.open(tmp_path / "r.db") as registry, caplog.at_level(logging.WARNING, "zoo"):
        for _ in range(2):
            registry.merge(method="ties", experts=[str(one), str(two)], name="m")

        found = {v.ref: (v.kind, v.base) for v in registry.select()}

        assert found == {
            "base@1": ("base", None),
            "one@1": ("adapter", "base@1"),
            "two@1": ("adapter", "base@1"),
            "m@1": ("merge", "base@1"),
            "m@2": ("merge", "base@1"),
        }
        assert registry.get("m@1").digest == registry.get("m@2").digest
        assert registry.verify("m", replay=True).ok


def test_a_base_and_an_adapter_are_named_together_as_mergekit_does(
    registry: Registry, tmp_path: Path, base_folder: Path
) -> None:
    config = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [
            {"model": f"{base_folder}+{tmp_path / 'one'}", "parameters": {"weight": 0.5}},
            {"model": "base+two", "parameters": {"weight": 0.25}},
        ],
        "dtype": "float32",
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(config))

    registry.merge(recipe, out=tmp_path / "out")

    one, two = dense(tmp_path / "one"), dense(tmp_path / "two")
    state = {n: t.double() for n, t in base_state().items()}
    expected = {n: t + 0.5 * (one[n] - t) + 0.25 * (two[n] - t) for n, t in state.items()}
    assert largest(registry.load_state(tmp_path / "out"), expected) < 1e-6


def test_a_stored_adapter_is_not_applied_to_another_base(
    registry: Registry, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    save_file({n: t + 1 for n, t in base_state().items()}, folder / "model.safetensors")
    registry.register(folder, name="other", kind="base")

    with pytest.raises(IncompatibleModels, match="adapter of `base@1`"):
        registry.merge(method="linear", experts=["other+one"], out=tmp_path / "out")
    with pytest.raises(UnsupportedFormat, match="is no adapter"):
        registry.merge(method="linear", experts=["base+other"], out=tmp_path / "out")


def test_the_same_factors_with_another_configuration_are_another_model(
    registry: Registry, tmp_path: Path
) -> None:
    registry.register(
        write_adapter(tmp_path / "louder", 1, lora_alpha=16), name="louder", base="base"
    )

    for name in ("one", "louder"):
        registry.merge(
            {"method": "linear", "experts": [name], "dtype": "float32"}, name=f"from-{name}"
        )

    assert registry.get("one").digest == registry.get("louder").digest
    expected = dense(tmp_path / "louder", scale=4.0)
    assert largest(registry.load_state("from-louder"), expected) < 1e-6
    assert registry.verify("from-one", replay=True).ok


def test_an_adapter_of_an_adapter_is_both(registry: Registry, tmp_path: Path) -> None:
    registry.register(tmp_path / "two", name="both", base="one")

    registry.merge({"method": "linear", "experts": ["both"], "dtype": "float32"}, name="m")

    one, two = dense(tmp_path / "one"), dense(tmp_path / "two")
    expected = {n: one[n] + two[n] - t.double() for n, t in base_state().items()}
    assert largest(registry.load_state("m"), expected) < 1e-6
    assert registry.verify("m", replay=True).ok


def test_a_removed_base_keeps_its_bytes_while_an_adapter_of_it_lives(
    registry: Registry, tmp_path: Path
) -> None:
    registry.register(tmp_path / "two", name="both", base="one")
    registry.remove("base")
    registry.remove("one")
    registry.remove("two")
    registry.gc(partial_age_days=0)
    registry.export_zoo(tmp_path / "all.zoo")

    registry.merge(method="linear", experts=["both"], name="m")
    assert registry.verify("m", replay=True).ok
    with zoo.open(tmp_path / "other.db") as other:
        other.import_zoo(tmp_path / "all.zoo")
        other.merge(method="linear", experts=["both"], name="m")
        assert registry.get("m").digest == other.get("m").digest
    registry.remove("both")
    registry.remove("m")
    registry.gc(partial_age_days=0)
    assert [] == list(registry.store.objects())


def test_an_adapter_whose_base_is_lost_says_so(registry: Registry) -> None:
    for file in registry.catalog.files(registry.get("base").id):
        registry.store.path(file.object).unlink()

    with pytest.raises(NotFound, match="bytes of `base@1`"):
        registry.merge(method="linear", experts=["one"], name="m")


def test_opening_reads_no_factor(registry: Registry, tmp_path: Path) -> None:
    with format_of(registry, tmp_path / "one").open(tmp_path / "one") as checkpoint:
        adapter = adapter_in(checkpoint)
        assert adapter is not None
        checkpoint.read_into = None  # type: ignore[assignment,method-assign]  # any read fails

        changes = adapter.changes(MemoryCheckpoint(base_state()).tensors, None, "base")

        assert ["a.proj.weight", "b.proj.weight"] == sorted(changes)
