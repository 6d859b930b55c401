"""Eight tasks, one small vision transformer, every merge method: a table like FusionBench's.

    python benchmarks/eight_tasks.py            all; what is there already is not made again
    python benchmarks/eight_tasks.py --quick    a small part of it; records nothing

Trains a base on three data sets (`eight_tasks_data.py`), and from it an expert for each of eight
tasks: first a head on the frozen base, then the base under the frozen head, so that what is merged
are the bodies, and each task keeps its head. Registers all of them in a zoo
(`work/eight_tasks/registry.db`), merges the experts there by every method that takes eight experts
and needs nothing beside them, and evaluates each result on each task. What a method has in `GRID`
is chosen on validation data, by the mean accuracy over the tasks. Then the same experts are merged
with the same settings by fusion_bench's own algorithms (`eight_tasks_fusion_bench.py`).

Writes `results/eight_tasks.md` and `.json` after each method. Needs the data (`--data`), Pillow to
decode CIFAR-10, and for the last step fusion_bench in an environment of its own, which it makes. An
interrupted run goes on where it was; `--merge-only` and `--no-fusion-bench` do a part.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import eight_tasks_page as page
import torch
from compare_mergekit import HERE, OFFLINE
from eight_tasks_data import TASKS, declare, mixture
from parity_fusion_bench import environment
from safetensors.torch import load_file, save_file

import zoo
from zoo.grow.training import TrainingPlan, fresh, train
from zoo.measuring.leaderboard import leaderboard

if TYPE_CHECKING:
    from zoo.contract import Method

State = dict[str, torch.Tensor]
NETWORK = {
    "model_type": "zoo_vit", "channels": 1, "size": 28, "patch": 7, "width": 64, "depth": 4,
    "heads": 4, "inner": 128,
}  # fmt: skip
PRETRAIN = TrainingPlan(
    optimizer="adamw", lr=2e-3, weight_decay=0.01, schedule="onecycle", epochs=8, batch=128,
    split="pretrain",
)  # fmt: skip
PROBE = TrainingPlan(optimizer="adam", lr=3e-3, schedule="cosine", epochs=3, batch=64)
FINETUNE = TrainingPlan(optimizer="adam", lr=3e-4, schedule="cosine", epochs=6, batch=64)
SMALL = {"digits-28": 5}
"""Epochs of a task with few examples, times this."""

MOMENTS = "exp_avg_sq"
VALIDATION = 500
"""Examples of each task that choose a method's settings."""
SCALES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5)
GRID: dict[str, dict[str, tuple[Any, ...]]] = {
    "cabs": {"weight": (0.1, 0.2, 0.3, 0.5, 0.8)},
    "consensus": {"lambda": SCALES, "mask_lambda": (0.2, 0.4)},
    "dare": {"lambda": SCALES, "density": (0.1, 0.5)},
    "lines": {"alpha": (0.1, 0.2, 0.3), "beta": (0.2, 0.4, 0.8)},
    "model_stock": {"angle": ("mean_angle",)},
    "emr": {"rescaler": ("sum_of_tensor_means",)},
    "multislerp": {"weight": (1.0,)},
    "ram": {"alpha": (0.2, 0.5)},
    "sce": {"select_topk": (0.1, 1.0)},
    "tall_masks": {"mask_lambda": (0.2, 0.4, 0.6)},
    "ties": {"lambda": SCALES, "trim": ("kth_value_inclusive",)},
    "tsv_compress": {"convolutions": ("full",)},
    "twin": {"lambda": (0.1, 0.2, 0.3), "rank_fraction": (0.1,)},
}
"""What is tried of a method; of others, `SCALES` for `lambda` where they have one."""
VARIANTS = {"wudi-lr": ("wudi", {"lr": (1e-4, 1e-3)})}
"""More lines of a method: what the line's version is called, and what is tried. fusion_bench's WUDI
takes steps of 1e-5, which suits larger networks; 300 of them lead nowhere here."""
LEFT_OUT = {"task_vectors": "composes what other lines show"}
Z = NormalDist().inv_cdf(0.975)
DRAWS = 5
"""Of a method that draws at random, in the comparison with fusion_bench."""
QUICK = ("linear", "task_arithmetic", "ties", "emr", "ota")


