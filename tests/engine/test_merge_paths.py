"""Models given by path, and results written to a directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_models import State, family, write

import zoo
from zoo import Registry
from zoo.digest import json_digest
from zoo.engine.shards import ShardWriter
from zoo.errors import GateFailed, IncompatibleModels, InvalidRecipe, StoreError
from zoo.storage.becoming import becoming


def two(tmp_path: Path) -> list[str]:
    return [str(write(tmp_path / n, s)) for n, s in zip("xy", family(2)[1:], strict=True)]


def test_paths_are_registered_only_after_every_check_has_passed(
    registry: Registry, tmp_path: Path
) -> None:
    good = write(tmp_path / "good", {"w": torch.zeros(3)})
    bad = write(tmp_path / "bad", {"v": torch.zeros(3)})

    with pytest.raises(IncompatibleModels):
        registry.merge(method="linear", experts=[str(good), str(bad)], name="m")
    assert [] == registry.select()


def test_a_path_never_becomes_a_version_of_an_entry_that_is_there(
    registry: Registry, register: Callable[..., zoo.Version], tmp_path: Path
) -> None:
    taken = register("x", {"w": torch.zeros(3)})
    mine = write(tmp_path / "other" / "x", {"w": torch.ones(3)})
    odd = write(tmp_path / "my model!", {"w": torch.full((3,), 2.0)})
    merged = registry.merge(method="linear", experts=[str(mine), str(odd)], name="m")

    assert merged is not None
    assert taken == registry.get("x")
    parents = [n["ref"] for n in registry.lineage("m").nodes if n["ref"] != "m@1"]
    assert "my-model@1" in parents
    assert any(p.startswith("x-") for p in parents)


def test_a_path_with_registered_weights_is_that_version(
    registry: Registry, register: Callable[..., zoo.Version], tmp_path: Path
) -> None:
    known = register("known", {"w": torch.zeros(3)})
    again = write(tmp_path / "again", {"w": torch.zeros(3)})
    registry.merge(method="linear", experts=[str(again)], name="m")

    assert {"known@1", "m@1"} == {v.ref for v in registry.select()}
    assert known.ref in [n["ref"] for n in registry.lineage("m").nodes]


def test_registered_weights_with_another_configuration_are_another_version(
    registry: Registry, register: Callable[..., zoo.Version], tmp_path: Path
) -> None:
    def state(seed: int) -> State:
        rows = torch.rand(40, 3, generator=torch.Generator().manual_seed(seed))
        return {n: rows.clone() for n in ("model.embed_tokens.weight", "lm_head.weight")}

    register("tied", state(0), config={"tie_word_embeddings": True})
    register("expert", state(1))
    untied = write(tmp_path / "untied", state(0), tie_word_embeddings=False)
    asked = {"method": "dare", "experts": ["expert"], "base": str(untied)}

    for name in ("once", "twice"):
        registry.merge(**asked, name=name)

    # Tied or not decides which draws the head gets: the record has to name the right one.
    assert registry.verify("once", replay=True).ok
    assert "untied@1" == registry.get("once").base == registry.get("twice").base


def test_equal_weights_with_other_configurations_are_other_recipes(
    registry: Registry, register: Callable[..., zoo.Version]
) -> None:
    weights = {"w": torch.zeros(3)}
    register("tied", weights, config={"tie_word_embeddings": True})
    register("plain", weights)

    tied, plain = (
        registry.plan(method="linear", experts=[name]).lock for name in ("tied", "plain")
    )

    assert tied["experts"] == plain["experts"]
    assert json_digest(tied) != json_digest(plain)
    files = registry.catalog.files(registry.get("tied").id)
    assert [f.object for f in files if f.path == "config.json"] == tied["configs"]


def test_a_merge_of_paths_into_a_directory_makes_no_registry(tmp_path: Path) -> None:
    with Registry(str(tmp_path / "none.db"), create=False) as registry:
        registry.merge(method="linear", experts=two(tmp_path), out=tmp_path / "deep" / "out")

    assert not (tmp_path / "none.db").exists()
    assert (tmp_path / "deep" / "out" / "model.safetensors").is_file()
    assert ["out"] == [p.name for p in (tmp_path / "deep").iterdir()]


def test_directories_made_for_an_output_vanish_with_the_merge(
    registry: Registry, tmp_path: Path
) -> None:
    sick = write(tmp_path / "sick", {"w": torch.full((3,), torch.nan)})
    before = sorted(tmp_path.iterdir())

    with pytest.raises(GateFailed):
        registry.merge(
            method="linear", experts=[str(sick)], out=tmp_path / "some" / "where" / "out"
        )

    assert before == sorted(tmp_path.iterdir())


def test_the_current_directory_can_be_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experts = two(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with Registry("none.db", create=False) as registry:
        registry.merge(method="linear", experts=experts, out=".")

    assert (tmp_path / "here" / "model.safetensors").is_file()


def test_an_output_that_cannot_be_made_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        Registry("none.db", create=False) as registry,
        pytest.raises(StoreError, match="cannot be made"),
    ):
        registry.merge(method="linear", experts=two(tmp_path), out=tmp_path / "file" / "out")


def test_two_writers_of_one_directory_exclude_each_other(tmp_path: Path) -> None:
    with becoming(tmp_path / "out") as partial:
        (partial / "mine").touch()
        with (
            pytest.raises(StoreError, match="Another process is writing"),
            becoming(tmp_path / "out"),
        ):
            pass
        assert (partial / "mine").exists()

    assert ["mine"] == [p.name for p in (tmp_path / "out").iterdir()]


def test_what_another_recipe_left_does_not_reach_the_output(tmp_path: Path) -> None:
    left = tmp_path / ".out.partial"
    (left / "folder").mkdir(parents=True)
    for stale in ("a_tokenizer.json", "model.safetensors.index.json", "folder/deep.txt"):
        (left / stale).write_text("{}")
    with Registry("none.db", create=False) as registry:
        registry.merge(method="linear", experts=two(tmp_path), out=tmp_path / "out")

    made = {"README.md", "mergekit_config.yml", "zoo_recipe.json"}
    assert {"model.safetensors", "config.json"} | made == {
        p.name for p in (tmp_path / "out").iterdir()
    }


def test_a_merge_killed_while_it_is_published_is_not_made_again(
    registry: Registry,
    members: list[State],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All files are in the store and the transaction never came: nothing is left to compute."""

    def asked() -> zoo.Version | None:
        return registry.merge(method="linear", experts=["a", "b"], name="m")

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(registry.catalog, "add_many", _interrupt)
        asked()
    made: list[str] = []
    finished = ShardWriter.finished
    monkeypatch.setattr(
        ShardWriter, "finished", lambda s, i, d: (made.append(i.name), finished(s, i, d))
    )
    version = asked()

    assert version is not None
    assert [] == made
    assert registry.verify("m", replay=True).ok
    assert registry.fsck().ok


