"""Is a method's result here what fusion_bench's function of the same name gives?

    python benchmarks/parity_fusion_bench.py

Makes one family of small checkpoints in float64, so that what differs is meaning and not rounding;
calls fusion_bench's functions on them (`fusion_bench_functions.py`, in an environment of its own)
and zoo's methods with the parameters that mean the same, and compares the merged models. Methods
that make a model per task are compared task by task.

Writes `results/parity_fusion_bench.md` and `.json`. Exits 1 when something differs by more than
rounding and nothing below explains it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from compare_mergekit import HERE, OFFLINE, TORCH
from measure import commit
from safetensors.torch import load_file, save_file

FUSION_BENCH = "0.2.33"
ROUNDING = 1e-9
"""Largest difference that rounding explains, relative to the largest merged change: float64 through
an SVD or two."""
SHAPES = {
    "embed.weight": (40, 16),
    "layers.0.attention.weight": (16, 16),
    "layers.0.up.weight": (24, 16),
    "layers.0.norm.weight": (16,),
    "layers.1.attention.weight": (16, 16),
    "layers.1.up.weight": (24, 16),
    "layers.1.norm.weight": (16,),
    "convolution.weight": (6, 4, 3, 3),
}
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """A file that fusion_bench's side writes, and what to ask of zoo for the same."""

    theirs: str
    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    experts: int = 3
    base: bool = True
    task: int | None = None
    """Of a method that makes a model per task, which."""
    because: str = ""
    """Why the two may differ by more than rounding in float64."""
    within: float = 0.0
    """The largest relative difference which that explains."""


CASES = [
    Case("task_arithmetic", "task_arithmetic", {"lambda": 0.3}),
    *(
        Case(f"ties {fuse}", "ties", {"merge": fuse, "trim": "kth_value_inclusive"})
        for fuse in ("mean", "sum", "max")
    ),
    Case("magmax", "magmax", {"lambda": 0.5}),
    Case("tsv", "tsv"),
    Case("iso_c", "iso_c"),
    Case("iso_cts", "iso_cts", {"common_space_fraction": 0.8}),
    Case("wudi", "wudi"),
    Case(
        "model_stock EPS=0",
        "model_stock",
        experts=2,
        because="its angles are float32",
        within=1e-5,
    ),
    Case(
        "model_stock EPS=1e-08",
        "model_stock",
        experts=2,
        because="its EPS, which weighs as much as the product of small deltas' norms",
        within=1e-3,
    ),
    Case("dare", "dare", {"density": 0.3}, experts=1),
    Case("slerp", "slerp", {"t": 0.3}, experts=2, base=False),
    *(
        Case(
            f"emr-{t}",
            "emr",
            {"rescaler": "sum_of_tensor_means"},
            task=t,
            because="its scales are summed in float32",
            within=1e-6,
        )
        for t in (1, 2, 3)
    ),
    *(Case(f"tall_masks-{t}", "tall_masks", task=t) for t in (1, 2, 3)),
]


@dataclass
class Row:
    theirs: str
    method: str
    parameters: str
    largest: float | None = None
    relative: float | None = None
    """To the largest change that fusion_bench's model makes to the base."""
    finding: str = ""


def make_models(out: Path) -> tuple[State, list[State]]:
    """A base and three experts in float64; the same bytes whenever it runs."""
    out.mkdir(parents=True, exist_ok=True)
    models = []
    for number, name in enumerate(("base", "expert-1", "expert-2", "expert-3")):
        state = {}
        for index, (tensor, shape) in enumerate(SHAPES.items()):
            draw = torch.Generator().manual_seed(1000 + index)
            base = torch.randn(shape, generator=draw, dtype=torch.float64) * 0.02
            draw.manual_seed(10 * index + number)
            delta = torch.randn(shape, generator=draw, dtype=torch.float64) ** 3 * 0.002
            state[tensor] = base + (delta if number else 0)
        save_file(state, out / f"{name}.safetensors")
        models.append(state)
    return models[0], models[1:]


def environment(work: Path) -> Path:
    home = work / "fusion-env"
    if not (home / "lib").exists():
        print(f"installing fusion_bench {FUSION_BENCH} …", file=sys.stderr)
        venv.create(home, with_pip=True)
        packages = [f"fusion-bench=={FUSION_BENCH}", f"torch=={TORCH}"]
        subprocess.run([home / "bin" / "pip", "install", "-q", *packages], check=True)
    return home


