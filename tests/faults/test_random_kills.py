"""SIGKILL at random times: nothing half-published, nothing lost, and the rerun succeeds."""

from __future__ import annotations

import os
import random
import shutil
import sys
from pathlib import Path

import pytest
from warm_process import Warm

KILLS = 20
"""Of each kind of work."""

OPEN = "with open_zoo(path) as registry:\n    "
RECIPE = "method='ties', base='base', experts=['a', 'b'], parameters={'density': 0.3}"
WORK = {
    "register": OPEN + "result = registry.register(sources['a'], name='a').ref",
    "merge": OPEN + f"result = registry.merge(name='m', {RECIPE}).ref",
    "merge to a directory": OPEN + f"registry.merge(out=out, {RECIPE})",
    "gc": OPEN + "result = registry.gc(partial_age_days=0).as_dict()",
}
LITTER = """
    with open_zoo(path) as registry:
        for scale in (0.1, 0.2):
            made = registry.merge(
                name="gone", method="task_arithmetic", base="base", experts=["a", "b"],
                parameters={"lambda": scale},
            )
            registry.remove(made.ref)
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
    while kills < KILLS:
        rounds += 1
        assert rounds < 5 * KILLS, "too few kills hit: the times are wrong"
        if what == "gc":
            warm.run(LITTER, **given)
        _remove(out)
        ending = warm.run(WORK[what], kill_after=chance.uniform(0, 1.1 * unkilled), **given)
        kills += ending.killed
        acknowledged += not ending.killed
        assert not out.exists() or _files(out) == reference
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