def test_a_result_in_several_shards_loads_replays_and_resumes(
    registry: Registry, members: list[State], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("zoo.recipes.recipe.SHARD_BYTES", 400)
    version = registry.merge(method="linear", experts=["a", "b"], name="m", out=tmp_path / "out")
    files = sorted(p.name for p in (tmp_path / "out").glob("*.safetensors"))
    state = {n: t for f in files for n, t in load_file(tmp_path / "out" / f).items()}

    assert version is not None
    assert len(files) > 1
    assert (tmp_path / "out" / "model.safetensors.index.json").is_file()
    assert members[1].keys() == state.keys()
    assert registry.verify("m").ok
    assert registry.verify("m", replay=True).ok


def test_large_tensors_come_out_alike_for_any_threads_and_budget(
    registry: Registry, register: Callable[..., zoo.Version]
) -> None:
    """Over a million elements: many chunks, several reads, and several in flight."""
    generator = torch.Generator().manual_seed(1)
    for name in ("base", "a", "b"):
        values = torch.randn(1_200_000, generator=generator)
        register(name, {"w": values, "v": values[:700_001] / 3}, kind="base")
    made = [
        registry.merge(
            method=method,
            experts=["a", "b"],
            base="base",
            parameters=parameters,
            name="m",
            threads=threads,
            memory=memory,
        )
        for method, parameters in (
            ("ties", {"density": 0.3}),
            ("ties", {"density": 0.3, "scope": "tensor", "zero_sign": "positive"}),
            ("slerp", {"t": 0.4}),
        )
        for threads, memory in ((1, "400MiB"), (2, "1GiB"), (3, "4GiB"))
    ]

    assert [1, 1, 1] == [len({v.digest for v in made[i : i + 3] if v}) for i in (0, 3, 6)]


@pytest.mark.parametrize("memory", ["1", "0", "250MiB"])
def test_a_budget_no_thread_fits_in_is_refused(
    memory: str, registry: Registry, members: list[State]
) -> None:
    with pytest.raises(IncompatibleModels, match="Pass --memory"):
        registry.merge(method="linear", experts=["a", "b"], name="m", memory=memory)


def test_more_threads_than_the_budget_allows_are_not_started(
    registry: Registry, members: list[State]
) -> None:
    plan = registry.plan(method="linear", experts=["a"] * 40, threads=64, memory="600MiB")

    assert 1 <= plan.threads < 64
    assert plan.peak_memory <= 600 << 20


@pytest.mark.parametrize("device", ["foo", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_before_any_work(
    device: str, registry: Registry, members: list[State]
) -> None:
    with pytest.raises(InvalidRecipe, match="no device"):
        registry.merge(method="linear", experts=["a", "b"], name="m", device=device)
    assert [] == list((registry.store.root / "staging").iterdir())


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_is_checked_whatever_door_it_comes_through(
    seed: int, registry: Registry, members: list[State]
) -> None:
    with pytest.raises(InvalidRecipe, match="seed"):
        registry.plan(method="linear", experts=["a", "b"], seed=seed)


def test_a_recipe_whose_aliases_explode_is_refused(registry: Registry, tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for i in range(1, 10):
        lines.append(f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 10) + "]")
    recipe = tmp_path / "bomb.yaml"
    recipe.write_text("\n".join([*lines, "method: linear", "experts: [a]", "base: *a9"]))

    with pytest.raises(InvalidRecipe, match="unfolds"):
        registry.merge(recipe, name="m")


def test_tensors_without_names_merge_in_memory() -> None:
    merged = zoo.merge("linear", [torch.zeros(2), torch.ones(2)])

    assert [0.5, 0.5] == merged.tolist()


def test_torch_keeps_one_thread_until_the_last_merge_ends() -> None:
    from zoo.engine.single_thread import single_threaded_torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    first, second = single_threaded_torch(), single_threaded_torch()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    inside = torch.get_num_threads()
    second.__exit__(None, None, None)
    after = torch.get_num_threads()
    torch.set_num_threads(before)

    assert (1, 2) == (inside, after)


@pytest.mark.parametrize("threads", [0, -1])
def test_fewer_threads_than_one_are_refused(
    threads: int, registry: Registry, members: list[State]
) -> None:
    with pytest.raises(InvalidRecipe, match="at least one thread"):
        registry.merge(method="linear", experts=["a", "b"], name="m", threads=threads)


def test_a_list_of_gradients_is_one_for_each_expert() -> None:
    low = {"layers.0.w": torch.zeros(1), "layers.1.w": torch.zeros(1)}
    high = {n: t + 1 for n, t in low.items()}
    weight = [{"gradient": [1, 0]}, {"gradient": [0, 1]}]
    merged = zoo.merge("linear", [low, high], parameters={"weight": weight})

    assert [0.0, 1.0] == [merged["layers.0.w"].item(), merged["layers.1.w"].item()]


def test_integers_that_differ_are_told_and_taken_from_the_base(
    registry: Registry, members: list[State]
) -> None:
    plan = registry.plan(method="task_arithmetic", experts=["a", "b"], base="base")

    assert any("`norm.num_batches_tracked`" in note for note in plan.notes)
    assert any("those of `base@1` are kept" in note for note in plan.notes)


def test_an_object_damaged_while_a_publish_was_interrupted_is_made_again(
    registry: Registry,
    members: list[State],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(registry.catalog, "add_many", _interrupt)
        registry.merge(method="linear", experts=["a", "b"], name="m")
    live = registry.catalog.live_objects()
    (orphan,) = [p for k, p, _ in registry.store.objects() if k[:4] == "tree" and k not in live]
    damaged = bytearray(orphan.read_bytes())
    damaged[-1] ^= 1
    orphan.chmod(0o644)
    orphan.write_bytes(damaged)
    registry.merge(method="linear", experts=["a", "b"], name="m")

    assert registry.verify("m").ok
    assert registry.fsck().ok


def _interrupt(*args: object) -> None:
    raise KeyboardInterrupt
