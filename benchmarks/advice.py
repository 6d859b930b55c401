"""How the advice of `zoo advise` fared: its promise and its method against measured merges.

    python benchmarks/advice.py            about five minutes on two cores
    python benchmarks/advice.py --quick    a small part of it; records nothing

Two zoos. The shipped upscalers: four experts of one base, every set of two or more, scored in PSNR.
Digits: experts of eight tasks derived from the shipped digits (rotated, inverted, noisy, ...), some
trained twice, some from another start; every pair, and sets of three to eight tasks, scored by what
is left of each expert's accuracy on its own task. Everything the advice looks at is measured with
`Registry.measure`; the sets are then merged by the method advised, and by others, and scored.

Writes `results/advice.md` and `.json`. What a first run showed changed the promise once, and was
not recorded but in `FIRST_RUN`; the seeds it runs on now are others.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

import zoo
from zoo.advice.advise import Advice, Expert, Pair, judge, parts
from zoo.advice.records import gathered
from zoo.grow.training import TrainingPlan, train
from zoo.networks.modules import save_module
from zoo.tasks.known import add_task, task_named

HERE = Path(__file__).parent
NETWORK = {
    "model_type": "zoo_mlp", "inputs": 64, "width": 128, "depth": 2, "classes": 10,
    "activation": "relu",
}  # fmt: skip
DERIVED: dict[str, list[Any]] = {
    "rotate-30": [{"rotate": 30}],
    "rotate-60": [{"rotate": 60}],
    "rotate-90": [{"rotate": 90}],
    "rotate-180": [{"rotate": 180}],
    "invert": ["invert"],
    "noise": [{"noise": {"level": 3}}],
    "blur": [{"blur": {"level": 3}}],
    "permute": [{"permute": {"seed": 1}}],
}
FIRST_RUN = """\
The digits zoos are of seeds that played no part in making the advice. Its promise was made before a
first run, on seeds 0 to 2, and changed once after it. Before, it took the cosine of the task
vectors, their share of equal signs and the ratio of their lengths for what is now their distance;
it fell with 2 to the power of the barrier; and it was 0 for every pair without a common base. Its
rank correlation in that first run: 0.43 for every pair, 0.72 for pairs of one base (barrier alone
0.85, cosine alone 0.20, signs alone 0.15, lengths alone -0.05), -0.77 for the upscalers."""
OTHERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("linear", {}),
    ("task_arithmetic", {"lambda": 0.3}),
    ("task_arithmetic", {"lambda": 1.0}),
    ("ties", {"density": 0.2, "lambda": 1.0}),
    ("tsv", {"lambda": 1.0}),
)
"""What the advised merge is held against: what one would do without advice."""


@dataclass
class Outcome:
    """One set of experts: what was advised, and what came of each merge."""

    advice: Advice
    parts: dict[str, float | None]
    """Of the promise, the mean over the pairs."""
    scores: dict[str, float] = field(default_factory=dict)
    """Merge -> score; `advised` among them, unless no merge was advised."""

    @property
    def best(self) -> float:
        return max(self.scores.values())


def told(method: str, parameters: Mapping[str, Any]) -> str:
    return " ".join([method, *(f"{k}={v}" for k, v in parameters.items())])


# The upscalers


def upscalers(work: Path) -> list[Outcome]:
    """Every set of the shipped upscalers; a score is PSNR in dB minus the mean of the members'."""
    from zoo_cli import upscaler_demo as demo

    example = demo.find_example(None)
    with zoo.open(work / "upscalers.db", plugins_dirs=[example]) as registry:
        made = {m.version.ref: m.version for m in demo.register_all(registry, example)}
        refs = [v.ref for v in made.values() if v.kind == "expert"]
        measured(registry, refs, ["task_vector", "task_vectors", "subspace_overlap"], None)
        experts, pairs = gathered(registry, [registry.get(r) for r in refs])
        outcomes = []
        for size in range(2, len(refs) + 1):
            for chosen in combinations(experts, size):
                level = fmean(made[e.ref].metrics["psnr"] for e in chosen)

                def score(directory: Path, level: float = level) -> float:
                    found = demo.evaluate(registry, directory)
                    return next(v.value for v in found if not v.split) - level

                outcomes.append(outcome(registry, chosen, pairs, score, work))
        return outcomes


# Digits