def run_fusion_bench(models: Path, out: Path) -> dict[str, str]:
    """Call their functions; name -> error of those that failed."""
    out.mkdir(parents=True, exist_ok=True)
    python = environment(HERE / "work") / "bin" / "python"
    done = subprocess.run(
        [python, HERE / "fusion_bench_functions.py", models, out],
        env={**OFFLINE, "PATH": "/usr/bin:/bin", "HOME": str(out)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"fusion_bench did not run:\n{done.stderr[-3000:]}")
    failed: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return failed


def compare(case: Case, base: State, experts: list[State], out: Path) -> Row:
    import zoo

    row = Row(case.theirs, case.method, ", ".join(f"{k}={v}" for k, v in case.parameters.items()))
    theirs = load_file(out / f"{case.theirs}.safetensors")
    try:
        ours = zoo.merge(
            case.method,
            experts=experts[: case.experts],
            base=base if case.base else None,
            parameters=case.parameters,
        )
    except zoo.ZooError as error:
        row.finding = f"UNEXPLAINED: {str(error).splitlines()[0]}"
        return row
    if case.task is not None:
        ours = ours.task(case.task - 1)
    if case.method == "dare":
        return _compare_drawn(row, base, experts[0], ours, theirs, 0.3)
    row.largest = max(float((ours[k] - theirs[k]).abs().max()) for k in base)
    change = max(float((theirs[k] - base[k]).abs().max()) for k in base)
    row.relative = row.largest / change
    explained = case.because if row.relative < case.within else "UNEXPLAINED"
    row.finding = "rounding" if row.relative < ROUNDING else explained
    return row


def _compare_drawn(
    row: Row, base: State, expert: State, ours: State, theirs: State, density: float
) -> Row:
    """The masks are drawn by other generators: given each mask, is the result delta / density?"""
    kept = {}
    row.largest = 0.0
    for program, made in (("here", ours), ("there", theirs)):
        masks = {k: made[k] != base[k] for k in base}
        kept[program] = sum(int(m.sum()) for m in masks.values())
        for name, mask in masks.items():
            wanted = base[name] + (expert[name] - base[name]) * mask / density
            row.largest = max(row.largest, float((made[name] - wanted).abs().max()))
    elements = sum(t.numel() for t in base.values())
    sigma = (density * (1 - density) / elements) ** 0.5
    shares = {program: count / elements for program, count in kept.items()}
    row.relative = row.largest / max(float((theirs[k] - base[k]).abs().max()) for k in base)
    far = any(abs(share - density) > 5 * sigma for share in shares.values())
    row.finding = (
        "UNEXPLAINED"
        if far or row.relative > ROUNDING
        else f"given the mask, rounding; kept {shares['here']:.3f} and {shares['there']:.3f} of "
        f"{density:g} asked"
    )
    return row


def page(rows: list[Row], failed: dict[str, str], facts: dict[str, str]) -> str:
    lines = [
        "# The same method in fusion_bench and in zoo",
        "",
        f"{facts['date']}; fusion_bench {facts['fusion_bench']}, zoo {facts['zoo']}, torch "
        f"{facts['torch']}, float64. Written by `benchmarks/parity_fusion_bench.py`. *relative*: "
        "to the largest change that the merge makes.",
        "",
        "| fusion_bench's | method here | with | largest difference | relative | finding |",
        "|---|---|---|---:|---:|---|",
    ]
    for r in rows:
        numbers = ["" if n is None else f"{n:.1e}" for n in (r.largest, r.relative)]
        lines.append(
            "| " + " | ".join([r.theirs, r.method, r.parameters, *numbers, r.finding]) + " |"
        )
    lines += [f"\n{name} did not run there: {error}." for name, error in failed.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="record nothing")
    parser.add_argument("--work", type=Path, default=HERE / "work" / "parity-fusion")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    work = options.work.resolve()
    base, experts = make_models(work / "models")
    failed = run_fusion_bench(work / "models", work / "out")
    rows = [
        compare(case, base, experts, work / "out")
        for case in CASES
        if (work / "out" / f"{case.theirs}.safetensors").exists()
    ]
    facts = {
        "date": datetime.date.today().isoformat(),
        "fusion_bench": FUSION_BENCH,
        "zoo": f"{version('zoo-registry')} ({commit()})",
        "torch": version("torch"),
    }
    text = page(rows, failed, facts)
    print(text)
    if not options.quick:
        options.results.mkdir(parents=True, exist_ok=True)
        (options.results / "parity_fusion_bench.md").write_text(text)
        record = {**facts, "failed": failed, "rows": [asdict(r) for r in rows]}
        (options.results / "parity_fusion_bench.json").write_text(
            json.dumps(record, indent=1) + "\n"
        )
    if any(r.finding.startswith("UNEXPLAINED") for r in rows):
        sys.exit("Something differs by more than rounding, and nothing here explains it.")


if __name__ == "__main__":
    main()
