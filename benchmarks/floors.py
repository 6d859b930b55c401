"""The floors of reliability: kills, failing disks, flipped bits, crowds. Needs a C compiler.

    python benchmarks/floors.py --kills 1000 --errors 500

Each job of `floors_jobs.py` is done in a child process that is killed at, or whose disk fails at,
one of its system calls, SQLite's among them (`floors_calls.c`). The calls are spread evenly over
each job. Afterwards all rows must be those before the step or those after it, nothing acknowledged
may be lost, no row may point at a missing object, fsck must be clean, the step done again must
succeed with the same digest, and gc must leave no litter. Results so far are kept in
`work/floors.jsonl`: a run that is stopped goes on from there; `--fresh` forgets them.
"""

from __future__ import annotations

import argparse
import errno
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "faults"))

from floors_jobs import (  # noqa: E402
    BITS,
    CROWDS,
    FSCK,
    JOBS,
    OPEN,
    RUN,
    SOUND,
    SOURCES,
    STOCK,
)
from looking import files, rows  # noqa: E402
from warm_process import Warm, started  # noqa: E402

NOTHING, KILL, TORN, FAIL, SHORT, DEAD = range(6)
WRITE, SYNC, RENAME, UNLINK, MAKE, SPACE, MODE, READ = (1 << i for i in range(8))
CHANGES = WRITE | SYNC | RENAME | UNLINK | MAKE | SPACE | MODE
KILLS = {"kill": (KILL, 0, CHANGES), "kill in a write": (TORN, 0, WRITE)}
ERRORS = {
    "EIO": (FAIL, errno.EIO, CHANGES | READ),
    "EIO from then on": (DEAD, errno.EIO, CHANGES | READ),
    "ENOSPC": (FAIL, errno.ENOSPC, WRITE | MAKE | SPACE | RENAME),
    "ENOSPC from then on": (DEAD, errno.ENOSPC, WRITE | MAKE | SPACE | RENAME),
    "EINTR": (FAIL, errno.EINTR, WRITE | READ | SYNC),
    "short write": (SHORT, 0, WRITE),
}
RECORD = HERE / "work" / "floors.jsonl"


@dataclass(frozen=True)
class Trial:
    """One kill or one error."""

    job: str
    fault: str
    at: int
    """The call that is hit, from 1."""
    hit: str
    """Its name and path."""
    ending: str
    """killed, refused, worked, raw (an exception that is no ZooError), missed."""
    acknowledged: int
    state: str
    """before or after the step that was hit."""
    violation: str
    left: bool
    """Whether something lay in staging, for gc to take."""
    said: str = ""


