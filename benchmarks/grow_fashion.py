"""Grows about 100 small networks on Fashion-MNIST with all metrics, and looks at what they show.

    python benchmarks/grow_fashion.py            96 networks; what is there already is kept
    python benchmarks/grow_fashion.py --quick    12 of them, for a look; records nothing

Three plans: width by batch on 6,000 examples, and two widths by two batches on 1,500 and on 375.
Writes `results/grow_fashion.md`, `.json` and phase diagrams beside them, as SVG. Needs the data,
`--data DIR` with `fashion-mnist-40k/fashion_mnist_40k.npz`.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

import zoo
from zoo.phases.cells import Cell, cells, read
from zoo.phases.map import phase_map
from zoo.plots.phase_diagram import phase_diagram
from zoo.plots.style import save
from zoo.tasks.known import add_task

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
LABELS = [
    "T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot",
]  # fmt: skip
WIDTHS, BATCHES, SEEDS = [2, 4, 8, 16, 32, 64], [8, 32, 128, 512], [0, 1, 2]
PICTURES = ("train_loss", "hessian_trace", "mode_connectivity", "cka")
EXAMPLES = {6000: 5, 1500: 20, 375: 80}
"""Training examples -> folds that the 30,000 are cut in, of which one is taken."""


def declaration(data: Path, examples: int) -> dict[str, Any]:
    """A task of so many training examples, and 2,000 to test on."""
    train = {"inputs": "x_train", "targets": "y_train"}
    test = {"inputs": "x_test", "targets": "y_test", "fold": {"of": 5, "take": [1]}}
    return {
        "name": f"fashion-{examples}",
        "format": "npz",
        "path": str(data / "fashion-mnist-40k" / "fashion_mnist_40k.npz"),
        "splits": {
            "train": {**train, "fold": {"of": EXAMPLES[examples], "take": [1]}},
            "test": test,
        },
        "labels": LABELS,
        "license": "MIT",
        "normalize": {"mean": 0.286, "std": 0.353},
    }


def plan(examples: int, widths: Sequence[int], batches: Sequence[int], seeds: Sequence[int]) -> Any:
    """Networks of two hidden layers, trained for as many steps of a batch on any data."""
    steps_on_6000 = 20
    curve = {"epochs": min(1000, 40 * 6000 // examples)}
    sample = {"split": "train", "samples": 2000}
    return {
        "name": f"fashion-{examples}",
        "architecture": {
            "model_type": "zoo_mlp", "inputs": 784, "width": 16, "depth": 2, "classes": 10,
            "activation": "relu",
        },
        "task": f"fashion-{examples}",
        "train": {
            "lr": 0.02, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "onecycle",
            "epochs": steps_on_6000 * 6000 // examples,
        },
        "grid": {"width": list(widths), "batch": list(batches), "seed": list(seeds)},
        "evaluate": [{"split": "test"}, {"split": "train"}],
        "measure": [
            {"metric": "hessian", **sample, "samples": 500, "parameters": {"probes": 30}},
            {"metric": "sam_sharpness", **sample},
            {"metric": "mode_connectivity", "split": "train", "parameters": curve},
            {"metric": "cka", "samples": 1000},
            {"metric": "disagreement"},
            {"metric": "barrier", **sample},
        ],
        "phases": {"rule": "fashion", "thresholds": {"loss": 0.25, "connectivity": 1, "cka": 0.6}},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    folder = HERE / "work" / ("grow-quick" if asked.quick else "grow")
    folder.mkdir(parents=True, exist_ok=True)
    plans = (
        [plan(6000, [2, 16, 64], [8, 512], [0, 1])]
        if asked.quick
        else [
            plan(6000, WIDTHS, BATCHES, SEEDS),
            plan(1500, [16, 64], [8, 128], SEEDS),
            plan(375, [16, 64], [8, 128], SEEDS),
        ]
    )
    with zoo.open(folder / "registry.db") as registry:
        seconds = 0.0
        was_there = models = 0
        rows: list[dict[str, Any]] = []
        for one in plans:
            examples = int(one["task"].partition("-")[2])
            add_task(registry, declaration(asked.data, examples))
            began = time.perf_counter()
            done = registry.grow(one, jobs=asked.jobs)
            seconds += time.perf_counter() - began
            was_there += sum(g.was_there for g in done.members)
            models += len(done.members)
            print(*done.problems, f"{one['name']}: {done.seconds:.0f} s", sep="\n", flush=True)
            grouped, _ = cells(registry.select(done.plan.where))
            rows += [row(registry, cell, examples) for cell in grouped]
        rows.sort(key=lambda r: (-r["examples"], r["width"], r["batch"]))
        told = {
            "machine": f"{platform.machine()}, {asked.jobs} processes of one thread",
            "torch": str(torch.__version__),
            "models": models,
            "seconds": None if was_there else round(seconds),
            "cells": rows,
        }
        text = page(told)
        print(text)
        if not asked.quick:
            old = RESULTS / "grow_fashion.json"
            if told["seconds"] is None and old.exists():
                told["seconds"] = json.loads(old.read_text())["seconds"]
                text = page(told)
            old.write_text(json.dumps(told, indent=1) + "\n")
            (RESULTS / "grow_fashion.md").write_text(text)
        pictures(registry, folder if asked.quick else RESULTS)


def row(registry: zoo.Registry, cell: Cell, examples: int) -> dict[str, Any]:
    """Means over the seeds of a cell, and over their pairs."""
    found = read(registry.catalog, cell).measures
    ids = [v.id for v in cell.members]
    pairs = [(a, b) for i, a in enumerate(ids) for b in ids[i + 1 :]]
    of_pairs: dict[str, list[float]] = {}
    for pair in pairs:
        for value in registry.catalog.group_metrics(list(pair)):
            of_pairs.setdefault(f"{value['name']}/{value['split']}", []).append(value["value"])
    own = {key: [v.metrics[key] for v in cell.members] for key in ("accuracy", "train_accuracy")}
    for name in ("hessian_top", "sam_sharpness"):
        own[name] = [v.metrics[name] for v in cell.members if name in v.metrics]
    task = f"fashion-{examples}"
    return {
        "examples": examples,
        "width": int(cell.tags["grow.width"]),
        "batch": int(cell.tags["grow.batch"]),
        "phase": cell.members[0].phase,
        "train_loss": found.train_loss,
        "accuracy": fmean(own["accuracy"]),
        "gap": fmean(own["train_accuracy"]) - fmean(own["accuracy"]),
        "log_trace": found.log_trace,
        "hessian_top": fmean(own["hessian_top"]) if own["hessian_top"] else None,
        "sam_sharpness": fmean(own["sam_sharpness"]) if own["sam_sharpness"] else None,
        "mode_connectivity": found.connectivity,
        "cka": found.cka,
        "barrier": _mean(of_pairs.get(f"barrier/{task}:train")),
        "disagreement": _mean(of_pairs.get(f"disagreement/{task}")),
    }


def _mean(values: Sequence[float] | None) -> float | None:
    return fmean(values) if values else None


COLUMNS = {
    "examples": "examples", "width": "width", "batch": "batch", "phase": "phase",
    "train_loss": "train loss", "accuracy": "test accuracy", "gap": "gap", "log_trace": "log trace",
    "hessian_top": "λ max", "sam_sharpness": "SAM", "mode_connectivity": "mc, points",
    "cka": "CKA", "barrier": "barrier, nats", "disagreement": "disagree",
}  # fmt: skip


def page(told: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    taken = told["seconds"]
    lines = [
        "# A grown zoo on Fashion-MNIST",
        "",
        f"{told['models']} networks (two hidden layers), each trained, registered, evaluated and "
        f"measured, with the metrics of pairs of seeds and phases: "
        + (f"{taken / 60:.1f} minutes" if taken else "(time not known: resumed)")
        + f". {told['machine']}, torch {told['torch']}.",
        "",
        "`python benchmarks/grow_fashion.py`. Means over three seeds, and over their three pairs. "
        "Loss, mode connectivity (mc), barrier and Hessian on the training examples.",
        "",
        "| " + " | ".join(COLUMNS.values()) + " |",
        "|" + "---|" * len(COLUMNS),
    ]
    for one in told["cells"]:
        lines.append("| " + " | ".join(_cell(one[key]) for key in COLUMNS) + " |")
    lines += ["", "## What shows", ""]
    lines += [f"- {line}" for line in findings(told["cells"])]
    lines += [
        "",
        "Batch 8 at this learning rate is too hot for narrow networks: their loss is high again, "
        "as phase diagrams in the papers have it at their hot end. Networks of all amounts of "
        "data take equally many steps, so that those of little data fit it to a smaller loss, and "
        "a small loss has a small Hessian: hence they are not sharper here. Phases are told by "
        "`loss: 0.25`, `connectivity: 1`, `cka: 0.6`; no cell is of phase III, and one that is "
        "`unassigned` lies within 10 % of a threshold.",
        "",
        *(
            f"![Phase diagram, {name.replace('_', ' ')}](grow_fashion_{name}.svg)"
            for name in PICTURES
        ),
    ]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)


def findings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The published behaviour beside ours: each a rank correlation over cells, and a verdict."""
    main_grid = [r for r in rows if r["examples"] == 6000]
    middle = [r for r in main_grid if r["batch"] in (32, 128)]
    amounts = [r for r in rows if r["width"] in (16, 64) and r["batch"] in (8, 128)]
    told = []
    for where, found in (("all batches", main_grid), ("batches 32 and 128", middle)):
        told += [
            _trend(
                f"the barrier of seeds falls with width ({where})", found, "width", "barrier", -1
            ),
            _trend(f"CKA of seeds rises with width ({where})", found, "width", "cka", 1),
            _trend(
                f"mode connectivity rises with width ({where})",
                *(found, "width", "mode_connectivity", 1),
            ),
            _trend(f"train loss falls with width ({where})", found, "width", "train_loss", -1),
        ]
    cooler = [r for r in main_grid if r["batch"] > 8]
    told += [
        _trend("train loss rises with the batch (all)", main_grid, "batch", "train_loss", 1),
        _trend("train loss rises with the batch (from 32 on)", cooler, "batch", "train_loss", 1),
        _trend(
            "large batches find regions of larger Hessian trace",
            *(main_grid, "batch", "log_trace", 1),
        ),
        _trend("large batches find sharper regions (SAM)", main_grid, "batch", "sam_sharpness", 1),
        _trend("the gap rises as data shrinks", amounts, "examples", "gap", -1),
        _trend(
            "regions are sharper with less data (SAM)", amounts, "examples", "sam_sharpness", -1
        ),
    ]
    phases: dict[str, list[Mapping[str, Any]]] = {}
    for r in main_grid:
        phases.setdefault(str(r["phase"]), []).append(r)
    for phase, members in sorted(phases.items()):
        means = {
            key: fmean(values)
            for key in ("train_loss", "mode_connectivity", "cka", "log_trace", "accuracy")
            if (values := [m[key] for m in members if m[key] is not None])
        }
        said = ", ".join(f"{COLUMNS[k]} {v:.3g}" for k, v in means.items())
        told.append(f"Phase {phase}: {len(members)} cells; mean {said}.")
    return told


