"""Registration through the public interface: what goes in is what is kept, or nothing is."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo
from zoo.checkpoints.safetensors_header import read_header
from zoo.digest import flat_key_of_file, tensor_digest, tree_key, weights_digest
from zoo.errors import (
    InvalidCheckpoint,
    InvalidName,
    NotFound,
    StoreError,
    UnsupportedFormat,
    ZooError,
)
from zoo.records import MetricValue

STATE = {
    "w": torch.arange(12.0).reshape(3, 4),
    "half": torch.ones(5, dtype=torch.float16),
    "steps": torch.tensor(7),
    "nothing": torch.empty(0, 4),
}


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def nothing_is_left(registry) -> bool:
    staging = list((registry.store.root / "staging").iterdir())
    return [] == staging and [] == list(registry.store.objects()) and [] == registry.select()


def test_a_registered_directory_comes_back_byte_for_byte(registry, save):
    source = save(STATE, hidden=4)

    version = registry.register(source, name="team/model")

    for file in ("model.safetensors", "config.json"):
        assert (source / file).read_bytes() == (registry.path("team/model") / file).read_bytes()
    assert ("team/model@1", "tiny") == (version.ref, version.architecture)


def test_digests_are_those_of_the_bytes(registry, save):
    source = save(STATE)

    version = registry.register(source, name="m")

    kinds = {"w": "F32", "half": "F16", "steps": "I64", "nothing": "F32"}
    expected = {n: tensor_digest(kinds[n], t.shape, raw(t)) for n, t in STATE.items()}
    assert expected == {t.name: t.digest for t in registry.catalog.tensors(version.id)}
    assert weights_digest(expected.items()) == version.digest
    header = read_header(source / "model.safetensors")
    assert {
        "config.json": flat_key_of_file(source / "config.json"),
        "model.safetensors": tree_key(header.raw, [expected[t.name] for t in header.tensors]),
    } == {f.path: f.object for f in registry.catalog.files(version.id)}


def test_sharding_does_not_change_the_weights_digest(registry, save, tmp_path):
    whole = registry.register(save(STATE), name="whole")
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    weight_map = {}
    for i, (name, tensor) in enumerate(STATE.items()):
        save_file({name: tensor}, sharded / f"{i}.safetensors")
        weight_map[name] = f"{i}.safetensors"
    index = sharded / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))

    version = registry.register(sharded, name="sharded")

    assert whole.digest == version.digest
    assert (registry.path("sharded") / index.name).read_bytes() == index.read_bytes()


def test_a_torch_file_has_the_digest_of_the_same_safetensors(registry, save, tmp_path):
    torch.save({"state_dict": STATE, "epoch": 1}, tmp_path / "m.pth")

    version = registry.register(tmp_path / "m.pth", name="torch")

    assert registry.register(save(STATE), name="safetensors").digest == version.digest
    assert "state_dict" == version.notes["state_dict_key"]
    stored = load_file(registry.path("torch") / "model.safetensors")
    assert all(torch.equal(STATE[name], stored[name]) for name in STATE)


def test_a_single_file_is_called_as_hugging_face_calls_it(registry, tmp_path):
    save_file(STATE, tmp_path / "odd-name.safetensors")

    registry.register(tmp_path / "odd-name.safetensors", name="m")

    assert ["model.safetensors"] == [p.name for p in registry.path("m").iterdir()]


def test_equal_files_are_stored_once_and_versions_count_up(registry, save):
    for number in (1, 2, 3):
        assert number == registry.register(save(STATE), name="m").version

    assert 2 == len(list(registry.store.objects()))


def test_metadata_is_recorded(registry, save):
    registry.register(save(STATE), name="base", kind="base")

    version = registry.register(
        save(STATE),
        name="math",
        base="base",
        task="math",
        phase="IV-B",
        license="mit",
        tags={"seed": "1"},
        metrics={"accuracy": 0.5, "accuracy/hard": 0.25},
    )

    assert ("base@1", "math", "IV-B", "mit") == (
        version.base,
        version.task,
        version.phase,
        version.license,
    )
    assert {"seed": "1"} == dict(version.tags)
    assert {"accuracy": 0.5, "accuracy/hard": 0.25} == dict(version.metrics)


def test_a_checkpoint_with_nan_registers(registry, save):
    assert 1 == registry.register(save({"w": torch.tensor([float("nan")])}), name="m").version


# Link modes


@pytest.mark.parametrize("mode", ["clone", "copy", "hardlink", "symlink"])
def test_every_link_mode_stores_the_same_object(registry, save, mode):
    source = save(STATE)

    registry.register(source, name="m", link_mode=mode)

    stored = registry.path("m") / "model.safetensors"
    original = source / "model.safetensors"
    assert original.read_bytes() == stored.read_bytes()
    assert {
        "clone": (False, False),
        "copy": (False, False),
        "hardlink": (True, True),
        "symlink": (True, True),
    }[mode] == (os.path.samefile(stored, original), stored.samefile(original))  # noqa: PTH121
    assert registry.fsck().ok


@pytest.mark.parametrize("mode", ["clone", "copy"])
def test_editing_the_source_later_does_not_touch_an_own_copy(registry, save, mode):
    source = save(STATE)
    registry.register(source, name="m", link_mode=mode)
    os.truncate(source / "model.safetensors", 5)

    assert registry.fsck().ok


@pytest.mark.parametrize("mode", ["clone", "copy"])
@pytest.mark.parametrize("before", ["hardlink", "symlink"])
def test_an_own_copy_takes_the_place_of_a_link(registry, save, before, mode):
    source = save(STATE)
    registry.register(source, name="m", link_mode=before)
    registry.register(source, name="m", link_mode=mode)

    original = source / "model.safetensors"
    with original.open("r+b") as file:
        file.write(b"\xff" * 8)

    assert registry.fsck().ok
    assert original.stat().st_mode & 0o200, "the user's file stays writable"


@pytest.mark.parametrize("mode", ["hardlink", "symlink"])
def test_a_link_never_takes_the_place_of_an_own_copy(registry, save, mode):
    source = save(STATE)
    registry.register(source, name="m", link_mode="copy")
    registry.register(source, name="m", link_mode=mode)

    (source / "model.safetensors").unlink()

    assert registry.fsck().ok
    assert not (registry.path("m") / "model.safetensors").resolve().is_relative_to(source)


@pytest.mark.parametrize("mode", ["clone", "copy", "hardlink", "symlink"])
@pytest.mark.parametrize("before", ["copy", "hardlink", "symlink"])
def test_a_version_registered_from_the_store_itself_leads_to_its_bytes(
    registry, save, before, mode
):
    registry.register(save(STATE), name="m", link_mode=before)

    registry.register(registry.path("m"), name="again", link_mode=mode)

    assert registry.fsck().ok
    assert STATE["w"].equal(load_file(registry.path("again") / "model.safetensors")["w"])


def test_linking_leaves_the_mode_of_the_users_file_alone(registry, save):
    source = save(STATE)
    before = stat.S_IMODE((source / "model.safetensors").stat().st_mode)

    registry.register(source, name="a", link_mode="hardlink")

    assert before == stat.S_IMODE((source / "model.safetensors").stat().st_mode)


def test_a_symlinked_source_that_moves_is_found_by_fsck(registry, save):
    source = save(STATE)
    registry.register(source, name="m", link_mode="symlink")
    (source / "model.safetensors").rename(source / "elsewhere")

    report = registry.fsck()

    assert ["m@1"] == report.damaged[0]["versions"]
    assert "gone" in report.damaged[0]["problem"]


def test_sources_that_are_links_themselves_are_followed(registry, save, tmp_path):
    blobs = save(STATE)
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(file)

    registry.register(snapshot, name="m", link_mode="hardlink")

    assert not next(iter(registry.store.objects()))[1].is_symlink()
    assert "tiny" == registry.get("m").architecture


# Refusals leave nothing


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"name": "../evil"}, InvalidName),
        ({"name": "a/1"}, InvalidName),
        ({"kind": "expart"}, ZooError),
        ({"link_mode": "teleport"}, ZooError),
        ({"base": "nobody"}, NotFound),
        ({"source": "nowhere"}, NotFound),
        ({"source": "s3://bucket/model"}, NotFound),
        ({"source": "s3://bucket"}, NotFound),
        ({"metrics": {"/test": 0.5}}, InvalidName),
        ({"metrics": {"": 0.5}}, InvalidName),
        ({"metrics": [MetricValue("", 0.5)]}, InvalidName),
    ],
)
def test_a_wrong_argument_is_a_clear_error_and_leaves_nothing(registry, save, change, error):
    arguments = {"source": save(STATE), "name": "m", **change}

    with pytest.raises(error) as caught:
        registry.register(arguments.pop("source"), **arguments)

    assert str(caught.value)
    assert nothing_is_left(registry)


def test_a_source_that_no_plugin_resolves_is_refused(registry):
    with pytest.raises(NotFound, match="no plugin answers for `shop://`"):
        registry.register("shop://org/model@main", name="m")


def test_an_unknown_format_names_the_known_ones(registry, tmp_path):
    (tmp_path / "note.txt").write_text("hello")

    with pytest.raises(UnsupportedFormat, match="safetensors"):
        registry.register(tmp_path / "note.txt", name="m")
    assert nothing_is_left(registry)


@pytest.mark.parametrize("cut", [0, 7, 8, 50, -1])
def test_a_cut_off_file_leaves_nothing(registry, save, cut):
    source = save(STATE)
    file = source / "model.safetensors"
    os.truncate(file, cut if cut >= 0 else file.stat().st_size + cut)

    with pytest.raises(InvalidCheckpoint):
        registry.register(source, name="m")
    assert nothing_is_left(registry)


def test_a_good_shard_beside_a_bad_one_leaves_nothing(registry, save):
    source = save(STATE)
    (source / "second.safetensors").write_bytes(b"\xff" * 100)

    with pytest.raises(InvalidCheckpoint):
        registry.register(source, name="m")
    assert nothing_is_left(registry)


def test_an_error_while_hashing_leaves_nothing(registry, save, monkeypatch):
    monkeypatch.setattr("zoo.checkpoints.safetensors.os.preadv", _fails)

    with pytest.raises(InvalidCheckpoint):
        registry.register(save(STATE), name="m")
    assert nothing_is_left(registry)


def _fails(*_args: object) -> int:
    raise OSError(5, "Input/output error")


def test_a_database_that_refuses_leaves_no_version(registry, save, monkeypatch):
    def refuse(*_args: object) -> None:
        raise ZooError("no")

    with monkeypatch.context() as patched:
        patched.setattr(registry.catalog, "add_many", refuse)
        with pytest.raises(ZooError):
            registry.register(save(STATE), name="m")

    assert [] == registry.select()
    registry.gc()
    assert nothing_is_left(registry)


# Beside the weights


def test_files_over_one_gigabyte_are_left_behind_and_named(registry, save):
    source = save(STATE)
    with (source / "giant.txt").open("wb") as file:
        file.truncate(1_000_000_001)

    version = registry.register(source, name="m")

    assert ["giant.txt"] == version.notes["skipped"]
    assert not (registry.path("m") / "giant.txt").exists()


def test_a_directory_full_of_other_things_is_no_model(registry, save):
    source = save(STATE)
    for i in range(1001):
        (source / f"{i}.txt").touch()

    with pytest.raises(InvalidCheckpoint, match="1000 files"):
        registry.register(source, name="m")
    assert nothing_is_left(registry)


def test_pipes_and_hidden_files_are_not_carried(registry, save):
    source = save(STATE)
    os.mkfifo(source / "pipe")
    (source / ".secret").touch()

    registry.register(source, name="m")

    assert ["config.json", "model.safetensors"] == sorted(
        p.name for p in registry.path("m").iterdir()
    )


# Observers


PLUGIN = """
from pathlib import Path
from zoo import ZooError, hookimpl