class Arena:
    """A job's zoo, set back before each trial."""

    def __init__(self, warm: Warm, folder: Path, name: str) -> None:
        self.warm, self.name, self.job = warm, name, JOBS[name]
        self.folder = folder / name.replace(" ", "-")
        self.zoo = self.folder / "zoo"
        self.out = self.folder / "place" / "out"
        self.acks = self.folder / "acks"
        self.sources = folder / "sources"
        self.given: dict[str, Any] = {
            "path": str(self.zoo / "registry.db"),
            "sources": str(self.sources),
            "out": str(self.out),
            "acks": str(self.acks),
            "hit": str(self.folder / "hit"),
            "watched": f"{self.zoo}\n{self.out.parent}",
        }
        self.folder.mkdir(parents=True)
        self.zoo.mkdir()
        self.do(STOCK)
        if self.job.before:
            self.do(self.job.before)
        shutil.copytree(self.zoo, self.folder / "pristine", symlinks=True)
        self._walk()

    def do(self, source: str, **more: Any) -> Any:
        return self.warm.run(source, **self.given, **more)

    def reset(self) -> None:
        shutil.rmtree(self.zoo)
        shutil.rmtree(self.out.parent, ignore_errors=True)
        shutil.copytree(self.folder / "pristine", self.zoo, symlinks=True)
        self.out.parent.mkdir()
        self.acks.write_text("")

    def attempt(self, steps: tuple[str, ...], fault: tuple[int, int, int], at: int) -> Any:
        action, number, kinds = fault
        more = {"steps": steps, "action": action, "number": number, "kinds": kinds, "at": at}
        return self.do(RUN, **more)

    def _walk(self) -> None:
        """The states between the steps, and what each step gives."""
        self.reset()
        self.states = [self._seen()]
        self.values = []
        for step in self.job.steps:
            done = self.attempt((step,), (NOTHING, 0, 0), 0).value
            assert not done["error"] and not done["raw"], (self.name, done)
            self.values += done["values"]
            self.states.append(self._seen())

    def _seen(self) -> tuple[str, Any]:
        return rows(self.zoo / "registry.db"), files(self.out)

    def calls(self, kinds: int) -> int:
        self.reset()
        return int(self.attempt(self.job.steps, (NOTHING, 0, kinds), 0).value["calls"])

    def trial(self, fault: str, spec: tuple[int, int, int], at: int) -> Trial:
        self.reset()
        steps = self.job.steps
        ending = self.attempt(steps, spec, at)
        acknowledged = len(self.acks.read_text().split())
        hit = (self.folder / "hit").read_text().replace(str(self.folder), "")
        done = ending.value or {}
        how, said = _how(ending.killed, done, hit)
        told: dict[str, Any] = {
            "job": self.name, "fault": fault, "at": at, "hit": hit, "ending": how,
            "acknowledged": acknowledged, "state": "", "left": False, "said": said,
        }  # fmt: skip
        litter = [p.name for p in (self.zoo / "registry.store" / "staging").glob("*")]
        told["left"] = bool(litter)
        here = min(acknowledged, len(steps) - 1)
        try:
            now = self._seen()
            told["state"] = self._place(now, here)
            if now[1] is not None and now[1] == self.states[-1][1]:
                shutil.rmtree(self.out)  # it was finished; another goes to a place of its own
            seen = self.do(SOUND, steps=steps[here : here + 1]).value
            seen["files"] = self._seen()[1]
        except AssertionError as error:
            return Trial(**told, violation=str(error)[-3000:])
        wrong = self._wrong(told["state"], seen, acknowledged, here, how)
        return Trial(**told, violation="; ".join(wrong))

    def _place(self, now: tuple[str, Any], here: int) -> str:
        if now == self.states[here + 1]:
            return "after"
        return "before" if now == self.states[here] else "between"

    def _wrong(
        self, place: str, seen: dict[str, Any], acknowledged: int, here: int, how: str
    ) -> Iterator[str]:
        if place == "between":
            yield "the rows or files are neither those before the step nor those after it"
        same = self.states[here] == self.states[here + 1]
        if acknowledged == len(self.job.steps) and place != "after" and not same:
            yield "what was acknowledged is lost"
        if seen["again"] != [self.values[here]]:
            yield f"done again it gives {seen['again']}, not {self.values[here]}"
        if self.job.out and seen["files"] != self.states[-1][1]:
            yield "done again it writes other bytes"
        left = [*seen["left"], *(p.name for p in self.out.parent.glob(".*"))]
        if left or seen["garbage"]:
            yield f"gc leaves {left} {seen['garbage']}"
        if how == "raw":
            yield "the error is no ZooError"


def _how(killed: bool, done: dict[str, Any], hit: str) -> tuple[str, str]:
    if killed:
        return "killed", ""
    if done.get("raw"):
        return "raw", done["raw"]
    if done.get("error"):
        return "refused", done["error"]
    return ("worked" if hit else "missed"), ""


def spread(total: dict[tuple[str, str], int], wanted: int, chance: random.Random) -> list[Any]:
    """(job, fault, at): `wanted` of them, each pair with its share, evenly over its calls."""
    found = []
    total = {pair: n for pair, n in total.items() if n}
    shares = {pair: max(1, round(wanted * n / sum(total.values()))) for pair, n in total.items()}
    for pair, share in shares.items():
        n = total[pair]
        if share >= n:
            found += [(*pair, at) for at in range(1, n + 1)]
            found += [(*pair, chance.randint(1, n)) for _ in range(share - n)]
        else:
            found += [(*pair, 1 + int((i + chance.random()) * n / share)) for i in range(share)]
    chance.shuffle(found)
    return found


