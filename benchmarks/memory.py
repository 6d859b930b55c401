"""How much memory does `zoo merge` need, and does it grow with the model?

    python benchmarks/memory.py
    python benchmarks/memory.py --shapes qwen2.5-7b --experts 2 --forms zoo-yaml \
        --methods linear ties --name memory-7b      # 65 GB of disk

Merges three experts (two for SLERP) and a base of Qwen2.5-0.5B shapes and then of 1.5B shapes, in
both of zoo's forms: a mergekit file over local directories, registration included, and experts
registered before. Every command runs under `/usr/bin/time -v` where that exists; its "Maximum
resident set size" is the figure, and counts everything: Python, torch, buffers, mapped files.
The results go to `benchmarks/results/memory-DATE.json` and `benchmarks/results/memory.md`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import shutil
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from compare_mergekit import HERE, OFFLINE, Contest, register_models
from make_models import SHAPES, make_models, parameter_count
from measure import commit, machine, run
from recipes import MERGES, Merge

LIMIT = 1 << 30  # bytes: what the design promises for any size of model
GNU_TIME = Path("/usr/bin/time")
FORMS = ("zoo-yaml", "zoo-name")


def peak(contest: Contest, form: str) -> int:
    """Peak resident bytes of one whole `zoo merge`."""
    contest.prepare(form)
    log = contest.work / f"{contest.out(form)}.log"
    timed = [str(GNU_TIME), "-v"] if GNU_TIME.exists() else []
    env = {**OFFLINE, "ZOO_CACHE_DIR": ""}  # hashing counts too
    cost = run([*timed, *contest.command(form)], cwd=contest.work, env=env, log=log)
    if not timed:
        return cost.peak_bytes  # the same counter of the kernel, from wait4
    found = re.search(r"Maximum resident set size \(kbytes\): (\d+)", log.read_text())
    if found is None:
        raise SystemExit(f"{GNU_TIME} -v printed no resident set size: is it GNU time?")
    return int(found[1]) * 1024


def fewer(merge: Merge, experts: int) -> Merge:
    """The same merge of at most so many experts."""
    kept = min(merge.experts, experts)
    return replace(merge, experts=kept, weights=merge.weights[:kept])


def table(results: dict[str, Any]) -> str:
    """The results as a markdown page."""
    shapes = list(results["parameters"])
    forms = [form for form in FORMS if form in next(iter(results["peak_bytes"].values()))]
    columns = [f"{form}, {name}" for form in forms for name in shapes]
    lines = [
        "# Peak resident memory of `zoo merge`",
        "",
        f"{results['date']}, {results['measured_with']}, zoo {results['versions']['zoo']}, torch "
        f"{results['versions']['torch']}, default `--memory`; MiB. Written by "
        "`benchmarks/memory.py`, which says what the columns mean.",
        "",
        "| method | " + " | ".join(columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for method, peaks in results["peak_bytes"].items():
        cells = [f"{peaks[form][name] / 2**20:.0f}" for form in forms for name in shapes]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--shapes", nargs="+", choices=sorted(SHAPES), default=["qwen2.5-0.5b", "qwen2.5-1.5b"]
    )
    parser.add_argument("--methods", nargs="+", choices=sorted(MERGES), default=list(MERGES))
    parser.add_argument("--experts", type=int, default=3, help="at most")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--name", default="memory", help="of the files with the results")
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()

    work = options.work.resolve()
    merges = {m: fewer(MERGES[m], options.experts) for m in options.methods}
    experts = max(merge.experts for merge in merges.values())
    peaks: dict[str, dict[str, dict[str, int]]] = {
        method: {form: {} for form in options.forms} for method in options.methods
    }
    for shapes in options.shapes:
        make_models(shapes, experts, work / "models")
        if "zoo-name" in options.forms:
            register_models(work, shapes, experts)
        for method in options.methods:
            contest = Contest(merges[method], shapes, work, ())
            for form in options.forms:
                peaks[method][form][shapes] = peak(contest, form)
                print(f"{shapes} {method} {form}: {peaks[method][form][shapes] / 2**20:.0f} MiB")
            shutil.rmtree(work / "out" / shapes / method)

    today = datetime.date.today().isoformat()
    results: dict[str, Any] = {
        "date": today,
        "measured_with": "/usr/bin/time -v" if GNU_TIME.exists() else "wait4",
        "machine": machine(),
        "versions": {"zoo": f"{version('zoo-registry')} ({commit()})", "torch": version("torch")},
        "parameters": {name: parameter_count(SHAPES[name]) for name in options.shapes},
        "limit_bytes": LIMIT,
        "peak_bytes": peaks,
    }
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / f"{options.name}-{today}.json").write_text(
        json.dumps(results, indent=1) + "\n"
    )
    (options.results / f"{options.name}.md").write_text(table(results))
    print(table(results))
    largest = max(
        size for forms in peaks.values() for some in forms.values() for size in some.values()
    )
    if largest > LIMIT:
        raise SystemExit(f"{largest / 2**20:.0f} MiB is over the limit of {LIMIT / 2**20:.0f} MiB.")


if __name__ == "__main__":
    main()
