"""Many checkpoints taken in by one call: what `register` promises, and all or none."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from zoo import MetricValue, Registration
from zoo.errors import InvalidCheckpoint, InvalidName, NotFound, PluginError, StoreError


@pytest.fixture
def models(tmp_path) -> list[Path]:
    """Five small files, no two alike."""
    made = []
    for i in range(5):
        made.append(tmp_path / f"{i}.safetensors")
        save_file({"w": torch.full((4, 4), float(i)), "b": torch.ones(2) * i}, made[-1])
    return made


def nothing_is_left(registry) -> bool:
    return [] == [*registry.select(), *registry.store.objects(), *registry.store.abandoned()]


def test_versions_come_in_the_order_asked_for_with_all_that_was_said(registry, models):
    base = registry.register(models[0], name="base", kind="base")
    asked = [
        Registration(models[1], "a", base="base", tags={"seed": "1"}, metrics={"accuracy": 0.5}),
        Registration(models[2], "b", task="math", phase="I", license="mit"),
        Registration(str(models[3]), "a", metrics=[MetricValue("loss", 2.0)], origin="elsewhere"),
    ]

    made = registry.register_many(asked)

    assert ["a@1", "b@1", "a@2"] == [v.ref for v in made]
    assert [registry.get(v.ref) for v in made] == made
    first, second, third = made
    assert (base.ref, {"seed": "1"}, {"accuracy": 0.5}) == (first.base, first.tags, first.metrics)
    assert ("math", "I", "mit") == (second.task, second.phase, second.license)
    assert ({"loss": 2.0}, "elsewhere") == (third.metrics, third.source)
    assert "base@1" == registry.lineage("a@1").edges[0]["parent"]
    assert [registry.register(models[i], name="again").digest for i in (1, 2, 3)] == [
        v.digest for v in made
    ]
    assert all((Path(v.path) / "model.safetensors").is_file() for v in made)
    assert registry.fsck().ok


def test_files_that_are_equal_are_stored_once(registry, models):
    made = registry.register_many(Registration(models[0], f"m{i}") for i in range(3))

    assert 1 == len({v.digest for v in made})
    assert 1 == len(list(registry.store.objects()))


def test_no_registrations_are_no_versions(registry):
    assert [] == registry.register_many([])


@pytest.mark.parametrize("mode", ["clone", "copy", "hardlink", "symlink"])
def test_a_link_and_files_beside_the_weights_are_kept_apart(registry, save, mode):
    sources = [save({"w": torch.full((3,), float(i))}, number=i) for i in range(3)]

    made = registry.register_many((Registration(s, "m") for s in sources), link_mode=mode)

    for version, source in zip(made, sources, strict=True):
        for file in ("config.json", "model.safetensors"):
            assert (source / file).read_bytes() == (Path(version.path) / file).read_bytes()


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (Registration("nowhere", "m"), NotFound),
        (Registration("cut.safetensors", "m"), InvalidCheckpoint),
        (Registration("0.safetensors", "../m"), InvalidName),
        (Registration("0.safetensors", "m", kind="pony"), InvalidName),
        (Registration("0.safetensors", "m", base="nobody"), NotFound),
        (Registration("0.safetensors", "m", base="m"), NotFound),
    ],
)
def test_one_that_is_refused_takes_all_others_with_it(
    registry, models, wrong, error, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    Path("cut.safetensors").write_bytes(models[0].read_bytes()[:-1])
    asked = [Registration(path, "m") for path in models]

    with pytest.raises(error):
        registry.register_many([*asked[:2], wrong, *asked[2:]])

    assert nothing_is_left(registry)


def test_a_plugin_that_refuses_one_refuses_all(registry, models, monkeypatch):
    def ask(_hook: str, *, name: str, **_rest: object) -> None:
        if name == "third":
            raise PluginError("no")

    monkeypatch.setattr(registry.plugins, "ask", ask)

    with pytest.raises(PluginError):
        registry.register_many(
            Registration(p, n) for p, n in zip(models, ("first", "second", "third"), strict=False)
        )

    assert nothing_is_left(registry)


def test_every_file_is_durable_before_a_row_is_written(registry, models, monkeypatch):
    synced: set[str] = set()
    fsync = os.fsync

    def noted(fd: int) -> None:
        found = os.fstat(fd)
        fsync(fd)
        synced.add(f"{found.st_dev}:{found.st_ino}")

    def commits(*arguments: object) -> object:
        for _, path, _ in registry.store.objects():
            for needed in (path, path.parent, path.parent.parent):
                found = needed.stat()
                assert f"{found.st_dev}:{found.st_ino}" in synced
        return add_many(*arguments)

    add_many = registry.catalog.add_many
    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(registry.catalog, "add_many", commits)

    assert 5 == len(registry.register_many(Registration(path, "m") for path in models))


def test_a_disk_that_fails_on_one_file_registers_none(registry, models, monkeypatch):
    calls = []
    fsync = os.fsync

    def fails(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 3:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(fd)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails)
        with pytest.raises(StoreError, match="the disk failed"):
            registry.register_many(Registration(path, "m") for path in models)

    registry.gc()
    assert nothing_is_left(registry)


KILLS = """
    import os, signal, sys
    from pathlib import Path
    import zoo
    from zoo.storage.store import Store

    path, *sources = sys.argv[1:]
    asked = [zoo.Registration(source, f"m{i % 2}") for i, source in enumerate(sources)]

    def killed(point, number):
        # Whether a child that is to die at its N-th call came that far.
        child = os.fork()
        if child == 0:
            calls = [0]
            home, name = point
            genuine = getattr(home, name)

            def deadly(*arguments, **named):
                calls[0] += 1
                if calls[0] == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return genuine(*arguments, **named)

            setattr(home, name, deadly)
            with zoo.open(path) as registry:
                registry.register_many(asked)
            os._exit(0)
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])

    with zoo.open(path) as registry:
        registry.plugins
    points = [(os, "mkdir"), (os, "pwrite"), (os, "fsync"), (os, "rename"), (os, "fchmod"),
              (os, "symlink"), (Store, "settle"), (Store, "view")]
    kills = 0
    for point in points:
        number, before = 1, 0
        while number < 40:
            was_killed = killed(point, number)
            kills += was_killed
            with zoo.open(path) as registry:
                made = len(registry.select())
                assert made - before in (0, len(asked)), (point, number, made - before)
                before = made
                assert registry.fsck().ok, (point, number)
                for version in registry.select():
                    assert (registry.path(version.ref) / "model.safetensors").is_file()
                registry.gc(partial_age_days=0)
                assert not [a for a in registry.store.abandoned() if a.age > 60]
            if not was_killed:
                break
            number += 1 if number < 3 else 6
        with zoo.open(path) as registry:
            for version in registry.select():
                registry.remove(version.ref)
            registry.gc(partial_age_days=0)
    print(kills)
"""


def test_a_process_killed_anywhere_leaves_all_of_them_or_none(zoo_path, models):
    zoo_path.parent.mkdir()

    words = [sys.executable, "-c", textwrap.dedent(KILLS), str(zoo_path), *map(str, models)]
    done = subprocess.run(words, capture_output=True, text=True)

    assert (0, "") == (done.returncode, done.stderr)
    assert int(done.stdout) > 15
