"""Digests of unchanged files are remembered by merges that register nothing, and by no others."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from time import sleep, time_ns
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from small_models import family, write
from zoo_cli.main import cli

import zoo
from zoo import Registry
from zoo.checkpoints.hashing import HashPool

HOUR = 3600 * 10**9
STAT = ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
WRONG = "sha256:" + "0" * 64

Hashed = Callable[..., list[str]]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own, an hour after its files were written."""
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("zoo.storage.known_digests.time_ns", lambda: time_ns() + HOUR)
    return tmp_path / "cache"


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / n, s) for n, s in zip("xy", family(2)[1:], strict=True)]


@pytest.fixture
def hashed(
    registry: Registry, models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Hashed:
    """Merges to a new directory, `out-1` and on; which models have tensors that were hashed."""
    asked: list[str] = []
    tensor = HashPool.tensor
    count = iter(range(1, 100))

    def counted(pool: HashPool, checkpoint: Any, *rest: Any, **named: Any) -> Any:
        asked.append(Path(checkpoint.opened.origin).stem)
        return tensor(pool, checkpoint, *rest, **named)

    monkeypatch.setattr(HashPool, "tensor", counted)

    def merge(**options: Any) -> list[str]:
        asked.clear()
        experts = options.pop("experts", [str(m) for m in models])
        options.setdefault("out", tmp_path / f"out-{next(count)}")
        registry.merge(method="linear", experts=experts, **options)
        return sorted(set(asked))

    return merge


def experts_of(directory: Path) -> list[str]:
    """The digests that a merged directory says its experts have."""
    found: list[str] = json.loads((directory / "zoo_recipe.json").read_text())["recipe"]["experts"]
    return found


def falsify(cache: Path) -> None:
    """Make every remembered digest wrong, so that whoever trusts one can be told."""
    for entry in cache.iterdir():
        content = json.loads(entry.read_text())
        content["tensors"] = dict.fromkeys(content["tensors"], WRONG)
        entry.write_text(json.dumps(content))


def weights(model: Path) -> Path:
    return model / "model.safetensors"


def entry_of(cache: Path, model: Path) -> Path:
    name = sha256(os.fsencode(weights(model).resolve())).hexdigest()
    return cache / f"{name}.json"


def everything_in(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in directory.iterdir()}


def test_a_second_merge_hashes_nothing_and_writes_the_same_bytes(
    cache: Path, hashed: Hashed, models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ["x", "y"] == hashed()
    assert [] == hashed()
    monkeypatch.setenv("ZOO_CACHE_DIR", "")
    assert ["x", "y"] == hashed()

    assert {entry_of(cache, m) for m in models} == set(cache.iterdir())
    first, second, without = (everything_in(tmp_path / f"out-{i}") for i in (1, 2, 3))
    assert first == second == without


def test_only_files_that_changed_are_hashed_again(
    cache: Path, hashed: Hashed, models: list[Path], tmp_path: Path
) -> None:
    hashed()
    write(tmp_path / "new", {n: t + 1 for n, t in family(1)[1].items()})
    weights(tmp_path / "new").replace(weights(models[1]))

    assert ["y"] == hashed()
    assert [] == hashed()
    one, other = (experts_of(tmp_path / f"out-{i}") for i in (1, 2))
    assert one[0] == other[0]
    assert one[1] != other[1]


def test_a_shard_that_changed_does_not_cost_the_others(
    cache: Path, registry: Registry, hashed: Hashed, tmp_path: Path
) -> None:
    directory = tmp_path / "z"
    directory.mkdir()
    for name in "ab":
        save_file({name: torch.ones(3)}, directory / f"{name}.safetensors", {"format": "pt"})
    hashed(experts=[str(directory)])
    save_file({"a": torch.zeros(3)}, directory / "a.safetensors", {"format": "pt"})
    entries = {p: p.stat().st_ino for p in cache.iterdir()}

    assert ["z"] == hashed(experts=[str(directory)])
    assert 1 == sum(p.stat().st_ino != inode for p, inode in entries.items())
    hashed(experts=[str(directory)], rehash=True)
    assert experts_of(tmp_path / "out-2") == experts_of(tmp_path / "out-3")


def test_bytes_changed_in_place_with_their_time_put_back_are_hashed_again(
    cache: Path, hashed: Hashed, models: list[Path], tmp_path: Path
) -> None:
    hashed()
    file = weights(models[0])
    before = file.stat()
    clock = tmp_path / "clock"
    clock.touch()
    while clock.stat().st_ctime_ns <= before.st_ctime_ns:  # a file system's clock goes in steps
        sleep(0.001)
        clock.touch()
    with file.open("r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        opened.write(b"\0")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    now = file.stat()

    assert (before.st_size, before.st_mtime_ns) == (now.st_size, now.st_mtime_ns)
    assert ["x"] == hashed()
    one, other = (experts_of(tmp_path / f"out-{i}") for i in (1, 2))
    assert one[0] != other[0]
    assert one[1] == other[1]


@pytest.mark.parametrize("field", STAT)
def test_whatever_else_the_file_system_says_of_a_file_it_is_hashed_again(
    cache: Path, hashed: Hashed, models: list[Path], field: str
) -> None:
    hashed()
    entry = entry_of(cache, models[0])
    content = json.loads(entry.read_text())
    assert getattr(weights(models[0]).stat(), field) == content[field]
    entry.write_text(json.dumps({**content, field: content[field] + 1}))

    assert ["x"] == hashed()
    assert [] == hashed()


def test_a_file_that_just_changed_is_not_trusted(
    cache: Path, hashed: Hashed, models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    last = max(weights(m).stat().st_ctime_ns for m in models)
    monkeypatch.setattr("zoo.storage.known_digests.time_ns", lambda: last + 2 * 10**9 - 1)
    assert ["x", "y"] == hashed()
    assert "y" in hashed()
    monkeypatch.setattr("zoo.storage.known_digests.time_ns", lambda: last + 2 * 10**9)
    hashed()

    assert [] == hashed()


def test_a_file_with_an_old_date_that_just_came_is_not_trusted(
    cache: Path, hashed: Hashed, models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in models:
        os.utime(weights(model), ns=(0, 0))
    monkeypatch.setattr("zoo.storage.known_digests.time_ns", time_ns)
    hashed()

    assert ["x", "y"] == hashed()


def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(
    cache: Path, hashed: Hashed, models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor = HashPool.tensor

    def meddling(pool: HashPool, checkpoint: Any, *rest: Any, **named: Any) -> Any:
        os.utime(weights(models[0]))
        return tensor(pool, checkpoint, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(HashPool, "tensor", meddling)
        hashed()

    assert ["x"] == hashed()


def test_digests_of_another_header_are_not_taken(
    cache: Path, hashed: Hashed, models: list[Path]
) -> None:
    hashed()
    entry = entry_of(cache, models[0])
    content = json.loads(entry.read_text())
    save_file({"w": torch.ones(2)}, weights(models[0]), {"format": "pt"})
    save_file({"w": torch.ones(2)}, weights(models[1]), {"format": "pt"})
    state = weights(models[0]).stat()
    entry.write_text(json.dumps({**content, **{key: getattr(state, key) for key in STAT}}))

    assert ["x", "y"] == hashed()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"\0" * len(content),
        lambda content: content[:-5],
        lambda content: b"[" * 100_000,
        lambda content: b"[]",
        lambda content: b"\xff" + content,
        lambda content: content.replace(b'"format": 1', b'"format": 2'),
        lambda content: content.replace(b"sha256:", b"sha1:"),
        lambda content: content.replace(b'"scale"', b'"scales"'),
    ],
    ids=["empty", "zeros", "torn", "deep", "list", "binary", "newer", "digest", "name"],
)
def test_a_damaged_entry_is_ignored_and_replaced(
    cache: Path, hashed: Hashed, models: list[Path], damage: Callable[[bytes], bytes]
) -> None:
    hashed()
    entry = entry_of(cache, models[0])
    whole = entry.read_bytes()
    assert whole != damage(whole)
    entry.write_bytes(damage(whole))

    assert ["x"] == hashed()
    assert whole == entry.read_bytes()


@pytest.fixture
def unwritable(cache: Path) -> Iterator[Path]:
    """A place where no directory can be made, not even by root."""
    cache.write_text("in the way")
    yield cache
    assert "in the way" == cache.read_text()


def test_a_cache_that_cannot_be_written_costs_only_time(unwritable: Path, hashed: Hashed) -> None:
    assert ["x", "y"] == hashed()
    assert ["x", "y"] == hashed()


def test_a_read_only_cache_is_still_read(
    cache: Path, hashed: Hashed, models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **named: Any) -> None:  # a mode would not stop root
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    hashed()
    os.utime(weights(models[1]))
    monkeypatch.setattr("tempfile.mkstemp", refuse)

    assert ["y"] == hashed()
    assert ["y"] == hashed()


def test_a_full_disk_leaves_no_torn_entry(
    cache: Path, hashed: Hashed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        rename = Path.replace
        patch.setattr(Path, "replace", lambda p, t: (full if p.suffix == ".tmp" else rename)(p, t))
        assert ["x", "y"] == hashed()

    assert [] == list(cache.iterdir())
    assert ["x", "y"] == hashed()


def test_what_is_registered_is_hashed_from_its_bytes(
    cache: Path, registry: Registry, hashed: Hashed, tmp_path: Path
) -> None:
    hashed()
    true = experts_of(tmp_path / "out-1")
    falsify(cache)
    hashed()
    assert true != experts_of(tmp_path / "out-2"), "the entries are not in use"
    hashed(name="m", out=None)
    hashed(name="n", out=tmp_path / "both")

    for name in "mn":
        run = registry.catalog.run_of(registry.get(name).id)
        assert run is not None
        assert true == [i.digest for i in run.inputs] == run.recipe["experts"]
    assert true == experts_of(tmp_path / "both")


def test_registering_remembers_nothing(cache: Path, hashed: Hashed) -> None:
    hashed(name="m", out=None)

    assert not cache.exists()


def test_rehash_trusts_nothing_and_mends_what_is_remembered(
    cache: Path, hashed: Hashed, tmp_path: Path
) -> None:
    hashed()
    falsify(cache)

    assert ["x", "y"] == hashed(rehash=True)
    assert [] == hashed()
    assert experts_of(tmp_path / "out-1") == experts_of(tmp_path / "out-3")


def test_rehash_is_an_option_of_the_command(
    cache: Path, hashed: Hashed, models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed()
    falsify(cache)
    monkeypatch.chdir(tmp_path)
    merge = ["merge", "--method", "linear"]
    for model in models:
        merge += ["--expert", str(model)]
    done = CliRunner().invoke(cli, [*merge, "--out", "again", "--rehash"])

    assert 0 == done.exit_code, done.output
    assert experts_of(tmp_path / "out-1") == experts_of(tmp_path / "again")


def test_what_stages_make_in_passing_is_not_remembered(
    cache: Path, registry: Registry, models: list[Path], tmp_path: Path
) -> None:
    recipe = tmp_path / "stages.yaml"
    recipe.write_text(
        f"name: soup\nmethod: linear\nexperts: [{models[0]}, {models[1]}]\n---\n"
        f"method: linear\nexperts: [soup, {models[0]}]\n"
    )
    registry.merge(recipe, out=tmp_path / "out")

    assert {entry_of(cache, m) for m in models} == set(cache.iterdir())


def test_the_cache_is_where_the_user_keeps_caches(
    hashed: Hashed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.storage.known_digests.time_ns", lambda: time_ns() + HOUR)
    monkeypatch.delenv("ZOO_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    hashed()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    hashed()

    for directory in (tmp_path / "home" / ".cache" / "zoo", tmp_path / "xdg" / "zoo"):
        assert 2 == len(list(directory.iterdir()))
        assert 0 == directory.stat().st_mode & 0o077


MERGE = """
import sys, time, zoo, zoo.storage.known_digests
zoo.storage.known_digests.time_ns = lambda: time.time_ns() + 3600 * 10**9
with zoo.open(sys.argv[1]) as registry:
    for i in range(5):
        registry.merge(method="linear", experts=sys.argv[3:], out=f"{sys.argv[2]}-{i}", rehash=True)
"""


def test_two_processes_at_once_leave_whole_entries(
    cache: Path, zoo_path: Path, hashed: Hashed, models: list[Path], tmp_path: Path
) -> None:
    paths = [str(m) for m in models]
    both = [
        subprocess.Popen([sys.executable, "-c", MERGE, zoo_path, tmp_path / name, *paths])
        for name in ("one", "two")
    ]

    assert [0, 0] == [process.wait(timeout=100) for process in both]
    assert {entry_of(cache, m) for m in models} == set(cache.iterdir())
    assert [] == hashed()
    assert everything_in(tmp_path / "one-4") == everything_in(tmp_path / "out-1")


def test_versions_need_no_cache(
    cache: Path, registry: Registry, register: Callable[..., zoo.Version], tmp_path: Path
) -> None:
    register("known", {"w": torch.ones(3)})
    registry.merge(method="linear", experts=["known"], out=tmp_path / "out")

    assert not cache.exists()
