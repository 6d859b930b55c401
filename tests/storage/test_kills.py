"""SIGKILL at every step of a registration and of a collection, and at random times."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap

import pytest
import torch

import zoo

# Forks from a process without threads or open databases, so that a round costs milliseconds.
SCRIPT = """
    import os, random, signal, sys, threading
    from pathlib import Path
    import zoo
    # All that is imported on first use is imported here once, before the forks.
    from zoo import registry  # noqa: F401
    from zoo.catalog import catalog
    from zoo.storage import fsck
    from zoo.storage import gc
    from zoo.storage import register
    from zoo.catalog import tables
    import sqlalchemy.dialects.sqlite, zoo_plugins.safetensors_format  # noqa: E401,F401
    from zoo.errors import ZooError

    work, registry_path, source, mode = sys.argv[1:]

    def inside(job):
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                code = job() or 0
            except BaseException:
                import traceback
                traceback.print_exc()
            finally:
                os._exit(code)
        return os.waitpid(pid, 0)[1]

    def do(arm=lambda: None):
        with zoo.open(registry_path) as registry:
            if work == "register":
                arm()
                version = registry.register(source, name="m")
                Path(registry_path + ".acknowledged").write_text(str(version.version))
            else:
                registry.register(source, name="kept")
                gone = registry.register(source, name="gone")
                arm()
                registry.remove(gone.ref)
                registry.gc(partial_age_days=0)

    def killed_at(n):
        # Dies just before or just after one of the calls that change the disk.
        left = [0]
        def arm():
            left[0] = n
        def step():
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        def wrap(module, name, when=lambda *args: True):
            original = getattr(module, name)
            def counted(*args, **kwargs):
                if not when(*args):
                    return original(*args, **kwargs)
                step()
                result = original(*args, **kwargs)
                step()
                return result
            setattr(module, name, counted)
        for name in ("pwrite", "fsync", "ftruncate", "fchmod", "rename", "unlink", "mkdir",
                     "rmdir", "symlink"):
            wrap(os, name)
        wrap(os, "open", lambda path, flags, *mode: flags & os.O_CREAT)
        for name in ("add", "remove"):
            wrap(catalog.Catalog, name)
        do(arm)

    def killed_after(seconds):
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        do(timer.start)

    def check():
        with zoo.open(registry_path) as registry:
            report = registry.fsck()
            assert report.ok, report.damaged
            numbers = [v.version for v in registry.select() if v.name == "m"]
            assert numbers == list(range(1, len(numbers) + 1)), numbers
            told = Path(registry_path + ".acknowledged")
            assert not told.exists() or int(told.read_text()) <= len(numbers)
            for version in registry.select():
                assert (registry.path(version.ref) / "model.safetensors").stat().st_size
            registry.gc()
            # What has no lock yet may belong to the living for a minute.
            left = list((registry.store.root / "staging").glob("*/.lock"))
            assert not left, left

    assert inside(do) == 0
    kills = 0
    random.seed(0)
    for n in range(1, 400):
        if mode == "steps":
            status = inside(lambda: killed_at(n))
        else:
            status = inside(lambda: killed_after(random.uniform(0.0, 0.1)))
        kills += os.WIFSIGNALED(status)
        if not os.WIFSIGNALED(status):
            assert status == 0, status
            if mode == "steps":
                break
        if n % 8 == 0:
            assert inside(check) == 0, f"after kill {n}"
        if mode == "times" and kills == 12:
            break
    else:
        raise AssertionError("it never ended")
    assert inside(check) == 0
    print(kills)
"""


@pytest.mark.parametrize("work", ["register", "collect"])
@pytest.mark.parametrize("mode", ["steps", "times"])
def test_a_kill_leaves_a_sound_zoo_and_loses_nothing_acknowledged(zoo_path, save, work, mode):
    zoo_path.parent.mkdir()
    source = save({"w": torch.arange(3.0), "b": torch.ones(2)})

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), work, str(zoo_path), str(source), mode],
        capture_output=True,
        text=True,
        check=False,
    )

    assert 0 == done.returncode, done.stderr
    assert int(done.stdout) >= 10, "too few kills hit"


MERGE = """
    import os, signal, sys
    import zoo

    registry_path, kill, when = sys.argv[1:]
    rename = os.rename

    def dying(source, target):
        if when == "before" and kill in str(target):
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)
        if when == "after" and kill in str(target):
            os.kill(os.getpid(), signal.SIGKILL)

    os.rename = dying
    with zoo.open(registry_path) as registry:
        registry.merge(method="linear", experts=["a", "b"], name="m", threads=1)
"""


@pytest.mark.parametrize(("kind", "when"), [("flat", "before"), ("tree", "after")])
def test_a_user_who_is_not_root_resumes_a_merge_killed_as_it_publishes(zoo_path, save, kind, when):
    unprivileged = []
    if os.geteuid() == 0:  # to whom a mode is no obstacle, unless told so
        drop = "-dac_override,-dac_read_search"
        unprivileged = ["setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}"]
        if shutil.which("setpriv") is None:
            pytest.skip("this root cannot give up its privileges: no setpriv")
    zoo_path.parent.mkdir()
    with zoo.open(zoo_path) as registry:
        for name, value in (("a", 1.0), ("b", 2.0)):
            state = {"w": torch.full((3,), value)}
            registry.register(save(state, torch_dtype="float32"), name=name)

    def merge(*kill: str) -> subprocess.CompletedProcess[str]:
        script = [sys.executable, "-c", textwrap.dedent(MERGE), str(zoo_path), *kill]
        return subprocess.run([*unprivileged, *script], capture_output=True, text=True, check=False)

    assert -9 == merge(f"/objects/{kind}/", when).returncode
    resumed = merge("", "never")

    assert 0 == resumed.returncode, resumed.stderr
    with zoo.open(zoo_path) as registry:
        assert {0o444} == {p.stat().st_mode & 0o777 for _, p, _ in registry.store.objects()}
        assert registry.fsck().ok