def compiled(folder: Path) -> Path:
    library = folder / "floors_calls.so"
    source = str(HERE / "floors_calls.c")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--errors", type=int, default=500)
    parser.add_argument("--jobs", default="", help="only these, by comma")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    asked = parser.parse_args()
    memory = Path("/dev/shm")  # a kill loses nothing that a file system has: no disk is needed
    RECORD.parent.mkdir(exist_ok=True)
    if asked.fresh:
        RECORD.unlink(missing_ok=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as place:
        folder = Path(place)
        with started(preload=compiled(folder)) as warm:
            warm.run(SOURCES, sources=str(folder / "sources"))
            arenas = {
                n: Arena(warm, folder, n)
                for n in JOBS
                if not asked.jobs or n in asked.jobs.split(",")
            }
            trials(arenas, asked)
            flips = every_bit(warm, folder)
            crowds = at_once(warm, folder)
    report(flips, crowds)
    print(f"{time.monotonic() - began:.0f} s")


def trials(arenas: dict[str, Arena], asked: argparse.Namespace) -> None:
    chance = random.Random(asked.seed)
    plans = []
    for wanted, kinds in ((asked.kills, KILLS), (asked.errors, ERRORS)):
        counts = {
            (name, fault): arena.calls(spec[2])
            for name, arena in arenas.items()
            for fault, spec in kinds.items()
        }
        plans += spread(counts, wanted, chance)
        print(f"{sum(counts.values())} calls to hit, for {wanted}", counts, flush=True)
    done: Counter[tuple[str, str, int]] = Counter()
    if RECORD.exists():
        done.update((t["job"], t["fault"], t["at"]) for t in map(json.loads, RECORD.open()))
    with RECORD.open("a") as record:
        for i, (name, fault, at) in enumerate(plans):
            if done[name, fault, at]:
                done[name, fault, at] -= 1
                continue
            made = arenas[name].trial(fault, {**KILLS, **ERRORS}[fault], at)
            record.write(json.dumps(asdict(made)) + "\n")
            record.flush()
            if made.violation:
                print(f"{i}: {name}, {fault} at {at}, {made.hit}: {made.violation} {made.said}")
            if i % 50 == 0:
                print(f"{i} of {len(plans)}", flush=True)


def every_bit(warm: Warm, folder: Path) -> dict[str, Any]:
    """Flip each bit of each object of a small model; fsck must name it, its version and its merge.

    The whole of fsck runs at every 64th bit, its look at the objects at every one.
    """
    given = {"path": str(folder / "bits" / "registry.db"), "scratch": str(folder / "bit")}
    Path(given["path"]).parent.mkdir()
    return dict(warm.run(BITS, **given).value)


def at_once(warm: Warm, folder: Path) -> dict[str, Any]:
    """Sixteen first openers; eight processes that register, and eight that merge, into one name."""
    given = {"path": str(folder / "crowd" / "registry.db"), "sources": str(folder / "sources")}
    Path(given["path"]).parent.mkdir()
    opened = warm.run_all([OPEN] * 16, **given)
    ids = {ending.value for ending in opened}
    warm.run(STOCK, **given)
    found: dict[str, Any] = {"openers": len(opened), "schemas": len(ids)}
    for what, source in CROWDS.items():
        numbers = sorted(e.value for e in warm.run_all([source] * 8, i=0, **given))
        found[what] = numbers == list(range(1, 9))
    found["sound"] = warm.run(FSCK, **given).value
    return found


def report(flips: dict[str, Any], crowds: dict[str, Any]) -> None:
    """Write `results/floors.md` from the record."""
    made = [json.loads(line) for line in RECORD.open()]
    lines = [
        "# Floors of reliability",
        "",
        "`python benchmarks/floors.py` made this page; what is checked after each fault, it says.",
        f"Made {time.strftime('%Y-%m-%d', time.gmtime())}. What met no call is not counted.",
        "",
    ]
    for title, kinds in (("Kills", list(KILLS)), ("Failed calls", list(ERRORS))):
        rows_ = [t for t in made if t["fault"] in kinds and t["hit"]]
        wrong = sum(bool(t["violation"]) for t in rows_)
        lines += [f"## {title}: {len(rows_)}, of them {wrong} with a violation", ""]
        calls = Counter(t["hit"].split()[0].removesuffix("64") for t in rows_)
        lines += ["Calls: " + ", ".join(f"{name} {n}" for name, n in calls.most_common()) + ".", ""]
        lines += ["| job | " + " | ".join(kinds) + " | after the step | violations |"]
        lines += ["|---|" + "---|" * (len(kinds) + 2)]
        for job in JOBS:
            of = [t for t in rows_ if t["job"] == job]
            counts = [sum(t["fault"] == kind for t in of) for kind in kinds]
            after = sum(t["state"] == "after" for t in of)
            bad = sum(bool(t["violation"]) for t in of)
            lines.append("| " + " | ".join(map(str, (job, *counts, after, bad))) + " |")
        endings = Counter(t["ending"] for t in rows_)
        lines += ["", "Endings: " + ", ".join(f"{n} {e}" for e, n in endings.items()) + ".", ""]
    lines += [
        "## Flipped bits",
        "",
        f"{flips['bits']} bits of {flips['objects']} objects of a model and its merge: "
        f"{flips['found']} found, {flips['named']} with the versions and descendants named.",
        "",
        "## Crowds",
        "",
        f"{crowds['openers']} first openers: {crowds['schemas']} zoo. Versions 1 to 8 of one name, "
        f"by 8 processes at once: registered {crowds['register']}, merged {crowds['merge']}; "
        f"fsck clean: {crowds['sound']}.",
        "",
    ]
    (HERE / "results" / "floors.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