@hookimpl
def zoo_resolve_source(source):
    return Path({model!r}) if source == "shop://model" else None

@hookimpl
def zoo_before_register(source, name):
    if name == "forbidden":
        raise ZooError(f"{{source}} may not be called {{name}}.")

@hookimpl
def zoo_after_register(version):
    with Path({log!r}).open("a") as file:
        print(version.ref, file=file)
"""


@pytest.fixture
def observed(tmp_path, save) -> Iterator[tuple[zoo.Registry, Path]]:
    """A registry with a plugin that resolves, refuses and observes; and what it saw."""
    log = tmp_path / "log"
    log.touch()
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "shop.py").write_text(PLUGIN.format(model=str(save(STATE)), log=str(log)))
    with zoo.open(tmp_path / "observed.db", plugins_dirs=[plugins]) as registry:
        yield registry, log


def test_a_plugin_resolves_what_is_no_path_and_sees_what_was_committed(observed):
    registry, log = observed

    version = registry.register("shop://model", name="m")

    assert "shop://model" == version.source
    assert "m@1\n" == log.read_text()


def test_a_plugin_may_refuse_a_registration_before_anything_is_read(observed):
    registry, log = observed

    with pytest.raises(ZooError, match="may not be called forbidden"):
        registry.register("shop://model", name="forbidden")
    assert nothing_is_left(registry)
    assert "" == log.read_text()


class Tally:
    """Adds up the progress it is told."""

    def __init__(self) -> None:
        self.total = self.seen = self.ended = 0

    def start(self, total_bytes: int, label: str) -> None:
        self.total += total_bytes

    def advance(self, nbytes: int) -> None:
        self.seen += nbytes

    def done(self) -> None:
        self.ended += 1


def test_progress_counts_every_byte_that_is_hashed(registry, save):
    source = save(STATE)
    tally = Tally()

    registry.register(source, name="m", threads=1, progress=tally)

    assert sum(f.stat().st_size for f in source.iterdir()) == tally.total == tally.seen
    assert 1 == tally.ended


# Other processes


def run(script: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=check,
    )


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a script in a process of its own; it is gone when the test ends."""
    with ExitStack() as stack:

        def begin(script: str, *arguments: object) -> subprocess.Popen[bytes]:
            words = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
            process = stack.enter_context(subprocess.Popen(words))
            stack.callback(process.kill)
            return process

        yield begin


