"""SIGKILL at every change of the disk that Python makes: the rows are those before or those after,
the objects they name are there, and the rerun gives what an undisturbed run gives.

`benchmarks/floors.py` does the same at the calls of the C library, SQLite's and fsync included."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from looking import rows
from safetensors.torch import save_file
from warm_process import Warm

CHECK_EVERY = 10
"""Kills that are also looked at by fsck and a rerun, which cost more than the kill."""

STOCK = """
    with open_zoo(path) as registry:
        for name in ("base", "a", "b"):
            registry.register(sources, name=name)
"""
LITTER = """
    with open_zoo(path) as registry:
        registry.remove(registry.register(new, name="gone").ref)
        left = registry.store.root / "staging" / "register-dead"
        left.mkdir()
        (left / ".lock").write_text("1 ")
        (left / "half").write_bytes(b"x" * 100)
"""
MERGE = "registry.merge(name='m', method='linear', experts=['a', 'b'], threads=1).digest"
WORK = {
    "register": ("", "registry.register(new, name='new', base='base', threads=1).digest"),
    "merge": ("", MERGE),
    "rm": ("", "[registry.remove(v.ref) for v in registry.select(\"name = 'b'\")] * 0"),
    "gc": (LITTER, "registry.gc(partial_age_days=0) and None"),
}
DO = """
    with open_zoo(path) as registry:
        result = eval(work)
"""
STEP = """
    import os
    import signal

    left = [step]

    def dying(original, when=lambda *args: True):
        def call(*args, **kwargs):
            if when(*args):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)
        return call

    # Not fsync: to die before it is to die before the change that follows it.
    for name in ("pwrite", "write", "ftruncate", "posix_fallocate", "fchmod", "rename", "unlink",
                 "mkdir", "rmdir", "symlink"):
        setattr(os, name, dying(getattr(os, name)))
    os.open = dying(os.open, lambda path, flags, *mode: flags & os.O_CREAT)

    from zoo.catalog.database import Database

    Database.write = dying(Database.write)
"""
SOUND = """
    with open_zoo(path) as registry:
        assert registry.fsck().ok
        result = eval(work)
        assert registry.fsck().ok
        registry.gc(partial_age_days=0)
        stored = {key for key, _, _ in registry.store.objects()}
        assert stored == registry.catalog.live_objects()
        # What has no lock yet may belong to the living for a minute.
        assert not list(registry.store.root.glob("staging/*/.lock"))
"""


@pytest.fixture
def given(zoo_path: str, tmp_path: Path, warm: Warm) -> dict[str, Any]:
    """A zoo of three small models, and the source of another."""
    given = {"path": zoo_path}
    for name, value in (("sources", 1.0), ("new", 2.0)):
        (tmp_path / name).mkdir()
        state = {"w": torch.full((2, 3), value), "b": torch.ones(2)}
        save_file(state, tmp_path / name / "model.safetensors", {"format": "pt"})
        given[name] = str(tmp_path / name)
    warm.run(STOCK, **given)
    return given


@pytest.mark.parametrize("what", WORK)
def test_a_kill_at_any_change_leaves_the_zoo_as_it_was_or_as_it_was_to_be(
    what: str, given: dict[str, Any], warm: Warm
) -> None:
    before, work = WORK[what]
    given["work"] = work
    if before:
        warm.run(before, **given)
    zoo = Path(given["path"]).parent
    pristine = zoo.with_name("pristine")
    shutil.copytree(zoo, pristine, symlinks=True)
    states = [rows(Path(given["path"]))]
    made = warm.run(DO, **given).value
    states.append(rows(Path(given["path"])))

    step = 0
    killed = True
    while killed:
        step += 1
        assert step < 200, "it never ended"
        shutil.rmtree(zoo)
        shutil.copytree(pristine, zoo, symlinks=True)
        killed = warm.run(STEP + DO, step=step, **given).killed
        assert rows(Path(given["path"])) in states
        if step % CHECK_EVERY == 0 or not killed:
            assert made == warm.run(SOUND, **given).value

    assert step > 5, "too few changes of the disk were seen"


UNPRIVILEGED = """
    import ctypes

    # To root a mode is no obstacle, unless it gives up what makes it root.
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(header, none) == 0
"""
DYING = """
    import os
    import signal

    rename = os.rename

    def dying(source, target):
        if when == "before" and kill in str(target):
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)
        if when == "after" and kill in str(target):
            os.kill(os.getpid(), signal.SIGKILL)

    os.rename = dying
"""


@pytest.mark.parametrize(("kind", "when"), [("flat", "before"), ("tree", "after")])
def test_a_user_who_is_not_root_resumes_a_merge_killed_as_it_publishes(
    kind: str, when: str, given: dict[str, Any], warm: Warm
) -> None:
    given["work"] = MERGE
    kill = {"kill": f"/objects/{kind}/", "when": when}

    assert warm.run(UNPRIVILEGED + DYING + DO, **kill, **given).killed
    resumed = warm.run(UNPRIVILEGED + DO, **given)

    assert not resumed.killed and resumed.value
    store = Path(given["path"]).with_name("registry.store")
    modes = {p.stat().st_mode & 0o777 for p in store.glob("objects/*/*/*")}
    assert {0o444} == modes
    assert os.access(store, os.W_OK)
    warm.run(SOUND, **given)