def digits(work: Path, seed: int, quick: bool) -> list[Outcome]:
    """Pairs, and larger sets, of experts on digits; a score is the mean over the experts' tasks of
    accuracy over the expert's own."""
    with zoo.open(work / f"digits-{seed}.db") as registry:
        for name, steps in DERIVED.items():
            add_task(registry, {"name": name, "from": "digits", "derive": steps})
        experts = grown(registry, work, seed)
        refs = [v.ref for v in experts]
        registry.evaluate(refs, tasks=None)
        related = [v.ref for v in experts if v.base]
        measured(registry, related, ["task_vector", "task_vectors", "subspace_overlap"], None)
        for a, b in combinations(experts, 2):
            for task in dict.fromkeys((str(a.task), str(b.task))):
                measured(registry, [a.ref, b.ref], ["barrier", "cka"], task)
        known, pairs = gathered(registry, [registry.get(r) for r in refs])
        chosen: list[Sequence[Expert]] = list(combinations(known, 2))
        draw = random.Random(seed)
        by_task = {t: [e for e in known if e.task == t and e.base] for t in DERIVED}
        for size in (3, 4, 6, 8):
            for _ in range(1 if size == 8 else 10):
                tasks = draw.sample(sorted(by_task), size)
                chosen.append([draw.choice(by_task[t]) for t in tasks])
        if quick:
            chosen = draw.sample(chosen, 12)
        outcomes = []
        for members in chosen:
            own = {str(e.task): e.accuracy or 1.0 for e in members}

            def score(directory: Path, own: dict[str, float] = own) -> float:
                module = zoo.load(directory, registry=registry)
                return fmean(accuracy(registry, module, t) / a for t, a in own.items())

            outcomes.append(outcome(registry, members, pairs, score, work))
        return outcomes


def grown(registry: zoo.Registry, work: Path, seed: int) -> list[zoo.Version]:
    """A base on plain digits; from it an expert for each task, a second one with a higher learning
    rate for half of them; and two that begin elsewhere."""
    architecture = registry.plugins.architectures["zoo_mlp"]

    def begun(at: int) -> torch.nn.Module:
        torch.manual_seed(at)
        return architecture.build(NETWORK)

    def kept(module: torch.nn.Module, name: str, **more: Any) -> zoo.Version:
        directory = work / f"models-{seed}" / name
        save_module(module, NETWORK, directory)
        return registry.register(directory, name=name, **more)

    base = begun(1000 + seed)
    plan = TrainingPlan(lr=0.1, epochs=5, batch=64)
    train(base, task_named(registry, "digits"), plan, seed=seed)
    kept(base, "base", kind="base", task="digits")
    found = []
    for i, task in enumerate(DERIVED):
        for run, rate in (("", 0.02), ("-hot", 0.1)):
            if run and i % 2:
                continue
            module = copy.deepcopy(base)
            tuned = TrainingPlan(lr=rate, epochs=10, batch=64, schedule="cosine")
            train(module, task_named(registry, task), tuned, seed=seed + i)
            found.append(kept(module, task + run, base="base", task=task))
    for task in ("rotate-30", "noise"):
        module = begun(2000 + seed)
        train(module, task_named(registry, task), TrainingPlan(lr=0.1, epochs=10), seed=seed)
        found.append(kept(module, f"{task}-elsewhere", task=task))
    return found


def accuracy(registry: zoo.Registry, module: torch.nn.Module, task: str) -> float:
    with torch.inference_mode():
        hits = [
            (module(x).argmax(1) == y).double()
            for x, y in task_named(registry, task).batches("test")
        ]
    return float(torch.cat(hits).mean())


# What is done with each


def measured(
    registry: zoo.Registry, refs: Sequence[str], metrics: Sequence[str], task: str | None
) -> None:
    """Measure, and end at the first failure."""
    for one in registry.measure(refs, metrics=metrics, task=task):
        if one.error is not None:
            raise one.error


