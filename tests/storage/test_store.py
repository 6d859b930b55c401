"""Placing, staging, views, locks: what the publish protocol stands on."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.digest import flat_key
from zoo.errors import InvalidName, StoreError
from zoo.names import check_entry_name, check_relative_path
from zoo.records import FileRecord
from zoo.storage.store import Owner, Store, friendly

OURS = Owner("1b4e28ba-2fa1-41d2-883f-0016d3cca427", "/ours/registry.db")
THEIRS = Owner("6fa459ea-ee8a-4ca4-894e-db77e160355e", "/theirs/registry.db")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "registry.store", OURS)


def put(store: Store, data: bytes) -> str:
    key = flat_key(data)
    with store.staging("put") as staging, store.publishing():
        (staging / "file").write_bytes(data)
        store.place([(staging / "file", key)])
        assert store.settle([key]) == set()
    return key


def test_a_new_store_is_durable_down_to_its_last_directory(tmp_path, monkeypatch):
    synced = set()
    fsync = os.fsync

    def noted(fd: int) -> None:
        synced.add(Path(f"/proc/self/fd/{fd}").readlink())
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    Store.create(tmp_path / "new" / "registry.store", OURS)

    made = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert {path.parent for path in made} <= synced


def test_a_placed_file_is_found_by_its_key_and_read_only(store):
    key = put(store, b"hello")

    assert store.has(key)
    assert b"hello" == store.path(key).read_bytes()
    assert 0o444 == stat.S_IMODE(store.path(key).stat().st_mode)
    assert [(key, store.path(key), 5)] == list(store.objects())


@pytest.mark.parametrize("damage", [b"he", b"hellO", b"hello and more"])
def test_placing_again_mends_a_damaged_object(store, damage):
    key = put(store, b"hello")
    store.path(key).chmod(0o644)
    store.path(key).write_bytes(damage)

    put(store, b"hello")

    assert b"hello" == store.path(key).read_bytes()
    assert 0o444 == stat.S_IMODE(store.path(key).stat().st_mode)


def test_a_reader_keeps_what_it_opened_when_the_object_is_placed_again(store):
    key = put(store, b"hello")
    with store.path(key).open("rb", buffering=0) as reader:
        assert b"he" == reader.read(2)
        put(store, b"hello")
        assert b"llo" == reader.read(3)


@pytest.mark.parametrize("key", ["flat:../../etc", "flat:" + "A" * 64, "sha256:" + "a" * 64, ""])
def test_a_key_that_is_no_key_never_becomes_a_path(store, key):
    with pytest.raises(ValueError, match="not an object key"):
        store.path(key)


# Ownership


def test_a_store_is_its_zoos_and_opens_for_no_other(store):
    assert OURS == store.owner()
    assert OURS == Store.create(store.root, OURS._replace(registry="/moved/registry.db")).owner()

    for take in (Store.create, Store.open):
        with pytest.raises(StoreError, match="another zoo") as caught:
            take(store.root, THEIRS)
        for told in (OURS.id, OURS.registry, THEIRS.id, THEIRS.registry):
            assert told in str(caught.value)


def test_of_many_at_once_one_claims_a_store(tmp_path):
    owners = [Owner(str(i), f"{i}.db") for i in range(8)]
    taken = []

    def take(owner: Owner) -> None:
        with suppress(StoreError):
            taken.append(Store.create(tmp_path / "registry.store", owner) and owner)

    threads = [threading.Thread(target=take, args=(owner,)) for owner in owners]
    for t in threads:
        t.start()
    for t in threads:
        t.join()

    assert taken == [Store(tmp_path / "registry.store").owner()]


def test_objects_of_nobody_are_taken_only_on_request(store):
    put(store, b"hello")
    (store.root / "owner").unlink()

    with pytest.raises(StoreError, match="zoo init"):
        Store.open(store.root, OURS)

    Store.create(store.root, OURS)
    assert OURS == Store.open(store.root, OURS).owner()


# Staging


def test_staging_is_removed_at_the_end(store):
    with store.staging("work") as staging:
        (staging / "part").write_text("x")

    assert [] == list((store.root / "staging").iterdir())


def test_staging_is_removed_after_an_error(store):
    with pytest.raises(RuntimeError), store.staging("work"):
        raise RuntimeError

    assert [] == list((store.root / "staging").iterdir())


def test_staging_that_is_kept_resumes_where_ctrl_c_left_it(store):
    with pytest.raises(KeyboardInterrupt), store.staging("work", keep=True) as staging:
        (staging / "part").write_text("x")
        raise KeyboardInterrupt

    with store.staging("work", keep=True) as staging:
        assert "x" == (staging / "part").read_text()
    assert [] == list((store.root / "staging").iterdir())


def test_two_cannot_stage_under_one_key_and_the_other_is_named(store):
    with store.staging("work"), pytest.raises(StoreError) as caught, store.staging("work"):
        pass

    assert os.getpid() == caught.value.pid


def test_many_threads_take_turns_under_one_key_and_never_meet(store):
    inside = []
    clashes = []

    def work() -> None:
        for _ in range(40):
            try:
                with store.staging("work") as staging:
                    inside.append(1)
                    clashes.append(len(inside) > 1 or (staging / "mine").exists())
                    (staging / "mine").touch()
                    inside.pop()
            except StoreError:
                continue

    threads = [threading.Thread(target=work) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()

    assert clashes
    assert not any(clashes)


@pytest.mark.parametrize("key", ["../x", "", "a/b", ".hidden", "a" * 200])
def test_a_staging_key_never_leads_out_of_the_store(store, key):
    with pytest.raises(ValueError, match="staging key"), store.staging(key):
        pass


def test_only_the_dead_leave_abandoned_work(store):
    script = f"""
