"""A killed merge is taken up where it was: finished tensors stay, and are trusted only as far as
their bytes agree with the journal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from warm_process import Ending, Warm

PLUGIN = '''
import os
import signal
import time

import torch

import zoo
from zoo import hookimpl, method

LOG, DIE_AT, INTERRUPT_AT, SLEEP = "", 0, 0, 0.0
seen = []


def note(tensor):
    seen.append(tensor)
    with open(LOG, "a") as log:
        log.write(tensor + "\\n")
    if len(seen) == DIE_AT:
        os.kill(os.getpid(), signal.SIGKILL)
    if len(seen) == INTERRUPT_AT:
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(SLEEP)


@method("logged", version="1.0.0")
def logged(experts: torch.Tensor, *, chunk) -> torch.Tensor:
    """The mean of two, and a note of each tensor made."""
    note(chunk.tensor)
    return (experts[0] + experts[1]) / 2


@method("streamed", version="1.0.0", needs="model")
def streamed(experts):
    """The tensors of the first expert, and a note of each one written."""
    for name, info in experts[0].tensors.items():
        if info.dtype == "F32":
            raw = bytearray(info.nbytes)
            experts[0].read_into(name, 0, memoryview(raw))
            yield name, torch.frombuffer(raw, dtype=torch.float32).reshape(info.shape)
            note(name)


@hookimpl
def zoo_register_methods(register):
    register(logged)
    register(streamed)
'''

MERGE = """
    import signal
    from pathlib import Path
    from zoo.plugins import load_plugins

    loaded = load_plugins([Path(plugin).parent])
    settings = loaded.methods["logged"].function.__globals__
    settings.update(LOG=log, DIE_AT=die_at, INTERRUPT_AT=interrupt_at, SLEEP=sleep)
    # What a shell starts in the background ignores SIGINT, and so do its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open_zoo(path, plugins=loaded) as registry:
        place = {"out": out} if out else {"name": "m"}
        try:
            made = registry.merge(method=method, experts=["a", "b"], threads=1, **place)
            result = made.digest if made else None
        except KeyboardInterrupt:
            result = "interrupted"