def theirs(method: str, p: Mapping[str, Any]) -> dict[str, Any] | None:
    """What fusion_bench's algorithm of the same name is given to do the same; None without one."""
    scale = {"scaling_factor": p.get("lambda")}
    found: dict[str, dict[str, Any]] = {
        "dare": {**scale, "sparsity_ratio": 1 - p.get("density", 0.1),
                 "only_on_linear_weights": False},
        "emr": {},
        "iso_c": scale,
        "iso_cts": {**scale, "common_space_fraction": 0.8},
        "linear": {},
        "magmax": scale,
        "model_stock": {},
        "tall_masks": {"tall_mask_lambda": p.get("mask_lambda")},
        "task_arithmetic": scale,
        "ties": {**scale, "threshold": 20, "remove_keys": [], "merge_func": "mean"},
        "tsv": {"alpha": p.get("lambda")},
        "wudi": {"iter_num": 300},
    }  # fmt: skip
    return found.get(method)


def _core_seconds() -> float:
    """Of this process, and of those it ran."""
    used = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in used)


def expert(task: str) -> str:
    return f"expert-{task}"


def body(state: Mapping[str, torch.Tensor]) -> State:
    """What is merged: all but the head."""
    return {k: v for k, v in state.items() if not k.startswith("head.")}


