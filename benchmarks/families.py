"""Which method wins on real families? Every method that applies, each family, each task.

    python benchmarks/families.py            all; what was scored before is not scored again
    python benchmarks/families.py --quick    a few methods on two families; records nothing

Merges published checkpoints (`family_tasks.py`; the directory is `--data`) by every method of
zoo's own plugins, and scores the results. A method with a scale is tried at each of `GRID`, and the
table has the one that is best in the mean over the tasks, on the same data: an upper bound that is
equally kind to all. Where there is no base, methods that need one get the mean of the experts, and
the table marks them; what of them is linear then returns that mean.

Writes `results/families.md`. Scores are kept in `work/families/scores.json` under the method's code
hash, so that a changed method is scored again and an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compare_mergekit import HERE
from family_tasks import ROOT, Family, State, families
from measure import commit

if TYPE_CHECKING:
    from zoo.contract import Method

SCALES = (0.1, 0.25, 0.5, 1.0)
GRID: dict[str, tuple[Any, ...]] = {
    "lambda": SCALES,
    "density": (0.2, 0.8),
    "convolutions": ("mean", "matrix"),
}
"""What every method that has these parameters is tried at; by default, the rest."""
OWN_GRID: dict[str, dict[str, tuple[Any, ...]]] = {
    "awd": {"lambda": SCALES, "relative": (True,)},
    "bang": {"alpha": (0.25, 0.5, 0.75)},
    "cabs": {"weight": (0.3, 0.6, 1.2)},
    "consensus": {"lambda": SCALES, "mask_lambda": (0.2, 0.4)},
    "lines": {"alpha": (0.1, 0.3), "beta": (0.2, 0.6)},
    "multislerp": {"weight": (1.0,)},
    "nearswap": {"t": (0.001, 0.01)},
    "nuslerp": {"weight": (1.0,)},
    "sce": {"select_topk": (0.1, 1.0)},
    "slerp": {"t": (0.25, 0.5, 0.75)},
    "tall_masks": {"mask_lambda": (0.2, 0.4, 0.6)},
    "tsv_compress": {"convolutions": ("full", "matrix")},
    "twin": {"lambda": (0.25,), "rank_fraction": (0.1, 0.5)},
    "wise_ft": {"alpha": (0.25, 0.5, 0.75)},
}
"""What these methods are tried at instead."""
LEFT_OUT = frozenset({"task_vectors"})
"""Composes what other lines of the table show."""
QUICK = ("linear", "task_arithmetic", "ties", "slerp", "wise_ft")


@dataclass(frozen=True)
class Entry:
    """One line of a table before its scores are known."""

    method: str
    settings: tuple[tuple[str, Any], ...]
    stand_in: bool
    """Whether the mean of the experts stood in for the base."""
    per_task: bool

    @property
    def label(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.settings)
        star = "\\*" * self.stand_in + "†" * self.per_task
        return f"`{self.method}`{star}" + (f" {settings}" if settings else "")


def methods() -> dict[str, Method]:
    from zoo.plugins import load_plugins

    return {
        name: method
        for name, method in sorted(load_plugins().methods.items())
        if method.function.__module__.startswith("zoo_plugins.") and name not in LEFT_OUT
    }


def settings(method: Method) -> Iterator[dict[str, Any]]:
    """The parameters to try."""
    names = [f.alias or n for n, f in method.parameters.model_fields.items()]
    grid = OWN_GRID.get(method.name, {n: v for n, v in GRID.items() if n in names})
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def applies(method: Method, family: Family) -> str:
    """Why a method cannot merge a family; empty if it can."""
    count = len(family.experts)
    if method.needs in ("model", "data"):
        return f"needs {method.needs}"
    if method.artifacts:
        return f"needs {', '.join(method.artifacts)} of each expert"
    if method.max_experts is not None and count > method.max_experts:
        return f"takes {method.max_experts} expert{'s' * (method.max_experts > 1)}"
    return f"takes {method.min_experts} or more experts" if count < method.min_experts else ""


def merge(method: Method, parameters: Mapping[str, Any], family: Family) -> dict[str, State]:
    """Task -> merged model; one and the same, unless the method makes one for each."""
    import zoo

    base = family.base_state if method.base == "required" else None
    made = zoo.merge(method, experts=family.expert_states, base=base, parameters=dict(parameters))
    if method.overlays is None:
        return dict.fromkeys(family.tasks, made)
    models = {i: made.task(i) for i in {family.owners.get(task, 0) for task in family.tasks}}
    return {task: models[family.owners.get(task, 0)] for task in family.tasks}


def score(family: Family, made: Mapping[str, State]) -> dict[str, float]:
    """Each task by its model; a model that several tasks share is run once."""
    scores: dict[str, float] = {}
    for state in {id(s): s for s in made.values()}.values():
        scores |= family.score(state, [t for t in family.tasks if made[t] is state])
    return {task: scores[task] for task in family.tasks}


class Scores:
    """What was scored, on the disk after each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, key: str) -> Any:
        return self._found.get(key)

    def put(self, key: str, value: Any) -> None:
        self._found[key] = value
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._found, indent=1))


