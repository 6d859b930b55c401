"""Time `zoo merge` beside mergekit 0.1.5, on the same models, machine and minutes.

    python benchmarks/compare_mergekit.py --repeats 5

Makes what it needs under `benchmarks/work`: the models, and an environment of its own for mergekit
with the torch that zoo runs on. Then, for every method, it runs whole commands in turn:

    mergekit     mergekit-yaml CONFIG OUT, offline
    zoo-yaml     zoo merge CONFIG --out OUT: the same file, in a new registry, so that whatever
                 registering of the inputs zoo does is included
    zoo-again    the same once more: the digests of files that have not changed are remembered
    zoo-name     zoo merge CONFIG --as NAME: the same recipe over names of a registry, whose inputs
                 were hashed when they were registered; the result is stored there, durably
    copy         cat INPUTS > /dev/null; dd of one model: reading and writing the same bytes
    copy-synced  the same and the output flushed to the disk, as zoo does and mergekit does not

and reports medians. The order rotates, so that no program always follows the same other one.
Results go to `benchmarks/results/mergekit-DATE.json`, every run included, and a table to
`benchmarks/results/mergekit.md`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import statistics
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import agreement
from make_models import SHAPES, make_models, parameter_count
from measure import Cost, commit, drop_caches, machine, run, zoo_command
from recipes import MERGES, Merge, write_yaml

MERGEKIT = "0.1.5"
TORCH = "2.13.0"
# No card: it asks the Hub. No tokenizer: the models have none, and looking for one costs time.
MERGEKIT_FLAGS = ["--no-write-model-card", "--no-copy-tokenizer", "--quiet"]
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
HERE = Path(__file__).resolve().parent
ZOO = ("zoo-yaml", "zoo-again", "zoo-name")
RIVALS = ("mergekit", *ZOO, "copy", "copy-synced")


@dataclass(frozen=True)
class Contest:
    """One method's merge and where its commands run; commands name files relative to `work`."""

    merge: Merge
    shapes: str
    work: Path
    mergekit_flags: Sequence[str]

    @property
    def models(self) -> str:
        return f"models/{self.shapes}"

    @property
    def bytes_moved(self) -> int:
        """Bytes of the weights that a merge must read and write."""
        size = (self.work / self.models / "base" / "model.safetensors").stat().st_size
        return size * (len(self.merge.inputs) + 1)

    def out(self, rival: str) -> str:
        return f"out/{self.shapes}/{self.merge.method}/{rival}"

    def recipe(self, models: str) -> str:
        """The configuration over `models` + NAME."""
        kind = "paths" if models else "names"
        path = f"recipes/{self.shapes}/{kind}/{self.merge.method}.yml"
        write_yaml(self.merge, models, self.work / path)
        return path

    def command(self, rival: str) -> list[str]:
        out = self.out(rival)
        if rival == "mergekit":
            program = str(mergekit_environment(self.work) / "bin" / "mergekit-yaml")
            return [program, self.recipe(self.models + "/"), out, *self.mergekit_flags]
        if rival in ("zoo-yaml", "zoo-again"):
            registry = ["--registry", f"{out}.zoo/registry.db"]
            recipe = self.recipe(self.models + "/")
            return [*zoo_command(), *registry, "merge", recipe, "--out", out]
        if rival == "zoo-name":
            registry = ["--registry", f"registered/{self.shapes}/registry.db"]
            merge = ["merge", self.recipe(""), "--as", f"merged-{self.merge.method}"]
            return [*zoo_command(), *registry, *merge]
        files = [f"{self.models}/{name}/model.safetensors" for name in self.merge.inputs]
        flush = " conv=fsync" if rival == "copy-synced" else ""
        read = f"cat {' '.join(files)} > /dev/null"
        write = f"dd if={files[0]} of={out} bs=8M status=none{flush}"
        return ["sh", "-ec", f"{read}; {write}"]

    def prepare(self, rival: str) -> None:
        """Leave no trace of the last run of `rival`, outside the measured time."""
        out = self.work / self.out(rival)
        out.parent.mkdir(parents=True, exist_ok=True)
        for path in (out, Path(f"{out}.zoo")):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(True)
        if rival in ("zoo-yaml", "zoo-again"):
            Path(f"{out}.zoo").mkdir()
        if rival == "zoo-name":
            forget_merges(self.work, self.shapes)

    def run(self, rival: str, *, cold: bool) -> Cost:
        self.prepare(rival)
        command = self.command(rival)
        if cold:
            drop_caches()
        log = self.work / f"{self.out(rival)}.log"
        # Empty: no run of zoo-yaml spares itself the hashing that one before it did.
        cache = str(self.work / "cache") if rival == "zoo-again" else ""
        return run(command, cwd=self.work, env={**OFFLINE, "ZOO_CACHE_DIR": cache}, log=log)