import os
from zoo.storage.store import Store
with Store({str(store.root)!r}).staging("work", keep=True):
    os._exit(9)
"""
    with store.staging("alive"):
        subprocess.run([sys.executable, "-c", script], check=False)
        found = list(store.abandoned())

        assert [("work", True)] == [(a.path.name, a.resumable) for a in found]
        assert store.discard(found[0])
    assert [] == list((store.root / "staging").iterdir())


# Publishing and collecting


def test_collecting_waits_for_publishers_and_is_not_starved_by_them(store):
    stop = threading.Event()
    collected = threading.Event()

    def publish() -> None:
        while not stop.is_set():
            with store.publishing():
                pass

    publishers = [threading.Thread(target=publish) for _ in range(4)]
    for t in publishers:
        t.start()
    try:
        for _ in range(20):
            with store.collecting():
                pass
        collected.set()
    finally:
        stop.set()
        for t in publishers:
            t.join()
    assert collected.is_set()


def test_nobody_publishes_while_somebody_collects(store):
    entered = threading.Event()

    def publish() -> None:
        with store.publishing():
            entered.set()

    with store.collecting():
        thread = threading.Thread(target=publish)
        thread.start()
        assert not entered.wait(0.2)
    thread.join()
    assert entered.is_set()


# Views


def test_a_view_is_links_that_survive_moving_the_store(store, tmp_path):
    files = [FileRecord("a/b/config.json", put(store, b"{}"), 2)]
    view = store.view("team/model", 3, files)

    assert b"{}" == (view / "a/b/config.json").read_bytes()
    store.root.rename(tmp_path / "moved")
    moved = tmp_path / "moved" / view.relative_to(store.root)
    assert b"{}" == (moved / "a/b/config.json").read_bytes()


def test_a_view_that_was_changed_is_rebuilt(store):
    files = [FileRecord("config.json", put(store, b"{}"), 2)]
    view = store.view("model", 1, files)
    (view / "config.json").unlink()
    (view / "config.json").write_text("mine")
    (view / "extra").touch()

    assert not store.view_is_current("model", 1, files)
    assert view == store.view("model", 1, files)
    assert store.view_is_current("model", 1, files)
    assert ["config.json"] == [p.name for p in view.iterdir()]


def test_a_deleted_view_is_rebuilt(store):
    files = [FileRecord("config.json", put(store, b"{}"), 2)]
    shutil.rmtree(store.view("model", 1, files))

    assert (store.view("model", 1, files) / "config.json").is_file()


def test_many_threads_build_one_view(store):
    files = [FileRecord(f"f{i}", put(store, str(i).encode()), 1) for i in range(5)]
    threads = [threading.Thread(target=store.view, args=("m", 1, files)) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()

    assert store.view_is_current("m", 1, files)
    assert [] == list((store.root / "staging").iterdir())


def test_views_are_listed_and_dropped_one_by_one(store):
    for name, number in (("a", 1), ("a", 2), ("a/b", 1), ("team/x", 7)):
        store.view(name, number, [])

    assert [("a", 1), ("a", 2), ("a/b", 1), ("team/x", 7)] == sorted(store.views())
    for name, number in list(store.views()):
        store.drop_view(name, number)
    assert [] == list((store.root / "views").iterdir())


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x"])
def test_a_view_never_writes_outside_itself(store, path):
    with pytest.raises(InvalidName):
        store.view("m", 1, [FileRecord(path, put(store, b""), 0)])


# Names


@pytest.mark.parametrize(
    "name", ["a", "A.b-c_d", "team/model", "1", "qwen2.5-0.5b", "a/1b", "x" * 96]
)
def test_good_entry_names_pass(name):
    assert name == check_entry_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../a", "a/../b", "/a", "a/", "a//b", "a/b/c", ".a", "-a", "a b", "a@1"),
        *("a..b", "a.", "é", "a/1", "x" * 97, "a\\b", "~", "a/.git", "C:", "a\n"),
    ],
)
def test_bad_entry_names_are_refused(name):
    with pytest.raises(InvalidName) as caught:
        check_entry_name(name)
    assert name == caught.value.name


@given(st.text(max_size=40))
def test_a_path_that_passes_stays_inside(text):
    try:
        check_relative_path(text)
    except InvalidName:
        return
    inside = os.path.normpath(os.path.join("/root/of/it", text))  # noqa: PTH118
    assert inside.startswith("/root/of/it/")


# Trouble


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO]
)
def test_the_systems_refusals_become_advice(store, number):
    with pytest.raises(StoreError) as caught, friendly(store.root):
        raise OSError(number, os.strerror(number))

    assert number == caught.value.errno
    assert caught.value.how


def test_a_store_that_is_gone_is_named(tmp_path):
    store = Store(tmp_path / "gone")

    with pytest.raises(StoreError, match="is not there"), store.staging("x"):
        pass
    with pytest.raises(StoreError, match="is not there"):
        list(store.objects())