def measure(family: Family, chosen: Mapping[str, Method], scores: Scores) -> dict[Entry, Any]:
    """Entry -> scores by task, or the sentence why there are none."""
    import zoo

    rows: dict[Entry, Any] = {}
    for method in chosen.values():
        if reason := applies(method, family):
            rows[Entry(method.name, (), False, False)] = reason
            continue
        stand_in = method.base == "required" and family.base is None
        for parameters in settings(method):
            per_task = method.overlays is not None
            entry = Entry(method.name, tuple(parameters.items()), stand_in, per_task)
            key = f"{family.name} {entry.label} {method.code_hash}"
            if (found := scores.get(key)) is None:
                began = time.perf_counter()
                try:
                    found = score(family, merge(method, parameters, family))
                except zoo.ZooError as error:
                    found = " ".join(str(error).split())[:200]
                scores.put(key, found)
                took = time.perf_counter() - began
                print(f"{family.name}: {entry.label} {took:.1f} s", file=sys.stderr, flush=True)
            rows[entry] = found
    return rows


def references(family: Family, scores: Scores) -> dict[str, dict[str, float]]:
    """What the inputs score themselves, and what each task's own expert does."""
    rows = {}
    ends = [(family.base, family.base_state)] if family.base is not None else []
    ends += list(zip(family.experts, family.expert_states, strict=True))
    for name, state in ends:
        key = f"{family.name} input {name}"
        if (found := scores.get(key)) is None:
            found = family.score(state, family.tasks)
            scores.put(key, found)
        rows[str(name)] = found
    if len(family.owners) == len(family.tasks):
        own = {task: rows[family.experts[family.owners[task]]][task] for task in family.tasks}
        rows["own expert"] = own
    return rows


def best(family: Family, rows: Mapping[Entry, Any]) -> dict[Entry, dict[str, float]]:
    """Of each method the settings with the best summary, best method first."""
    found: dict[str, Entry] = {}
    for entry, scores in rows.items():
        if isinstance(scores, str) or any(math.isnan(s) for s in scores.values()):
            continue
        former = found.get(entry.method)
        if former is None or family.summary(scores) > family.summary(rows[former]):
            found[entry.method] = entry
    ranked = sorted(found.values(), key=lambda e: -family.summary(rows[e]))
    return {entry: rows[entry] for entry in ranked}