def mergekit_environment(work: Path) -> Path:
    """A virtual environment with mergekit and the torch that zoo is measured with."""
    home = work / "mergekit-env"
    if not (home / "bin" / "mergekit-yaml").exists():
        print(f"installing mergekit {MERGEKIT} and torch {TORCH} …", file=sys.stderr)
        venv.create(home, with_pip=True)
        packages = [f"mergekit=={MERGEKIT}", f"torch=={TORCH}"]
        subprocess.run([home / "bin" / "pip", "install", "-q", *packages], check=True)
    return home


def register_models(work: Path, shapes: str, experts: int) -> None:
    """Register the base and the experts under their directory names, once."""
    home = work / "registered" / shapes
    if (home / "done").exists():
        return
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    zoo = [*zoo_command(), "--registry", f"registered/{shapes}/registry.db"]
    register = [*zoo, "register", f"models/{shapes}/base", "--name", "base", "--kind", "base"]
    run(register, cwd=work, log=home / "register.log")
    for number in range(1, experts + 1):
        name = f"expert-{number}"
        register = [*zoo, "register", f"models/{shapes}/{name}", "--name", name, "--base", "base"]
        run(register, cwd=work, log=home / "register.log")
    (home / "done").touch()


def forget_merges(work: Path, shapes: str) -> None:
    """Remove earlier merges and their bytes, so that the next one has all its work to do."""
    zoo = [*zoo_command(), "--registry", f"registered/{shapes}/registry.db"]
    listed = subprocess.run(
        [*zoo, "ls", "--where", "kind = 'merge'", "--json"], cwd=work, capture_output=True
    )
    log = work / "forget.log"
    for entry in json.loads(listed.stdout or "[]"):
        run([*zoo, "rm", f"{entry['name']}@{entry['version']}"], cwd=work, log=log)
    run([*zoo, "gc"], cwd=work, log=log)


def measure_method(
    contest: Contest, rivals: Sequence[str], repeats: int, cold: bool, say: Callable[[str], None]
) -> dict[str, list[Cost]]:
    """Run every rival `repeats` times in rotating order, after one uncounted run of each.

    The uncounted round fills the page cache with the programs and the models; with `cold` it only
    shows that every command works.
    """
    costs: dict[str, list[Cost]] = {rival: [] for rival in rivals}
    for turn in range(repeats + 1):
        shift = turn % len(rivals)
        for rival in (*rivals[shift:], *rivals[:shift]):
            cost = contest.run(rival, cold=cold)
            note = " (not counted)" if turn == 0 else ""
            say(
                f"{contest.merge.method:16} {rival:12} {cost.wall_s:8.2f} s "
                f"{cost.peak_bytes / 2**20:7.0f} MiB{note}"
            )
            if turn:
                costs[rival].append(cost)
    return costs


def summary(contest: Contest, costs: dict[str, list[Cost]]) -> dict[str, Any]:
    """Medians and what they say about each other."""
    wall = {r: statistics.median(c.wall_s for c in runs) for r, runs in costs.items()}
    peak = {r: max(c.peak_bytes for c in runs) for r, runs in costs.items()}
    return {
        "method": contest.merge.method,
        "bytes_moved": contest.bytes_moved,
        "median_wall_s": {r: round(s, 3) for r, s in wall.items()},
        "spread_wall_s": {
            r: [round(min(c.wall_s for c in runs), 3), round(max(c.wall_s for c in runs), 3)]
            for r, runs in costs.items()
        },
        "peak_bytes": peak,
        "bytes_per_s": {r: round(contest.bytes_moved / s) for r, s in wall.items()},
        "times_faster_than_mergekit": {
            r: round(wall["mergekit"] / wall[r], 2) for r in ZOO if r in wall and "mergekit" in wall
        },
        "times_slower_than_copy": {
            f"{r}/{c}": round(wall[r] / wall[c], 2)
            for r in ("mergekit", *ZOO)
            for c in ("copy", "copy-synced")
            if r in wall and c in wall
        },
    }


