"""Full and read-only disks: a clear error, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from warm_process import Warm

SIZE = 3 << 20
TRY = """
    import os
    from pathlib import Path
    from zoo.errors import RegistryError, StoreError

    def state(registry):
        staging = registry.store.root / "staging"
        return [sorted(v.ref for v in registry.select()), sorted(map(str, staging.iterdir()))]

    filler = Path(path).with_name("filler")
    with open_zoo(path) as registry:
        before = state(registry)
        filler.write_bytes(b"")
        room = os.statvfs(filler).f_bavail * os.statvfs(filler).f_frsize
        filler.write_bytes(b"x" * max(0, room - free))
        try:
            exec(work)
            result = "worked"
        except (StoreError, RegistryError) as error:
            result = f"{type(error).__name__}: {error}"
        finally:
            filler.unlink()
        if result != "worked":
            assert state(registry) == before, (before, state(registry))
            assert not out or not Path(out).exists()
            assert [p.name for p in Path(path).parent.glob(".*")] == []
        report = registry.fsck()
        assert report.ok, report.damaged
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "zoo-test", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["mount", "-o", "remount,rw", str(place)], capture_output=True, check=False)
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def on_disk(disk: Path, stocked: str) -> str:
    """The stocked zoo, on that disk."""
    shutil.copytree(Path(stocked).parent, disk / "zoo", symlinks=True)
    return str(disk / "zoo" / "registry.db")


RECIPE = "method='ties', experts=['a', 'b'], parameters={'density': 0.3}"
WORK = {
    "merge": f"registry.merge(name='m', {RECIPE})",
    "merge to a directory": f"registry.merge(out=out, {RECIPE})",
    "register": "registry.register(source, name='new')",
    "export": "registry.export('a', out)",
}


@pytest.mark.parametrize("what", WORK)
def test_a_full_disk_is_told_and_nothing_is_left(
    what: str, on_disk: str, sources: dict[str, str], tmp_path: Path, warm: Warm
) -> None:
    out = str(Path(on_disk).with_name("out")) if "out" in WORK[what] else ""
    # Bytes that no other version has, so that they need room.
    fresh = tmp_path / "fresh"
    shutil.copytree(sources["a"], fresh)
    (fresh / "notes.txt").write_bytes(os.urandom(60_000))
    given = {"path": on_disk, "work": WORK[what], "out": out, "source": str(fresh)}

    endings = []
    for free in range(0, SIZE, 48 << 10):
        endings.append(warm.run(TRY, free=free, **given).value)
        if endings[-1] == "worked":
            break

    assert "worked" == endings[-1]
    assert len(endings) >= 3
    told = ("the disk is full", "No space left")
    assert all(any(t in e for t in told) for e in endings[:-1]), endings
    if out:
        assert not any("the store" in e for e in endings), endings


def test_a_read_only_zoo_can_be_read_and_says_why_it_cannot_be_changed(
    on_disk: str, sources: dict[str, str], warm: Warm, tmp_path: Path
) -> None:
    warm.run(f"with open_zoo(path) as registry: registry.merge(name='m', {RECIPE})", path=on_disk)
    disk = Path(on_disk).parent.parent
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)

    refused = warm.run(
        f"""
        from zoo.errors import ZooError

        result = []
        with open_zoo(path) as registry:
            for work in (
                lambda: registry.register(sources["a"], name="new"),
                lambda: registry.merge(name="m", {RECIPE}),
                lambda: registry.alias("a", "best"),
                lambda: registry.remove("a"),
                lambda: registry.gc(),
            ):
                try:
                    work()
                    result.append("worked")
                except ZooError as error:
                    result.append(str(error))
        """,
        path=on_disk,
        sources=sources,
    ).value
    read = warm.run(
        f"""
        from pathlib import Path

        with open_zoo(path, create=False) as registry:
            result = [
                sorted(v.ref for v in registry.select()),
                registry.verify("m").ok,
                registry.verify("m", replay=True).ok,
                registry.fsck().ok,
                len(registry.diff("a", "m").changed),
                len(registry.lineage("m").edges),
                registry.merge(out=out, {RECIPE}),
                Path(out, "model.safetensors").is_file(),
            ]
        """,
        path=on_disk,
        out=str(tmp_path / "out"),
    ).value

    assert all("read-only" in r or "readonly" in r for r in refused), refused
    assert [["a@1", "b@1", "base@1", "m@1"], True, True, True, 19, 5, None, True] == read