def section(family: Family, rows: Mapping[Entry, Any], inputs: Mapping[str, Any]) -> list[str]:
    ranked = best(family, rows)
    columns = [*family.tasks, family.summary_name]

    def cells(scores: Mapping[str, float]) -> tuple[str, ...]:
        values = [*(scores[task] for task in family.tasks), family.summary(scores)]
        return tuple(f"{value + 0.0:.{family.digits}f}" for value in values)

    single = [cells(scores) for entry, scores in ranked.items() if not entry.per_task]
    winners = [max(column, key=float) for column in zip(*single, strict=True)]
    lines = [f"## {family.name}", "", family.title, ""]
    lines += ["| | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    lines += ["| " + " | ".join([f"*{n}*", *cells(scores)]) + " |" for n, scores in inputs.items()]
    alike: dict[tuple[str, ...], list[str]] = {}
    for entry, scores in ranked.items():
        alike.setdefault(cells(scores), []).append(entry.label)
    for values, labels in alike.items():
        bold = not all("†" in label for label in labels)
        shown = [f"**{v}**" if bold and v == w else v for v, w in zip(values, winners, strict=True)]
        lines.append("| " + " | ".join(["; ".join(labels), *shown]) + " |")
    refused: dict[str, list[str]] = {}
    for entry, found in rows.items():
        if entry.method not in {e.method for e in ranked}:
            reason = found if isinstance(found, str) else "gives NaN"
            refused.setdefault(reason, []).append(f"`{entry.method}`")
    for reason, names in refused.items():
        lines += ["", f"Not here: {', '.join(dict.fromkeys(names))} ({reason})."]
    if family.base is not None and len(family.experts) > 1:
        lines += ["", overshoot(family, rows)]
    if family.fails_below is not None:
        merged = {entry: scores for entry, scores in ranked.items() if not entry.per_task}
        lines += ["", verdict(family, merged)]
    return [*lines, ""]


def overshoot(family: Family, rows: Mapping[Entry, Any]) -> str:
    """What becomes of the plain sum, where deltas point the same way."""
    plain = next(
        scores
        for entry, scores in rows.items()
        if entry.method == "task_arithmetic" and dict(entry.settings)["lambda"] == 1
    )
    return (
        "Expected to fail: the plain sum, `task_arithmetic` lambda=1.0, since the "
        f"{len(family.experts)} deltas point the same way (mean cosine {family.agreement():.2f}) "
        f"and their sum goes far beyond each: {family.summary_name} "
        f"{family.summary(plain):.{family.digits}f}. `tall_masks` begins with that sum."
    )


def verdict(family: Family, ranked: Mapping[Entry, dict[str, float]]) -> str:
    """Whether what was expected to fail did."""
    assert family.fails_below is not None
    passed = [e.label for e, s in ranked.items() if family.summary(s) >= family.fails_below]
    first, scores = next(iter(ranked.items()))
    text = (
        f"Expected to fail, with *{family.summary_name}* below {family.fails_below:g}: the best is "
        f"{first.label} with {family.summary(scores):.{family.digits}f}."
    )
    if passed:
        return f"{text} These did not fail: {', '.join(passed)}."
    return (
        f"{text} All {len(ranked)} methods did: unrelated networks order their units differently."
    )


def page(parts: list[str], facts: Mapping[str, str]) -> str:
    head = [
        "# Real families: every method, every task",
        "",
        f"{facts['date']}; zoo {facts['zoo']}, torch {facts['torch']}. Written by "
        "`benchmarks/families.py`, which says how settings were chosen. *Italic*: inputs. "
        "**Bold**: the best merge of a task. \\*: the mean of the experts stood in for the base. "
        "†: keeps parts for each task, and is scored with those of the task's own expert; not one "
        "model, so not in bold.",
        "",
    ]
    return "\n".join([*head, *parts]).rstrip() + "\n"


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a few methods on two families")
    parser.add_argument("--families", nargs="+", metavar="NAME", help="all by default")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=HERE / "work" / "families")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = methods()
    wanted = families(options.data)
    if options.quick:
        chosen = {name: m for name, m in chosen.items() if name in QUICK}
        wanted = [f for f in wanted if f.name in ("w2x-upconv7-photo", "openspliceai-80nt")]
    if options.families:
        wanted = [f for f in wanted if f.name in options.families]
    scores = Scores(options.work / "scores.json")
    parts = []
    for family in wanted:
        inputs = references(family, scores)
        parts += section(family, measure(family, chosen, scores), inputs)
    facts = {
        "date": datetime.date.today().isoformat(),
        "zoo": f"{version('zoo-registry')} ({commit()})",
        "torch": version("torch"),
    }
    text = page(parts, facts)
    print(text)
    if not (options.quick or options.families):
        options.results.mkdir(parents=True, exist_ok=True)
        (options.results / "families.md").write_text(text)


if __name__ == "__main__":
    main()
