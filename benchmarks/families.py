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
import sys
import tempfile
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

GRID: dict[str, tuple[Any, ...]] = {
    "lambda": (0.25, 0.5, 1.0),
    "t": (0.25, 0.5, 0.75),
    "alpha": (0.25, 0.5, 0.75),
}
"""Parameters that every method having them is tried at, if they may be numbers."""
NEEDED: dict[str, Any] = {"weight": 1.0, "beta": 0.5}
"""Values of other parameters that a method asks for."""
QUICK = ("linear", "task_arithmetic", "ties", "slerp", "wise_ft")
UNHURT = 0.9
"""An expected failure is one where no merge keeps this share of the experts' mean score."""


@dataclass(frozen=True)
class Entry:
    """One line of a table before its scores are known."""

    method: str
    settings: tuple[tuple[str, Any], ...]
    stand_in: bool
    """Whether the mean of the experts stood in for the base."""

    @property
    def label(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.settings)
        star = "\\*" if self.stand_in else ""
        return f"`{self.method}`{star}" + (f" {settings}" if settings else "")


def methods() -> dict[str, Method]:
    from zoo.plugins import load_plugins

    found = load_plugins().methods
    return {
        n: m for n, m in sorted(found.items()) if m.function.__module__.startswith("zoo_plugins.")
    }


def settings(method: Method) -> Iterator[dict[str, Any]]:
    """The parameters to try."""
    fields = {f.alias or n: f for n, f in method.parameters.model_fields.items()}
    fixed = {n: NEEDED[n] for n, f in fields.items() if f.is_required() and n in NEEDED}
    scales = [n for n in GRID if n in fields and n not in fixed and _is_number(fields[n])]
    for values in itertools.product(*(GRID[n] for n in scales)):
        yield fixed | dict(zip(scales, values, strict=True))


def _is_number(field: Any) -> bool:
    return field.is_required() or isinstance(field.default, float)


def applies(method: Method, family: Family) -> str:
    """Why a method cannot merge a family; empty if it can."""
    count = len(family.experts)
    if method.needs in ("model", "data"):
        return f"needs {method.needs}"
    if method.max_experts is not None and count > method.max_experts:
        return f"takes {method.max_experts} expert{'s' * (method.max_experts > 1)}"
    return f"takes {method.min_experts} or more experts" if count < method.min_experts else ""


def merge(method: Method, parameters: Mapping[str, Any], family: Family) -> dict[str, State]:
    """Task -> merged model; one and the same, unless the method makes one for each."""
    import zoo

    base = family.base_state if method.base == "required" else None
    if method.overlays is None:
        made = zoo.merge(
            method, experts=family.expert_states, base=base, parameters=dict(parameters)
        )
        return dict.fromkeys(family.tasks, made)
    with tempfile.TemporaryDirectory() as folder:
        return _merge_by_task(method, parameters, family, Path(folder))


def _merge_by_task(
    method: Method, parameters: Mapping[str, Any], family: Family, folder: Path
) -> dict[str, State]:
    """Through a registry that is thrown away: overlays belong to stored versions."""
    from safetensors.torch import save_file

    import zoo

    with zoo.open(folder / "registry.db") as registry:
        for name, state in [("base", family.base_state)] + [
            (f"expert-{i}", state) for i, state in enumerate(family.expert_states)
        ]:
            save_file(state, folder / f"{name}.safetensors")
            registry.register(folder / f"{name}.safetensors", name=name)
        registry.merge(
            method=method.name,
            experts=[f"expert-{i}" for i in range(len(family.experts))],
            base="base",
            parameters=dict(parameters),
            name="merged",
        )
        return {
            task: registry.load("merged", task=f"expert-{family.owners[task]}")
            for task in family.tasks
        }


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
            rows[Entry(method.name, (), False)] = reason
            continue
        stand_in = method.base == "required" and family.base is None
        for parameters in settings(method):
            entry = Entry(method.name, tuple(parameters.items()), stand_in)
            key = f"{family.name} {entry.label} {method.code_hash}"
            if (found := scores.get(key)) is None:
                began = time.perf_counter()
                try:
                    found = score(family, merge(method, parameters, family))
                except zoo.ZooError as error:
                    found = str(error).splitlines()[0]
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


def mean(scores: Mapping[str, float]) -> float:
    return sum(scores.values()) / len(scores)


def best(rows: Mapping[Entry, Any]) -> dict[Entry, dict[str, float]]:
    """Of each method the settings with the best mean, best method first."""
    found: dict[str, Entry] = {}
    for entry, scores in rows.items():
        if isinstance(scores, str) or mean(scores) != mean(scores):  # no scores, or NaN
            continue
        if entry.method not in found or mean(scores) > mean(rows[found[entry.method]]):
            found[entry.method] = entry
    ranked = sorted(found.values(), key=lambda e: -mean(rows[e]))
    return {entry: rows[entry] for entry in ranked}


def section(family: Family, rows: Mapping[Entry, Any], inputs: Mapping[str, Any]) -> list[str]:
    ranked = best(rows)
    digits = family.digits
    winners = {
        task: max(ranked.values(), key=lambda s, task=task: s[task])[task] for task in family.tasks
    }
    lines = [f"## {family.name}", "", family.title, ""]
    lines += ["| | " + " | ".join([*family.tasks, "mean"]) + " |"]
    lines += ["|---|" + "---:|" * (len(family.tasks) + 1)]

    def line(label: str, scores: Mapping[str, float], bold: bool) -> str:
        cells = []
        for task in family.tasks:
            text = f"{scores[task]:.{digits}f}"
            cells.append(f"**{text}**" if bold and scores[task] == winners[task] else text)
        return "| " + " | ".join([label, *cells, f"{mean(scores):.{digits}f}"]) + " |"

    lines += [line(f"*{name}*", scores, False) for name, scores in inputs.items()]
    lines += [line(entry.label, scores, True) for entry, scores in ranked.items()]
    refused: dict[str, list[str]] = {}
    for entry, found in rows.items():
        if isinstance(found, str) and entry not in ranked:
            refused.setdefault(found, []).append(f"`{entry.method}`")
    lines += [""]
    for reason, names in refused.items():
        lines.append(f"Not here: {', '.join(dict.fromkeys(names))} ({reason}).")
    if family.expected_to_fail:
        lines += ["", verdict(family, ranked, inputs)]
    return [*lines, ""]


def verdict(
    family: Family, ranked: Mapping[Entry, dict[str, float]], inputs: Mapping[str, Any]
) -> str:
    """Whether what was expected to fail did."""
    wanted = mean({name: mean(inputs[name]) for name in family.experts})
    unhurt = [e.label for e, s in ranked.items() if mean(s) >= UNHURT * wanted]
    first = next(iter(ranked))
    text = (
        f"Expected to fail: the experts score {wanted:.3f} in the mean, the best merge "
        f"({first.label}) {mean(ranked[first]):.3f}."
    )
    if unhurt:
        return text + f" These did not fail, being near one input: {', '.join(unhurt)}."
    return text + f" All {len(ranked)} did: units of unrelated networks are ordered differently."


def page(parts: list[str], facts: Mapping[str, str]) -> str:
    head = [
        "# Real families: every method, every task",
        "",
        f"{facts['date']}; zoo {facts['zoo']}, torch {facts['torch']}. Written by "
        "`benchmarks/families.py`, which says how settings were chosen. *Italic*: inputs. "
        "**Bold**: the best merge of a task. \\*: the mean of the experts stood in for the base.",
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