class Suite:
    """The zoo of the suite, and where its parts are."""

    def __init__(self, work: Path, data: Path, quick: bool) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.work, self.quick = work, quick
        self.registry = zoo.open(work / "registry.db")
        self.vit = self.registry.plugins.architectures["zoo_vit"]
        self._times = work / "times.json"
        self.times: dict[str, dict[str, float]] = (
            json.loads(self._times.read_text()) if self._times.exists() else {}
        )
        with self.timed("declare the tasks"):
            declare(self.registry, data, work)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds to the seconds that a stage took, in all runs of it, and had a core."""
        print(stage, flush=True)
        began = {"wall": time.perf_counter(), "core": _core_seconds()}
        try:
            yield
        finally:
            ended = {"wall": time.perf_counter(), "core": _core_seconds()}
            before = self.times.get(stage, {"wall": 0.0, "core": 0.0})
            self.times[stage] = {k: round(before[k] + ended[k] - began[k], 1) for k in ended}
            self._times.write_text(json.dumps(self.times, indent=1))

    def task(self, name: str) -> Any:
        from zoo.tasks.known import task_named

        return task_named(self.registry, name)

    def has(self, name: str) -> bool:
        return bool(self.registry.select(f"name = '{name}'"))

    def plan(self, plan: TrainingPlan) -> TrainingPlan:
        return replace(plan, data=0.03, epochs=1) if self.quick else plan

    def register(self, module: Any, classes: int, records: list[Any], **asked: Any) -> None:
        """A trained module as the first version of its entry, with how it was trained."""
        from zoo.networks.modules import save_module

        place = self.work / "saved" / asked["name"]
        if not place.exists():
            save_module(module, {**NETWORK, "classes": classes}, place)
            text = json.dumps([r.as_dict() for r in records], indent=1)
            (place / "training.json").write_text(text)
        self.registry.register(place, **asked)

    # Training

    def train_base(self) -> None:
        if self.has("base"):
            return
        with self.timed("train the base"):
            task = mixture(self.registry)
            config = {**NETWORK, "classes": len(task.labels)}
            module = fresh(lambda: self.vit.build(config), 0)
            record = self._train(module, task, PRETRAIN, "base")
            print(f"  {record.train_accuracy:.3f} on what it was trained on", flush=True)
            self.register(module, config["classes"], [record], name="base", kind="base")

    def train_expert(self, name: str) -> None:
        if not self.has(expert(name)):
            with self.timed("train the experts"):
                self._train_expert(name)
            (found,) = self.registry.evaluate([expert(name)])
            print(f"  {name}: {found.metrics['accuracy']:.4f}", flush=True)
        self._attach_moments(name)

    def _train_expert(self, name: str) -> None:
        """The head on the frozen base, then the base under the frozen head."""
        task = self.task(name)
        classes = len(task.labels)
        module = fresh(lambda: self.vit.build({**NETWORK, "classes": classes}), 1)
        start = self.registry.load_state("base")
        module.load_state_dict({**module.state_dict(), **body(start)})
        records = []
        for plan, trains_head in ((PROBE, True), (FINETUNE, False)):
            for key, parameter in module.named_parameters():
                parameter.requires_grad_(key.startswith("head.") == trains_head)
            plan = replace(plan, epochs=plan.epochs * SMALL.get(name, 1))
            label = f"{name}-{'probe' if trains_head else 'finetune'}"
            records.append(self._train(module, task, plan, label))
        self.register(
            module, classes, records, name=expert(name), task=name, base="base",
            license=task.license,
        )  # fmt: skip

    def _attach_moments(self, name: str) -> None:
        """Adam's second moments, as training left them; some methods weigh by them."""
        from zoo.storage.artifacts import artifact_of

        if artifact_of(self.registry, self.registry.get(expert(name)), MOMENTS) is not None:
            return
        saved = torch.load(self.work / "states" / f"{name}-finetune.pt", weights_only=True)
        keys = [k for k in self.registry.load(expert(name)).state_dict() if k[:5] != "head."]
        found = {k: saved["optimizer"]["state"][i]["exp_avg_sq"] for i, k in enumerate(keys)}
        place = self.work / "saved" / f"{name}-{MOMENTS}.safetensors"
        save_file(found, place)
        self.registry.attach(expert(name), MOMENTS, place)

    def _train(self, module: Any, task: Any, plan: TrainingPlan, label: str) -> Any:
        state = self.work / "states" / f"{label}.pt"
        state.parent.mkdir(exist_ok=True)
        return train(module, task, self.plan(plan), seed=0, state=state)

    # Merging

    def bodies(self) -> tuple[State, list[State]]:
        """The base and the experts, without heads."""
        load = self.registry.load_state
        return body(load("base")), [body(load(expert(t))) for t in TASKS]

    def accuracy(self, states: Mapping[str, State], split: str, count: int | None) -> dict:
        """Of bodies under the experts' heads, by task."""
        found = {}
        for name, state in states.items():
            module = self.registry.load(expert(name))
            module.load_state_dict(state, strict=False)
            task = self.task(name)
            values = task.evaluate(module, zoo.Sample(task, split, count))
            found[name] = next(v.value for v in values if v.name == "accuracy")
        return found

    def choose(
        self,
        method: Method,
        grid: Mapping[str, tuple[Any, ...]],
        base: State,
        experts: list[State],
    ) -> dict[str, Any]:
        """The settings that are best on validation data."""
        tried = [dict(zip(grid, v, strict=True)) for v in itertools.product(*grid.values())]
        if len(tried) == 1:
            return tried[0]
        best: tuple[float, dict[str, Any]] = (-1.0, {})
        for settings in tried:
            made = merge_bodies(method, base, experts, settings)
            mean = sum(self.accuracy(made, "validation", VALIDATION).values()) / len(TASKS)
            best = max(best, (mean, settings), key=lambda b: b[0])
        return best[1]

    def merge(self, label: str, method: Method, settings: dict[str, Any]) -> str:
        """Merge in the registry, and evaluate; the version's name."""
        name = f"merged-{label}"
        if not self.has(name):
            self.registry.merge(
                {
                    "method": method.name,
                    "experts": [expert(t) for t in TASKS],
                    "base": "base",
                    "parameters": settings,
                    "exclude": ["head.*"],
                    "seed": 0,
                },
                name=name,
                threads=1,
            )
        heads = [] if method.overlays is not None else [expert(t) for t in TASKS]
        self.registry.evaluate([name], tasks=TASKS, heads_from=heads)
        return name


