"""Every flipped bit is found and traced; what is harmless is only noted."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import zoo
from zoo.digest import weights_digest
from zoo.errors import NotFound, StoreError
from zoo.records import RunDraft, RunInput, VersionDraft

STATE = {"w": torch.arange(4.0), "b": torch.tensor(1)}


def flip(path: Path, bit: int) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def weights(registry) -> tuple[str, Path]:
    return next((key, path) for key, path, _ in registry.store.objects() if key.startswith("tree"))


@pytest.mark.parametrize("mode", ["clone", "copy", "hardlink", "symlink"])
def test_registering_the_same_source_mends_a_flipped_bit(registry, save, mode):
    source = save(STATE)
    registry.register(source, name="m")
    flip(weights(registry)[1], -9)
    assert not registry.fsck().ok

    registry.register(source, name="m", link_mode=mode)

    assert registry.fsck().ok
    assert not weights(registry)[1].is_symlink(), "an own copy stays one"


def merged_from(registry, parent: str, name: str) -> None:
    """A version with a run on record, without the cost of merging."""
    version = registry.get(parent)
    tensors = registry.catalog.tensors(version.id)
    draft = VersionDraft(
        name=name,
        kind="merge",
        digest=weights_digest((t.name, t.digest) for t in tensors[:1]),
        tensors=tensors[:1],
        files=(),
    )
    run = RunDraft(
        id="00000000-0000-4000-8000-000000000000",
        kind="merge",
        inputs=(RunInput(version.id, version.digest, "expert", 0),),
        recipe={},
        recipe_digest="sha256:" + "0" * 64,
        method="linear",
        method_version="1.0.0",
        plugin="zoo-registry",
        plugin_version="0",
        code_hash="sha256:" + "0" * 64,
        seed=0,
        selection=None,
        environment={},
        timings={},
        started_at="2026-01-01T00:00:00Z",
        ended_at="2026-01-01T00:00:00Z",
    )
    registry.catalog.add(draft, run)


def test_a_sound_zoo_is_ok_and_everything_was_read(registry, save):
    registry.register(save(STATE), name="m")

    report = registry.fsck()

    sizes = [size for _, _, size in registry.store.objects()]
    assert (True, len(sizes), sum(sizes)) == (
        report.ok,
        report.checked_objects,
        report.checked_bytes,
    )
    assert ([], []) == (report.damaged, report.notes)


def test_every_single_bit_of_a_weights_file_is_guarded(registry, save):
    registry.register(save({"w": torch.ones(2, dtype=torch.uint8)}), name="m")
    key, path = weights(registry)

    for bit in range(path.stat().st_size * 8):
        flip(path, bit)
        assert [key] == [d["object"] for d in found(registry)], f"bit {bit} flipped unseen"
        flip(path, bit)
    assert [] == found(registry)


def found(registry) -> list:
    """Damage of objects alone: the database is not what is flipped here, and is slow to check."""
    from zoo.storage.fsck import damaged_objects

    return damaged_objects(registry)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_change_of_any_object_is_found(registry, save, data):
    if not registry.select():
        registry.register(save({"w": torch.randn(100, 3), "n": torch.arange(9)}), name="m")
    key, path, size = data.draw(st.sampled_from(list(registry.store.objects())))
    good = path.read_bytes()
    start = data.draw(st.integers(0, size))
    bad = (
        good[:start]
        + data.draw(st.binary(max_size=20))
        + good[data.draw(st.integers(start, size)) :]
    )
    path.chmod(0o644)
    path.write_bytes(bad)

    assert ([key] if bad != good else []) == [d["object"] for d in found(registry)]
    path.write_bytes(good)


def test_damage_is_traced_to_versions_and_descendants(registry, save):
    registry.register(save(STATE), name="base")
    registry.register(save(STATE), name="twin")
    registry.register(save({"w": torch.ones(3)}), name="tuned", base="base")
    merged_from(registry, "tuned", "merged")
    key, path = next(
        (f.object, registry.store.path(f.object))
        for f in registry.catalog.files(registry.get("base").id)
        if f.path == "model.safetensors"
    )
    flip(path, 1000)

    report = registry.fsck()

    assert not report.ok
    assert [key] == [d["object"] for d in report.damaged]
    assert ["base@1", "twin@1"] == report.damaged[0]["versions"]
    assert ["merged@1", "tuned@1"] == report.damaged[0]["descendants"]


def test_a_missing_object_is_found(registry, save):
    registry.register(save(STATE), name="m")
    key, path = weights(registry)
    path.unlink()

    report = registry.fsck()

    assert [(key, "it is missing", ["m@1"])] == [
        (d["object"], d["problem"], d["versions"]) for d in report.damaged
    ]


def test_garbage_and_changed_directories_are_only_noted(registry, save):
    registry.register(save(STATE), name="gone")
    registry.register(save({"w": torch.ones(1)}), name="kept")
    registry.remove("gone")
    (registry.path("kept") / "config.json").unlink()

    report = registry.fsck()

    assert report.ok
    assert "1 objects of 176 bytes are in no version: `zoo gc`." == report.notes[0]
    assert report.notes[1].startswith("The directory of kept@1 was changed")


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE events SET subject = 'other' WHERE sequence = 2",
        "UPDATE manifests SET tensors = x'00'",
        "UPDATE manifests SET digest = 'sha256:" + "0" * 64 + "'",
        "PRAGMA foreign_keys=OFF; DELETE FROM manifests",
    ],
)
def test_a_tampered_database_is_found(registry, zoo_path, save, tampering):
    registry.register(save(STATE), name="m")
    with sqlite3.connect(zoo_path) as connection:
        connection.executescript(tampering)
    connection.close()

    report = registry.fsck()

    assert not report.ok
    assert {"database"} == {d["object"] for d in report.damaged}


def test_gc_frees_what_was_removed_and_nothing_else(registry, save):
    registry.register(save(STATE), name="gone")
    registry.register(save({"w": torch.ones(1)}), name="kept")
    registry.remove("gone")

    planned = registry.gc(dry_run=True)
    report = registry.gc()

    assert planned == report
    assert (1, 2) == (report.removed_objects, report.kept_objects)
    assert [("kept", 1)] == list(registry.store.views())
    assert [] == registry.fsck().notes
    assert 0 == registry.gc().removed_objects


def test_gc_keeps_unfinished_merges_until_they_are_old(registry):
    with pytest.raises(KeyboardInterrupt), registry.store.staging("merge-x", keep=True):
        raise KeyboardInterrupt

    assert 0 == registry.gc().removed_staging
    assert 1 == registry.gc(partial_age_days=0).removed_staging
    assert [] == list((registry.store.root / "staging").iterdir())


def test_gc_leaves_the_work_of_the_living(registry):
    with registry.store.staging("merge-x", keep=True) as staging:
        (staging / "part").touch()
        assert 0 == registry.gc(partial_age_days=0).removed_staging
        assert (staging / "part").exists()


def test_two_registries_cannot_share_a_store(registry, save, tmp_path):
    registry.register(save(STATE), name="m")

    for other in ("x.db", "y.db"):
        with pytest.raises(StoreError, match="another zoo") as caught:
            zoo.open(tmp_path / other, store=registry.store.root)
        assert str(tmp_path / other) in str(caught.value)
        assert registry.url in str(caught.value)
    with pytest.raises(NotFound):
        zoo.open(tmp_path / "x.db", create=False)
    with zoo.open(tmp_path / "x.db", store=tmp_path / "x.store") as another:
        another.gc()
    assert registry.fsck().ok


def test_a_registry_with_another_zoos_store_in_its_place_collects_nothing(save, tmp_path):
    for name in ("a", "b"):
        with zoo.open(tmp_path / f"{name}.db") as registry:
            registry.register(save({"w": torch.ones(3)}), name=name)
    (tmp_path / "b.store").rename(tmp_path / "lost")
    (tmp_path / "b.store").symlink_to(tmp_path / "a.store")

    for create in (True, False):
        with pytest.raises(StoreError, match="another zoo") as caught:
            zoo.open(tmp_path / "b.db", create=create)
        files = [os.path.realpath(entry) for entry in Path("/proc/self/fd").iterdir()]

        assert caught.value.__traceback__
        assert str(tmp_path / "b.db") not in files, "it stays open while the error is known"


def test_a_zoo_that_moved_still_owns_its_store(save, tmp_path):
    (tmp_path / "old").mkdir()
    with zoo.open(tmp_path / "old" / "registry.db") as registry:
        registry.register(save(STATE), name="m")
    (tmp_path / "old").rename(tmp_path / "new")

    with zoo.open(tmp_path / "new" / "registry.db", create=False) as registry:
        assert 0 == registry.gc().removed_objects
        assert registry.fsck().ok