def outcome(
    registry: zoo.Registry, experts: Sequence[Expert], pairs: Mapping[frozenset[str], Pair],
    score: Any, work: Path,
) -> Outcome:  # fmt: skip
    """Merge a set as advised and otherwise, and score each."""
    advice = judge(experts, pairs)
    each = [
        parts(a, b, pairs.get(frozenset((a.ref, b.ref)), Pair()))
        for a, b in combinations(experts, 2)
    ]
    means: dict[str, float | None] = {}
    for name in each[0]:
        known = [v for p in each if (v := p[name]) is not None]
        means[name] = fmean(known) if known else None
    found = Outcome(advice, means)
    tried = {told(m, p): (m, p) for m, p in OTHERS}
    if advice.method is not None:
        tried["advised"] = (advice.method, dict(advice.parameters))
    bases = {e.base for e in experts}
    base = bases.pop() if len(bases) == 1 else None
    for name, (method, parameters) in tried.items():
        if base is None and method != "linear":
            continue
        with tempfile.TemporaryDirectory(dir=work) as directory:
            registry.merge(
                method=method,
                experts=list(advice.experts),
                base=None if method == "linear" else base,
                parameters=parameters,
                out=Path(directory) / "merged",
                threads=1,
            )
            found.scores[name] = score(Path(directory) / "merged")
    return found


# What comes of it


def ranks(values: Sequence[float]) -> list[float]:
    """From 1; equals share the mean of their ranks."""
    order = sorted(range(len(values)), key=values.__getitem__)
    found = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for place in range(start, end + 1):
            found[order[place]] = (start + end) / 2 + 1
        start = end + 1
    return found


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Rank correlation, -1 to 1; None where one side does not vary."""
    if len(x) < 3 or len(set(x)) == 1 or len(set(y)) == 1:
        return None
    a, b = torch.tensor(ranks(x)), torch.tensor(ranks(y))
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def interval(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """95 % by the bootstrap over sets, 1,000 draws. Sets share experts, so it is too narrow."""
    draw = random.Random(0)
    found = []
    for _ in range(1000):
        rows = [draw.randrange(len(x)) for _ in x]
        value = spearman([x[i] for i in rows], [y[i] for i in rows])
        if value is not None:
            found.append(value)
    found.sort()
    return found[int(0.025 * len(found))], found[int(0.975 * len(found))]


def correlations(outcomes: Sequence[Outcome], measured_by: str) -> dict[str, Any]:
    """Of the promise, and of each of its parts alone, with a measured score."""
    usable = [o for o in outcomes if measured_by in o.scores]
    scores = [o.scores[measured_by] for o in usable]
    promises = [o.advice.promise for o in usable]
    found: dict[str, Any] = {"n": len(usable), "promise": spearman(promises, scores)}
    if found["promise"] is not None:
        found["interval"] = interval(promises, scores)
    for part in usable[0].parts if usable else ():
        known = [(v, o.scores[measured_by]) for o in usable if (v := o.parts[part]) is not None]
        if len(known) > 2:
            found[part] = spearman([k for k, _ in known], [s for _, s in known])
    return found


def averages(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Mean score of each merge, over the sets that were merged in every way."""
    every = {"advised", *(told(m, p) for m, p in OTHERS)}
    merged = [o for o in outcomes if every <= o.scores.keys()]
    if not merged:
        return {}
    found = {n: fmean(o.scores[n] for o in merged) for n in every}
    return {**found, "best of all": fmean(o.best for o in merged), "n": len(merged)}


