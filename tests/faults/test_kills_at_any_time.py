"""SIGKILL at random times: nothing half-published, nothing lost, and the rerun succeeds."""

from __future__ import annotations

import os
import random
import shutil
import sys
from pathlib import Path

import pytest
from warm_process import Warm

KILLS = {"register": 18, "merge": 18, "merge to a directory": 10, "gc": 16}
CHECK_EVERY = 3
"""Rounds; what one kill breaks, the next does not mend."""

OPEN = "with open_zoo(path) as registry:\n    "
RECIPE = "method='ties', base='base', experts=['a', 'b'], parameters={'density': 0.3}"
WORK = {
    "register": OPEN + "result = registry.register(sources['a'], name='a').ref",
    "merge": OPEN + f"result = registry.merge(name='m', {RECIPE}).ref",
    "merge to a directory": OPEN + f"registry.merge(out=out, {RECIPE})",
    "gc": OPEN + "result = registry.gc(partial_age_days=0).as_dict()",
}
LITTER = """
    import os
    from zoo.digest import flat_key

    with open_zoo(path) as registry:
        made = registry.merge(name="gone", method="linear", experts=["a", "b"])
        registry.remove(made.ref)
        with registry.store.staging("litter") as staging, registry.store.publishing():
            for i in range(5):
                data = os.urandom(1000)
                (staging / str(i)).write_bytes(data)
                registry.store.place([(staging / str(i), flat_key(data))])
"""
CHECK = """
    from pathlib import Path

    with open_zoo(path) as registry:
        report = registry.fsck()
        assert report.ok, report.damaged
        versions = registry.select()
        numbers = {}
        for v in versions:
            numbers.setdefault(v.name, []).append(v.version)
            tensors = registry.catalog.tensors(v.id)
            assert len(tensors) == 20, v
            if v.kind == "merge":
                assert registry.catalog.run_of(v.id) is not None, v
        dense = {n: k for n, k in numbers.items() if n != "gone"}
        assert all(k == list(range(1, len(k) + 1)) for k in dense.values()), numbers
        assert all((registry.path(v.ref) / "model.safetensors").is_file() for v in versions)
        assert len({v.digest for v in versions if v.name == "m"}) <= 1
    result = {name: len(k) for name, k in dense.items()}
"""


@pytest.mark.parametrize("what", WORK)
def test_a_killed_process_leaves_a_sound_zoo(
    what: str, stocked: str, sources: dict[str, str], tmp_path: Path, warm: Warm
) -> None:
    out = tmp_path / "out"
    given = {"path": stocked, "sources": sources, "out": str(out)}
    name = {"register": "a", "merge": "m"}.get(what)
    if what == "gc":
        warm.run(LITTER, **given)
    unkilled = warm.run(WORK[what], **given).seconds
    seed = int(os.environ.get("ZOO_TEST_SEED") or random.randrange(2**32))
    sys.stderr.write(f"ZOO_TEST_SEED={seed}, unkilled in {unkilled:.3f} s")
    chance = random.Random(seed)
    reference = _files(out)
    before = warm.run(CHECK, path=stocked).value

    kills = rounds = acknowledged = 0
    while kills < KILLS[what]:
        rounds += 1
        assert rounds < 5 * KILLS[what], "too few kills hit: the times are wrong"
        if what == "gc":
            warm.run(LITTER, **given)
        _remove(out)
        ending = warm.run(WORK[what], kill_after=chance.uniform(0, 1.1 * unkilled), **given)
        kills += ending.killed
        acknowledged += not ending.killed
        if not ending.killed:
            # One slow run must not set the time of all kills after it.
            unkilled = ending.seconds
        assert not out.exists() or _files(out) == reference
        if rounds % CHECK_EVERY:
            continue
        after = warm.run(CHECK, path=stocked).value
        if name:
            made = after[name] - before.get(name, 0)
            assert acknowledged <= made <= acknowledged + kills

    _remove(out)
    assert not warm.run(WORK[what], **given).killed
    assert _files(out) == reference
    warm.run(CHECK, path=stocked)
    left = warm.run(
        OPEN + "registry.gc(partial_age_days=0)\n"
        "    result = [str(p) for p in (registry.store.root / 'staging').rglob('.lock')]\n"
        "    result += [k for k, _, _ in registry.store.objects()"
        " if k not in registry.catalog.live_objects()]",
        path=stocked,
    )
    assert [] == left.value
    assert [] == [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


def _files(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in directory.iterdir()} if directory.exists() else {}


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