def merge_bodies(
    method: Method, base: State, experts: list[State], settings: Mapping[str, Any], seed: int = 0
) -> dict[str, State]:
    """Task -> merged body; one and the same, unless the method makes one for each."""
    made = zoo.merge(
        method,
        experts=experts,
        base=None if method.base == "refused" else base,
        parameters=dict(settings),
        seed=seed,
    )
    if method.overlays is None:
        return dict.fromkeys(TASKS, made)
    return {task: made.task(i) for i, task in enumerate(TASKS)}


def grid_of(name: str, method: Method) -> Mapping[str, tuple[Any, ...]]:
    """What is tried of a line's method."""
    if name in VARIANTS:
        return VARIANTS[name][1]
    names = [f.alias or n for n, f in method.parameters.model_fields.items()]
    return GRID.get(name, {"lambda": SCALES} if "lambda" in names else {})


def _is_bundled(method: Method) -> bool:
    return method.function.__module__.startswith("zoo_plugins.")


def applies(method: Method) -> str:
    """Why a method cannot merge the experts; empty if it can."""
    if method.name in LEFT_OUT:
        return LEFT_OUT[method.name]
    if method.needs in ("model", "data"):
        return f"needs {method.needs}"
    if missing := set(method.artifacts) - {MOMENTS}:
        return f"needs {', '.join(sorted(missing))} of each expert"
    if method.max_experts is not None and method.max_experts < len(TASKS):
        return f"takes {method.max_experts} expert{'s' * (method.max_experts > 1)}"
    return ""