"""

Merge = Callable[..., tuple[Ending, list[str]]]


@pytest.fixture
def merge(warm: Warm, stocked: str, tmp_path: Path) -> Merge:
    """Merge in a child; how it ended, and the tensors it made, in order."""
    plugin = tmp_path / "plugins" / "notes.py"
    plugin.parent.mkdir()
    plugin.write_text(PLUGIN)
    log = tmp_path / "log"

    def run(method: str = "logged", die_at: int = 0, **options: Any) -> tuple[Ending, list[str]]:
        log.write_text("")
        given = {"path": stocked, "plugin": str(plugin), "log": str(log), "out": "", "sleep": 0}
        given |= {"method": method, "die_at": die_at, "interrupt_at": 0, **options}
        ending = warm.run(MERGE, **given)
        return ending, log.read_text().split()

    return run


@pytest.fixture
def staging(stocked: str) -> Callable[[], Path]:
    """The one directory of an unfinished merge."""

    def found() -> Path:
        (path,) = (Path(stocked).parent / "registry.store" / "staging").iterdir()
        return path

    return found


def journal(directory: Path) -> list[str]:
    """Tensors the journal says are finished."""
    lines = (directory / "journal.jsonl").read_text().splitlines()
    return [e["tensor"] for e in map(json.loads, lines) if "tensor" in e]


def flip(directory: Path, tensor: str) -> None:
    """Change one bit in the middle of a tensor."""
    path = directory / "model.safetensors"
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    start, stop = json.loads(data[8 : 8 + length])[tensor]["data_offsets"]
    data[8 + length + (start + stop) // 2] ^= 1
    path.write_bytes(data)


ALL = {f"layers.{i}.weight" for i in range(19)}


@pytest.mark.parametrize("method", ["logged", "streamed"])
def test_finished_tensors_are_not_made_again(
    method: str, merge: Merge, staging: Callable[[], Path]
) -> None:
    killed, first = merge(method, die_at=8)
    finished = journal(staging())

    again, second = merge(method)
    once_more, third = merge(method)

    assert killed.killed and 8 == len(first) and 7 <= len(finished) <= 9
    assert set(first[:7]) <= set(finished)
    if method == "logged":
        assert ALL - set(finished) == set(second)
    assert ALL == set(third)
    assert again.value == once_more.value


def test_a_merge_killed_again_and_again_still_advances(
    merge: Merge, staging: Callable[[], Path]
) -> None:
    counts = []
    for _ in range(5):
        ending, _ = merge(die_at=4)
        assert ending.killed
        counts.append(len(journal(staging())))

    done, made = merge()

    # The carried integer tensor is smallest and comes last.
    assert [3, 6, 9, 12, 15] == counts
    assert 4 == len(made)
    assert done.value == merge()[0].value


def test_a_finished_tensor_that_was_damaged_is_made_again(
    merge: Merge, staging: Callable[[], Path]
) -> None:
    _, first = merge(die_at=8)
    flip(staging(), first[2])

    again, second = merge()

    assert (ALL - set(first[:7])) | {first[2]} == set(second)
    assert again.value == merge()[0].value


@pytest.mark.parametrize("damage", ["torn line", "no journal", "other journal", "short shard"])
def test_a_journal_is_believed_no_further_than_it_goes(
    damage: str, merge: Merge, staging: Callable[[], Path]
) -> None:
    _, first = merge(die_at=8)
    path = staging() / "journal.jsonl"
    text = path.read_bytes()
    if damage == "torn line":
        path.write_bytes(text[:-20])
    elif damage == "no journal":
        path.unlink()
    elif damage == "other journal":
        path.write_bytes(b'{"key": "sha256:0"}\n' + text.split(b"\n", 1)[1])
    else:
        shard = staging() / "model.safetensors"
        shard.write_bytes(shard.read_bytes()[:-100])

    again, second = merge()

    expected = ALL - set(first[:6]) if damage == "torn line" else ALL
    assert expected == set(second)
    assert again.value == merge()[0].value


def test_a_journal_that_lies_about_a_digest_is_found_out(
    merge: Merge, staging: Callable[[], Path]
) -> None:
    _, first = merge(die_at=8)
    path = staging() / "journal.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines += [{"tensor": "layers.0.weight", "digest": lines[1]["digest"]}, {"tensor": "no.such"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    again, second = merge()

    assert ALL - set(first[:7]) == set(second)
    assert again.value == merge()[0].value


def test_another_recipe_does_not_use_what_this_one_left(
    merge: Merge, staging: Callable[[], Path]
) -> None:
    merge(die_at=8)

    _, made = merge("streamed")

    assert ALL == set(made)
    assert 7 == len(journal(staging()))


def test_other_code_does_not_use_what_this_one_left(merge: Merge, tmp_path: Path) -> None:
    merge(die_at=8)
    plugin = tmp_path / "plugins" / "notes.py"
    plugin.write_text(PLUGIN.replace("(experts[0] + experts[1]) / 2", "experts[0] * 0.5"))

    _, made = merge()

    assert ALL == set(made)


def test_a_merge_into_a_directory_resumes_too(merge: Merge, tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed, first = merge(die_at=8, out=str(out))
    assert killed.killed and not out.exists()

    _, second = merge(out=str(out))

    assert ALL - set(first[:7]) == set(second)
    names = {"README.md", "model.safetensors", "config.json", "zoo_recipe.json"}
    assert names == {p.name for p in out.iterdir()}
    assert not list(tmp_path.glob(".*"))


def test_nothing_is_visible_of_a_killed_merge(merge: Merge, warm: Warm, stocked: str) -> None:
    merge(die_at=8)

    seen = warm.run(
        """
        with open_zoo(path) as registry:
            report = registry.fsck()
            result = [report.ok, report.notes, sorted(v.ref for v in registry.select())]
        """,
        path=stocked,
    )

    assert [True, [], ["a@1", "b@1", "base@1"]] == seen.value


def test_gc_keeps_an_unfinished_merge_until_it_is_old(
    merge: Merge, warm: Warm, stocked: str, staging: Callable[[], Path]
) -> None:
    merge(die_at=8)
    collect = """
        with open_zoo(path) as registry:
            result = registry.gc(partial_age_days=days).removed_staging
        """

    assert 0 == warm.run(collect, path=stocked, days=7).value
    assert 7 == len(journal(staging()))
    assert 1 == warm.run(collect, path=stocked, days=0).value
    assert not list((Path(stocked).parent / "registry.store" / "staging").iterdir())


def test_an_interrupted_merge_stops_soon_and_resumes(merge: Merge) -> None:
    """Ctrl-C must not wait for the tensors still queued."""
    ending, made = merge(sleep=0.3, interrupt_at=3)

    assert "interrupted" == ending.value
    assert 3 <= len(made) <= 10
    _, rest = merge()
    assert ALL - set(made) <= set(rest) < ALL