def test_a_registration_killed_before_its_commit_is_invisible(registry, zoo_path, save):
    script = """
        import os, signal, sys
        import zoo
        with zoo.open(sys.argv[1]) as registry:
            registry.catalog.add_many = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
            registry.register(sys.argv[2], name="m")
    """

    assert -9 == run(script, zoo_path, save(STATE), check=False).returncode

    assert [] == registry.select()
    assert registry.fsck().ok
    report = registry.gc()
    assert (2, 1) == (report.removed_objects, report.removed_staging)
    assert nothing_is_left(registry)


def test_eight_processes_number_one_name_densely(registry, zoo_path, save, start):
    script = """
        import sys
        import zoo
        with zoo.open(sys.argv[1]) as registry:
            for _ in range(2):
                registry.register(sys.argv[2], name="m")
    """
    sources = [save({"w": torch.full((3,), float(i))}) for i in range(8)]
    processes = [start(script, zoo_path, source) for source in sources]

    assert [0] * 8 == [p.wait() for p in processes]
    assert list(range(1, 17)) == sorted(v.version for v in registry.select())
    assert registry.fsck().ok


def test_gc_never_takes_what_another_process_is_registering(
    registry, zoo_path, save, start, tmp_path
):
    script = """
        import sys
        from pathlib import Path
        import zoo
        with zoo.open(sys.argv[1]) as registry:
            while not Path(sys.argv[4]).exists():
                # The same bytes come and go: the second finds objects that gc is about to take.
                version = registry.register(sys.argv[2], name=sys.argv[3])
                registry.remove(version.ref)
            registry.register(sys.argv[2], name=sys.argv[3])
    """
    source = save(STATE)
    enough = tmp_path / "enough"
    processes = [start(script, zoo_path, source, f"m{i}", enough) for i in range(2)]
    collected = 0
    # They go on until gc has taken something three times, however seldom it is given the lock.
    while collected < 3 and all(p.poll() is None for p in processes):
        collected += bool(registry.gc().removed_objects)
    enough.touch()
    while any(p.poll() is None for p in processes):
        registry.gc()

    assert [0, 0] == [p.wait() for p in processes]
    assert 3 == collected
    assert ["m0", "m1"] == [v.name for v in registry.select()]
    report = registry.fsck()
    assert [] == report.damaged
    for i in range(2):
        assert STATE["w"].equal(load_file(registry.path(f"m{i}") / "model.safetensors")["w"])