def run_fusion_bench(suite: Suite, rows: dict[str, Any]) -> None:
    """Merge by fusion_bench what it has a method for, and score it into the rows."""
    place = suite.work / "fusion"
    for folder in ("models", "out"):
        (place / folder).mkdir(parents=True, exist_ok=True)
    base, experts = suite.bodies()
    save_file(base, place / "models" / "base.safetensors")
    for i, state in enumerate(experts, 1):
        save_file(state, place / "models" / f"expert-{i}.safetensors")
    asked: dict[str, Any] = {}
    for name, row in rows.items():
        settings = theirs(name, row.get("settings", {}))
        if settings is not None and name == "dare":
            asked |= {f"dare#{i}": {**settings, "seed": i} for i in range(DRAWS)}
        elif settings is not None:
            asked[name] = settings
    (place / "settings.json").write_text(json.dumps(asked, indent=1))
    script = HERE / "eight_tasks_fusion_bench.py"
    python = environment(HERE / "work") / "bin" / "python"
    done = subprocess.run(
        [python, script, place / "models", place / "out", place / "settings.json"],
        env={**OFFLINE, "PATH": "/usr/bin:/bin", "HOME": str(place)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"fusion_bench did not run:\n{done.stderr[-3000:]}")
    failed = json.loads(done.stdout.splitlines()[-1])
    methods = suite.registry.plugins.methods
    for name in {label.partition("#")[0] for label in asked}:
        row = rows[name]
        errors = [why for label, why in failed.items() if label.partition("#")[0] == name]
        if errors:
            row["theirs_failed"] = errors[0]
        elif name == "dare":
            draws = [
                suite.accuracy(dict.fromkeys(TASKS, load_file(f)), "test", None)
                for f in sorted((place / "out").glob("dare#*.safetensors"))
            ]
            own = [
                suite.accuracy(
                    merge_bodies(methods[name], base, experts, row["settings"], seed), "test", None
                )
                for seed in range(DRAWS)
            ]
            row["theirs_draws"], row["draws"] = draws, own
        else:
            files = {t: f"{name}-{i}" for i, t in enumerate(TASKS, 1)}
            if methods[name].overlays is None:
                files = dict.fromkeys(TASKS, name)
            states = {t: load_file(place / "out" / f"{f}.safetensors") for t, f in files.items()}
            row["theirs"] = suite.accuracy(states, "test", None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a small part; records nothing")
    parser.add_argument("--merge-only", action="store_true", help="train nothing")
    parser.add_argument("--no-fusion-bench", action="store_true", help="leave out the comparison")
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    work = options.work.resolve() / ("eight_tasks_quick" if options.quick else "eight_tasks")
    results = work if options.quick else options.results
    suite = Suite(work, options.data.resolve(), options.quick)
    if not options.merge_only:
        suite.train_base()
        for name in TASKS:
            suite.train_expert(name)

    kept = work / "rows.json"
    rows: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    left_out: dict[str, str] = {}

    def write() -> None:
        kept.write_text(json.dumps(rows, indent=1))
        page.write(results, rows, left_out, TASKS, about(suite))

    with suite.timed("evaluate base and experts"):
        experts_by_name = [expert(t) for t in TASKS]
        suite.registry.evaluate(["base"], tasks=TASKS, heads_from=experts_by_name)
        suite.registry.evaluate(experts_by_name)
    table(suite, rows, "base")
    individual(suite, rows)
    write()
    base, experts = suite.bodies()
    methods = suite.registry.plugins.methods
    for name in sorted(n for n, m in methods.items() if _is_bundled(m)) + list(VARIANTS):
        method = methods[VARIANTS[name][0] if name in VARIANTS else name]
        if why := applies(method):
            left_out[name] = why
            continue
        if options.quick and name not in QUICK:
            continue
        key = f"{method.version} {method.name}"
        if rows.get(name, {}).get("of") == key:
            continue
        with suite.timed("merge and evaluate"):
            settings = suite.choose(method, grid_of(name, method), base, experts)
            version = suite.merge(name, method, settings)
            rows[name] = {"of": key, "method": method.name, "settings": settings}
            rows[name]["per_task"] = method.overlays is not None
            table(suite, rows, version, name)
        print(f"  {name} {settings}: {rows[name]['mean']:.4f}", flush=True)
        write()
    if not options.no_fusion_bench:
        with suite.timed("fusion_bench"):
            run_fusion_bench(suite, rows)
    write()
    print((results / "eight_tasks.md").read_text())
    if wrong := page.disagreements(rows):
        sys.exit("fusion_bench differs by more than 0.3 points: " + ", ".join(wrong))


def table(suite: Suite, rows: dict[str, Any], version: str, name: str | None = None) -> None:
    """A version's line of the leaderboard."""
    board = leaderboard(suite.registry, [version], tasks=TASKS, experts=[expert(t) for t in TASKS])
    (row,) = board.rows
    found = asdict(row)
    cells = {t: {k: c[k] for k in ("value", "low", "high")} for t, c in found["cells"].items()}
    rows.setdefault(name or version, {}).update(
        {k: found[k] for k in ("version", "mean", "low", "high", "normalized")}, cells=cells
    )


def individual(suite: Suite, rows: dict[str, Any]) -> None:
    """Each expert on its own task."""
    board = leaderboard(
        suite.registry, [expert(t) for t in TASKS], tasks=TASKS, experts=[expert(t) for t in TASKS]
    )
    own = {
        task: cell
        for row in board.rows
        for task, cell in row.cells.items()
        if row.version == board.experts[task]
    }
    mean = sum(own[t].value for t in TASKS) / len(TASKS)
    spread = Z * sum((own[t].stderr or 0) ** 2 for t in TASKS) ** 0.5 / len(TASKS)
    cells = {t: {k: getattr(own[t], k) for k in ("value", "low", "high")} for t in TASKS}
    rows["individual"] = {
        "mean": mean, "low": mean - spread, "high": mean + spread, "normalized": 1.0,
        "cells": cells,
    }  # fmt: skip


def about(suite: Suite) -> dict[str, Any]:
    """What the page says of the run."""
    tasks = {
        name: {
            "examples": {s: suite.task(name).size(s) for s in ("train", "validation", "test")},
            "labels": len(suite.task(name).labels),
        }
        for name in TASKS
    }
    return {
        "network": NETWORK,
        "parameters": suite.registry.get("base").parameters,
        "plans": {k: asdict(v) for k, v in
                  {"base": PRETRAIN, "head": PROBE, "body": FINETUNE}.items()},
        "tasks": tasks,
        "validation": VALIDATION,
        "seconds": suite.times,
    }  # fmt: skip


if __name__ == "__main__":
    main()