def table(results: dict[str, Any]) -> str:
    """The results as a markdown page."""
    machine_facts, versions = results["machine"], results["versions"]
    lines = [
        "# zoo and mergekit, side by side",
        "",
        f"{results['date']}, {results['shapes']} shapes ({results['parameters'] / 1e6:.0f} M "
        f"parameters, bfloat16), {results['cache']} page cache, {results['repeats']} repeats in "
        "turn, median wall seconds of whole commands.",
        f"{machine_facts['processor']}, {machine_facts['cores']} cores, "
        f"{machine_facts['memory_bytes'] / 2**30:.0f} GiB; zoo {versions['zoo']}, "
        f"mergekit {versions['mergekit']}, torch {versions['torch']}. "
        "Written by `benchmarks/compare_mergekit.py`, which says what each column runs.",
        "",
        f"| method | {' | '.join(RIVALS)} | {' | '.join(f'{r} is faster by' for r in ZOO)} "
        "| peak MiB mergekit | zoo-yaml |",
        "|---|" + "---:|" * (len(RIVALS) + len(ZOO) + 2),
    ]
    for row in results["summary"]:
        wall, peak = row["median_wall_s"], row["peak_bytes"]
        faster = row["times_faster_than_mergekit"]
        cells = [row["method"]]
        cells += [f"{wall[r]:.1f}" if r in wall else "" for r in RIVALS]
        cells += [f"{faster[r]:.1f}x" if r in faster else "" for r in ZOO]
        cells += [f"{peak[r] / 2**20:.0f}" if r in peak else "" for r in RIVALS[:2]]
        lines.append("| " + " | ".join(cells) + " |")
    if results["agreement"]:
        lines += [
            "",
            "The results of mergekit and zoo-yaml, compared element by element. *Undecided* "
            "elements hang on a tie that bfloat16 arithmetic leaves open, see "
            "`benchmarks/agreement.py`.",
            "",
            "| method | elements | unequal | largest difference | undecided | beyond rounding |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {a['method']} | {a['elements']:,} | {a['unequal']:,} "
            f"| {a['largest_difference']:.3g} | {a['undecided']:,} | {a['beyond_rounding']:,} |"
            for a in results["agreement"]
        ]
    return "\n".join(lines) + "\n"


def write(results: dict[str, Any], directory: Path) -> None:
    """Keep what there is so far: a long run may be stopped."""
    directory.mkdir(parents=True, exist_ok=True)
    suffix = "-cold" if results["cache"] == "cold" else ""
    (directory / f"mergekit-{results['date']}{suffix}.json").write_text(
        json.dumps(results, indent=1) + "\n"
    )
    (directory / f"mergekit{suffix}.md").write_text(table(results))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shapes", choices=sorted(SHAPES), default="qwen2.5-0.5b")
    parser.add_argument("--methods", nargs="+", choices=sorted(MERGES), default=list(MERGES))
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=list(RIVALS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cold", action="store_true", help="drop the page cache before each run")
    parser.add_argument("--mergekit-flags", default=" ".join(MERGEKIT_FLAGS))
    parser.add_argument("--no-agreement", action="store_true", help="do not compare the results")
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()

    work = options.work.resolve()
    mergekit_environment(work)
    experts = max(MERGES[m].experts for m in options.methods)
    make_models(options.shapes, experts, work / "models")
    if "zoo-name" in options.rivals:
        register_models(work, options.shapes, experts)

    today = datetime.date.today().isoformat()
    results: dict[str, Any] = {
        "date": today,
        "shapes": options.shapes,
        "parameters": parameter_count(SHAPES[options.shapes]),
        "cache": "cold" if options.cold else "warm",
        "repeats": options.repeats,
        "machine": machine(),
        "versions": {
            "zoo": f"{version('zoo-registry')} ({commit()})",
            "mergekit": MERGEKIT,
            "torch": version("torch"),
        },
        "mergekit_flags": options.mergekit_flags.split(),
    }
    rows, runs, agreements = [], {}, []
    for method in options.methods:
        contest = Contest(MERGES[method], options.shapes, work, options.mergekit_flags.split())
        costs = measure_method(
            contest,
            options.rivals,
            options.repeats,
            options.cold,
            lambda line: print(line, file=sys.stderr, flush=True),
        )
        rows.append(summary(contest, costs))
        runs[method] = {rival: [asdict(c) for c in some] for rival, some in costs.items()}
        compared = method in agreement.METHODS and not options.no_agreement
        if compared and {"mergekit", "zoo-yaml"} <= set(options.rivals):
            # In a process of its own: a child's peak memory begins at what its parent holds.
            with ProcessPoolExecutor(1, get_context("spawn")) as apart:
                found = apart.submit(
                    agreement.compare,
                    contest.merge,
                    work / contest.models,
                    work / contest.out("zoo-yaml"),
                    work / contest.out("mergekit"),
                ).result()
            agreements.append(agreement.as_dict(found))
        shutil.rmtree(work / "out" / options.shapes / method)
        results |= {"summary": rows, "agreement": agreements, "runs": runs}
        write(results, options.results)

    print(table(results))
    if not all(a["agrees"] for a in agreements):
        raise SystemExit("The two programs disagree by more than rounding: see the last table.")


if __name__ == "__main__":
    main()