def _trend(said: str, rows: Sequence[Mapping[str, Any]], x: str, y: str, sign: int) -> str:
    """Spearman's rank correlation, and whether it has the sign that is published."""
    pairs = [(r[x], r[y]) for r in rows if r[y] is not None]
    rho = _spearman([a for a, _ in pairs], [b for _, b in pairs])
    if math.isnan(rho):
        return f"{said}: not enough cells."
    strength = (
        "shows" if sign * rho > 0.4 else "hardly shows" if sign * rho > 0.2 else "does NOT show"
    )
    return f"Published: {said}. It {strength}: rank correlation {rho:+.2f} over {len(pairs)} cells."


def _spearman(a: Sequence[float], b: Sequence[float]) -> float:
    if len(a) < 3:
        return math.nan
    ranks = [torch.tensor(_ranks(v), dtype=torch.float64) for v in (a, b)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def _ranks(values: Sequence[float]) -> list[float]:
    """From 1; ties share their mean."""
    ordered = sorted(values)
    return [fmean(i for i, v in enumerate(ordered, 1) if v == value) for value in values]


def pictures(registry: zoo.Registry, folder: Path) -> None:
    """Phase diagrams of the largest grid."""
    for colour in PICTURES:
        found = phase_map(
            registry,
            x="grow.batch",
            y="grow.width",
            colour=None if colour == "train_loss" else colour,
            where="task = 'fashion-6000'",
            log=colour == "hessian_trace",
        )
        save(phase_diagram(found), folder / f"grow_fashion_{colour}.svg")


if __name__ == "__main__":
    main()
