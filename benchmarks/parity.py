"""Is a mergekit recipe's result here what it is there? Every method of mergekit 0.1.5, one table.

    python benchmarks/parity.py            all models, several seeds for the methods that draw
    python benchmarks/parity.py --quick    the smallest models only

Makes three families of tiny Qwen2 checkpoints in float32, gives every configuration of
`parity_cases.py` to mergekit and, unchanged, to zoo, and compares the results element by element.
float32 inputs, because mergekit computes in the tensors' own type and zoo never below float32.

Where the results differ by more than rounding, mergekit merges the same files once more with
`dtype: float64`. If that is what zoo made, the difference was the rounding of mergekit's float32.

Methods that draw cannot agree element by element. With one expert the drawn mask can be read off
the result; checked are then: given its mask, each program's result is the formula; both masks have
the asked density, and for DELLA the same density at each rank. With three experts the distributions
of the merged changes are compared (two-sample Kolmogorov-Smirnov).

Writes `results/parity.md` and `results/parity.json`. Exits 1 when something differs by more than
rounding and nothing below explains it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from compare_mergekit import HERE, MERGEKIT, OFFLINE, mergekit_environment
from make_models import Shapes
from measure import commit
from parity_cases import CASES, Case
from parity_compare import (
    Row,
    Weights,
    all_tied,
    compare,
    compare_distributions,
    compare_masks,
    read,
)
from safetensors.numpy import save_file


@dataclass(frozen=True)
class Family:
    """Models to merge: their shapes, and the standard deviation of a delta (base: 0.02)."""

    shapes: Shapes
    step: float


FAMILIES = {
    "small": Family(Shapes(16, 2, 24, 4, 2, 40), 0.01),
    "wide": Family(Shapes(48, 3, 88, 4, 2, 210), 0.01),
    # A fine-tune with a low learning rate: where mergekit's absolute thresholds begin to matter.
    "faint": Family(Shapes(48, 3, 88, 4, 2, 210), 1e-4),
}


def make_family(family: Family, out: Path) -> None:
    """Write base and three experts; the same bytes whenever it runs."""
    for number, name in enumerate(("base", "expert-1", "expert-2", "expert-3")):
        weights: Weights = {}
        for index, (tensor, shape) in enumerate(family.shapes.tensors()):
            base = np.random.default_rng([index]).normal(0, 0.02, shape)
            # Student's t: most entries move little and a few a lot, as fine-tuning leaves them.
            delta = np.random.default_rng([index, number]).standard_t(3, shape) * family.step
            norm = 1.0 if "norm" in tensor else 0.0
            weights[tensor] = (norm + base + (delta if number else 0)).astype(np.float32)
        directory = out / name
        directory.mkdir(parents=True, exist_ok=True)
        config = {**family.shapes.config(), "torch_dtype": "float32"}
        (directory / "config.json").write_text(json.dumps(config, indent=2))
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def judge(row: Row) -> None:
    if row.verdict == "differs" or (not row.verdict and (row.error or row.beyond)):
        row.verdict = "UNEXPLAINED"
        if row.beyond and row.beyond_float64 == 0:
            row.verdict = "mergekit's float32: in float64 it gives what zoo gives"
        elif row.tied:
            row.verdict = (
                "equal magnitudes at the cut: the lower index here, either in mergekit's sort"
            )
    elif not row.verdict:
        row.verdict = "equal" if row.largest == 0 else "rounding"


def run_mergekit(jobs: list[dict[str, Any]], work: Path) -> dict[str, str]:
    """Run the jobs in one process; out -> error of those that failed."""
    (work / "jobs.json").write_text(json.dumps(jobs))
    python = mergekit_environment(HERE / "work") / "bin" / "python"
    done = subprocess.run(
        [python, HERE / "parity_mergekit.py", "jobs.json"],
        cwd=work,
        env={**OFFLINE, "PATH": "/usr/bin:/bin", "HOME": str(work)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"mergekit did not run:\n{done.stderr[-3000:]}")
    failed: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return failed


def run_zoo(jobs: list[dict[str, Any]], work: Path) -> dict[str, str]:
    """The same files through `Registry.merge`; out -> error of those that failed."""
    import zoo

    failed = {}
    with zoo.open(work / "registry.db") as registry:
        for job in jobs:
            document = yaml.safe_load((work / job["config"]).read_text())
            try:
                registry.merge(absolute(document, work), out=work / job["out"], seed=job["seed"])
            except zoo.ZooError as error:
                failed[job["out"]] = str(error)
    return failed


def absolute(document: Any, work: Path) -> Any:
    """The document with its model directories made absolute; nothing else is touched."""
    if isinstance(document, dict):
        return {
            k: str(work / v)
            if k in ("model", "base_model") and isinstance(v, str)
            else absolute(v, work)
            for k, v in document.items()
        }
    return [absolute(v, work) for v in document] if isinstance(document, list) else document


def measure(families: list[str], seeds: int, work: Path) -> list[Row]:
    shutil.rmtree(work, ignore_errors=True)
    todo: list[tuple[Case, str, int, str]] = []
    for name in families:
        make_family(FAMILIES[name], work / "models" / name)
        for case in CASES:
            config = f"recipes/{name}/{case.name}.yml"
            (work / config).parent.mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(case.config(f"models/{name}"), sort_keys=False)
            (work / config).write_text(text)
            for seed in range(seeds if case.is_random else 1):
                todo.append((case, name, seed, config))

    def jobs(program: str) -> list[dict[str, Any]]:
        return [
            {"config": c, "out": f"{program}/{name}/{case.name}-{seed}", "seed": seed}
            for case, name, seed, c in todo
        ]

    failed = {**run_mergekit(jobs("mergekit"), work), **run_zoo(jobs("zoo"), work)}
    rows: list[Row] = []
    again: dict[str, tuple[Case, Row, Weights]] = {}
    for case, name, seed, config in todo:
        row = Row(case.method, case.about + (f", seed {seed}" if case.is_random else ""), name)
        here, there = (f"{p}/{name}/{case.name}-{seed}" for p in ("zoo", "mergekit"))
        errors = [
            f"{out.partition('/')[0]}: {failed[out]}" for out in (here, there) if out in failed
        ]
        row.error = "; ".join(errors)
        if not errors:
            ours, theirs, models = read(work / here), read(work / there), work / "models" / name
            if not case.is_random:
                compare(row, ours, theirs)
                if row.beyond:
                    again[config] = (case, row, ours)
            elif case.experts == 1:
                compare_masks(row, case, ours, theirs, models)
            else:
                compare_distributions(row, ours, theirs, models)
        rows.append(row)
    compare_in_float64(again, work)
    for row in rows:
        judge(row)
    return rows


def compare_in_float64(again: dict[str, tuple[Case, Row, Weights]], work: Path) -> None:
    """Let mergekit do these configurations once more, in float64, and compare."""
    jobs = []
    for config in again:
        document = {**yaml.safe_load((work / config).read_text()), "dtype": "float64"}
        name = config.replace(".yml", "-float64")
        (work / f"{name}.yml").write_text(yaml.safe_dump(document, sort_keys=False))
        jobs.append({"config": f"{name}.yml", "out": f"mergekit/{name}", "seed": 0})
    run_mergekit(jobs, work)
    for job, (case, row, ours) in zip(jobs, again.values(), strict=True):
        exact = Row(row.method, row.about, row.family)
        where = compare(exact, ours, read(work / job["out"]))
        row.beyond_float64 = exact.beyond
        row.tied = case.base and all_tied(where, work / "models" / row.family, case.experts)


def page(rows: list[Row], facts: dict[str, str]) -> str:
    """The table: of all families and seeds of a configuration, the worst."""
    lines = [
        "# The same recipe in mergekit and in zoo",
        "",
        f"{facts['date']}; mergekit {facts['mergekit']}, zoo {facts['zoo']}, "
        f"torch {facts['torch']}, float32, families {facts['families']}. Written by "
        "`benchmarks/parity.py`, which says what is compared. *relative*: to the largest weight of "
        "the tensor.",
        "",
        "| method | settings | largest difference | relative | beyond rounding | finding |",
        "|---|---|---:|---:|---:|---|",
    ]
    fixed = [r for r in rows if not r.chance]
    drawn = [r for r in rows if r.chance]
    for key in dict.fromkeys((r.method, r.about) for r in fixed):
        same = [r for r in fixed if (r.method, r.about) == key]
        worst = max(same, key=lambda r: (bool(r.error), r.relative))
        beyond, elements = sum(r.beyond for r in same), sum(r.elements for r in same)
        finding = f"{worst.verdict} ({worst.error})" if worst.error else worst.verdict
        numbers = (
            ["", "", ""]
            if worst.error
            else [f"{worst.largest:.1e}", f"{worst.relative:.1e}", f"{beyond:,} of {elements:,}"]
        )
        lines.append("| " + " | ".join([*key, *numbers, finding.replace("|", "\\|")]) + " |")
    lines += [
        "",
        "Methods that draw, the worst of all seeds and families:",
        "",
        "| method | settings | asked | kept here | kept there | compared | finding |",
        "|---|---|---:|---:|---:|---|---|",
    ]
    for key in dict.fromkeys((r.method, r.about.rpartition(", seed")[0]) for r in drawn):
        same = [r for r in drawn if (r.method, r.about.rpartition(", seed")[0]) == key]
        lines.append("| " + " | ".join([*key, *drawn_cells(same)]) + " |")
    return "\n".join(lines) + "\n"


def drawn_cells(rows: list[Row]) -> list[str]:
    """Asked and kept densities, what was compared, and the worst finding."""

    def spread(name: str) -> str:
        values = [r.chance[name] for r in rows]
        return f"{min(values):.3f} to {max(values):.3f}"

    findings = dict.fromkeys(r.verdict for r in rows)
    finding = "UNEXPLAINED" if "UNEXPLAINED" in findings else "; ".join(findings)
    if "distance" in rows[0].chance:
        far = max(rows, key=lambda r: r.chance["distance"] / r.chance["allowed"]).chance
        compared = f"distance {far['distance']:.4f}, allowed {far['allowed']:.4f}"
        return ["", "", "", compared, finding]
    apart = max(r.chance["sigmas apart at a rank"] for r in rows)
    off = [max(r.chance[f"{p} off the formula"] for r in rows) for p in ("zoo", "mergekit")]
    return [
        f"{rows[0].chance['asked density']:g}",
        spread("zoo kept"),
        spread("mergekit kept"),
        f"at a rank {apart:.1f} sigmas apart; off the formula {off[0]:.1e} and {off[1]:.1e}",
        finding,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="the smallest models, one seed")
    parser.add_argument("--work", type=Path, default=HERE / "work" / "parity")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    families = ["small"] if options.quick else list(FAMILIES)
    rows = measure(families, 1 if options.quick else 3, options.work.resolve())
    facts = {
        "date": datetime.date.today().isoformat(),
        "mergekit": MERGEKIT,
        "zoo": f"{version('zoo-registry')} ({commit()})",
        "torch": version("torch"),
        "families": ", ".join(families),
    }
    text = page(rows, facts)
    print(text)
    if not options.quick:
        options.results.mkdir(parents=True, exist_ok=True)
        (options.results / "parity.md").write_text(text)
        record = {**facts, "rows": [vars(r) for r in rows]}
        (options.results / "parity.json").write_text(json.dumps(record, indent=1) + "\n")
    if any(r.verdict == "UNEXPLAINED" for r in rows):
        sys.exit("Something differs by more than rounding, and nothing here explains it.")


if __name__ == "__main__":
    main()