def page(groups: Mapping[str, Sequence[Outcome]], about: str) -> str:
    """The results, as Markdown."""
    lines = [
        "# How the advice fared",
        "",
        about,
        "",
        "`benchmarks/advice.py` says what was merged and how it was scored. Upscalers: dB of PSNR "
        "above (+) or below (-) the mean of the members. Digits: mean over the members' tasks of "
        "accuracy over the expert's own, 1 for nothing lost.",
        "",
        FIRST_RUN,
        "",
        "## Does the promise rank?",
        "",
        "Spearman's rank correlation of the promise with the score of the plain mean (`linear`), "
        "and of each part of it alone where it was measured. 95 % intervals are of the bootstrap "
        "over sets; the sets share experts, so they are too narrow.",
        "",
        "| sets | n | promise | interval | " + " | ".join(PARTS) + " |",
        "|---|---:|---:|---:|" + "---:|" * len(PARTS),
    ]
    for name, outcomes in groups.items():
        c = correlations(outcomes, "linear")
        low, high = c.get("interval", (None, None))
        cells = [name, str(c["n"]), number(c["promise"]), f"{number(low)} to {number(high)}"]
        lines.append(row(*cells, *(number(c.get(p)) for p in PARTS)))
    lines += [
        "",
        "## Is the method advised a good one?",
        "",
        "Mean score over the sets of one base that the advice would merge. *Best of all*: the "
        "best merge of each set, known only afterwards.",
        "",
    ]
    columns = ["advised", *(told(m, p) for m, p in OTHERS), "best of all"]
    shown = [c if c in ("advised", "best of all") else f"`{c}`" for c in columns]
    lines += [row("sets", "n", *shown), "|---|---:|" + "---:|" * len(columns)]
    for name, outcomes in groups.items():
        means = averages(outcomes)
        if means:
            lines.append(
                row(name, f"{means['n']:.0f}", *(number(means.get(c), 3) for c in columns))
            )
    lines += ["", "## By verdict", "", "Mean scores; *best* as above.", ""]
    lines += [row("sets", "verdict", "method", "n", "`linear`", "advised", "best")]
    lines += ["|---|---|---|---:|---:|---:|---:|"]
    for name, outcomes in groups.items():
        if " of one base" in name:
            continue
        kinds: dict[tuple[str, str], list[Outcome]] = {}
        for o in outcomes:
            kinds.setdefault((o.advice.verdict, o.advice.method or "none"), []).append(o)
        for (verdict, method), those in sorted(kinds.items()):
            linear = number(fmean(o.scores["linear"] for o in those), 3)
            advised = [o.scores["advised"] for o in those if "advised" in o.scores]
            told_advised = number(fmean(advised) if advised else None, 3)
            best = number(fmean(o.best for o in those), 3)
            called = f"`{method}`" if method != "none" else "none"
            lines.append(row(name, verdict, called, str(len(those)), linear, told_advised, best))
    return "\n".join(lines) + "\n"


PARTS = ("connection", "nearness", "similarity", "skill")


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def plain(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    return [
        {
            "experts": o.advice.experts,
            "promise": round(o.advice.promise, 4),
            "verdict": o.advice.verdict,
            "method": o.advice.method,
            "parameters": dict(o.advice.parameters),
            "parts": {k: v and round(v, 4) for k, v in o.parts.items()},
            "scores": {k: round(v, 4) for k, v in o.scores.items()},
        }
        for o in outcomes
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a small part; records nothing")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5], help="digits zoos")
    asked = parser.parse_args()
    quick = asked.quick
    seeds = asked.seeds[:1] if quick else asked.seeds
    torch.set_num_threads(1)
    began = time.monotonic()
    groups: dict[str, list[Outcome]] = {}
    with tempfile.TemporaryDirectory() as work:
        groups["upscalers, every set"] = upscalers(Path(work))
        print(f"upscalers: {time.monotonic() - began:.0f} s", file=sys.stderr)
        every: list[Outcome] = []
        for seed in seeds:
            every += digits(Path(work), seed, quick)
            print(f"digits {seed}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    two = [o for o in every if len(o.advice.experts) == 2]
    groups["digits, every pair"] = two
    groups["digits, pairs of one base"] = [o for o in two if o.advice.base is not None]
    groups["digits, pairs of one base and two tasks"] = [
        o for o in groups["digits, pairs of one base"] if not same_task(o)
    ]
    groups["digits, 3 to 8 tasks"] = [o for o in every if len(o.advice.experts) > 2]
    groups = {name: outcomes for name, outcomes in groups.items() if outcomes}
    took = time.monotonic() - began
    about = (
        f"{time.strftime('%Y-%m-%d')}; zoo {version('zoo-registry')}, torch {torch.__version__}; "
        f"{len(seeds)} digits zoos of 14 experts (seeds {', '.join(map(str, seeds))}); "
        f"{took:.0f} s on one core."
    )
    text = page(groups, about)
    print(text)
    if not quick:
        results = HERE / "results"
        (results / "advice.md").write_text(text, encoding="utf-8")
        kept = {"upscalers": plain(groups["upscalers, every set"]), "digits": plain(every)}
        (results / "advice.json").write_text(json.dumps(kept) + "\n", encoding="utf-8")


def same_task(outcome: Outcome) -> bool:
    """Whether the members were trained on one task; names are TASK@N, TASK-hot@N."""
    first, *others = (
        ref.partition("@")[0].removesuffix("-hot").removesuffix("-elsewhere")
        for ref in outcome.advice.experts
    )
    return all(other == first for other in others)


if __name__ == "__main__":
    main()