# What is no file


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Fails a test that waits for a pipe, which would wait for ever."""

    def fail(*_: object) -> None:
        raise AssertionError("it waits for somebody to write")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("name", ["pipe", "pipe.safetensors", "pipe.pt"])
def test_a_pipe_is_refused_without_waiting_for_its_writer(registry, tmp_path, name):
    os.mkfifo(tmp_path / name)

    with pytest.raises(UnsupportedFormat, match="neither a file nor a directory"):
        registry.register(tmp_path / name, name="m")
    assert nothing_is_left(registry)


def test_sockets_and_devices_are_refused(registry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        for path in ("socket", "/dev/zero"):
            with pytest.raises(UnsupportedFormat, match="neither a file nor a directory"):
                registry.register(path, name="m")


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json"])
def test_a_pipe_in_a_directory_is_no_weights_file(registry, save, name):
    source = save(STATE)
    (source / name).unlink(missing_ok=True)
    os.mkfifo(source / name)

    with pytest.raises(InvalidCheckpoint):
        registry.register(source, name="m")
    assert nothing_is_left(registry)


# Full and read-only disks


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 1 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs takes root")
    mount = tmp_path / "small"
    mount.mkdir()
    done = run_quietly("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.strip()}")
    try:
        yield mount
    finally:
        run_quietly("umount", "-l", mount)


def run_quietly(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)


def test_a_model_larger_than_the_disk_is_refused_before_writing(small_disk, tmp_path, save):
    with zoo.open(tmp_path / "registry.db", store=small_disk / "store") as registry:
        with pytest.raises(StoreError, match="the disk is full") as caught:
            registry.register(save({"w": torch.ones(1_000_000)}), name="m")

        assert caught.value.needed > 4_000_000 > caught.value.free
        assert nothing_is_left(registry)


def test_a_disk_that_fills_up_while_writing_leaves_nothing(small_disk, tmp_path, save, monkeypatch):
    monkeypatch.setattr("zoo.storage.ingest._check_room", lambda *_: None)
    with zoo.open(tmp_path / "registry.db", store=small_disk / "store") as registry:
        with pytest.raises(StoreError, match="the disk is full") as caught:
            registry.register(save({f"w{i}": torch.ones(50_000) for i in range(20)}), name="m")

        assert 28 == caught.value.errno
        assert nothing_is_left(registry)
        small = save({"w": torch.ones(3)})
        assert 1 == registry.register(small, name="m").version
        assert registry.fsck().ok


def test_a_read_only_store_is_a_clear_error(small_disk, tmp_path, save):
    source = save(STATE)
    with zoo.open(tmp_path / "registry.db", store=small_disk / "store") as registry:
        registry.register(source, name="m")
        assert 0 == run_quietly("mount", "-o", "remount,ro", small_disk).returncode

        with pytest.raises(StoreError, match="read-only"):
            registry.register(source, name="m")
        assert ["m@1"] == [v.ref for v in registry.select()]
        assert (registry.path("m@1") / "config.json").is_file()
        assert registry.fsck().ok
