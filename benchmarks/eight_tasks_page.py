"""The results of `eight_tasks.py` as a page and as JSON."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from measure import commit
from parity_fusion_bench import FUSION_BENCH

WITHIN = 0.003
"""What the accuracy may differ from fusion_bench's, mean over the tasks."""
FIRST = ("base", "individual")
TITLES = {"base": "pre-trained", "individual": "individual"}


def write(
    results: Path,
    rows: Mapping[str, Any],
    left_out: Mapping[str, str],
    tasks: Sequence[str],
    about: Mapping[str, Any],
) -> None:
    results.mkdir(parents=True, exist_ok=True)
    facts = {
        "date": datetime.date.today().isoformat(),
        "zoo": f"{version('zoo-registry')} ({commit()})",
        "torch": version("torch"),
        "fusion_bench": FUSION_BENCH,
    }
    record = {**facts, **about, "left_out": dict(left_out), "rows": dict(rows)}
    (results / "eight_tasks.json").write_text(json.dumps(record, indent=1) + "\n")
    text = "\n".join(_lines(rows, left_out, tasks, about, facts)) + "\n"
    (results / "eight_tasks.md").write_text(text)


def difference(row: Mapping[str, Any]) -> float | None:
    """fusion_bench's mean accuracy less ours; None where it has no such method."""
    if "theirs" in row:
        return mean(row["theirs"].values()) - row["mean"]
    if "theirs_draws" in row:
        return mean(_means(row["theirs_draws"])) - mean(_means(row["draws"]))
    return None


def disagreements(rows: Mapping[str, Any]) -> list[str]:
    """Methods whose accuracy differs by more than `WITHIN`; of random ones, by more than their
    draws explain besides."""
    found = []
    for name, row in rows.items():
        gap = difference(row)
        if gap is None:
            continue
        allowed = WITHIN
        if "draws" in row:
            draws = (_means(row["draws"]), _means(row["theirs_draws"]))
            allowed += 2 * sum(stdev(d) ** 2 / len(d) for d in draws) ** 0.5
        if abs(gap) > allowed:
            found.append(name)
    return found


def _means(draws: Sequence[Mapping[str, float]]) -> list[float]:
    return [mean(d.values()) for d in draws]


def _lines(
    rows: Mapping[str, Any],
    left_out: Mapping[str, str],
    tasks: Sequence[str],
    about: Mapping[str, Any],
    facts: Mapping[str, str],
) -> list[str]:
    shown = [name for name in FIRST if name in rows]
    methods = [n for n in rows if n not in FIRST and "mean" in rows[n]]
    whole = sorted((n for n in methods if not rows[n]["per_task"]), key=lambda n: rows[n]["mean"])
    parts = sorted((n for n in methods if rows[n]["per_task"]), key=lambda n: rows[n]["mean"])
    minutes = {k: sum(t[k] for t in about["seconds"].values()) / 60 for k in ("wall", "core")}
    stages = ", ".join(f"{k} {t['core']:.0f} s" for k, t in about["seconds"].items())
    head = ["method", "settings", *tasks, "average", "95 %", "normalized", "fusion_bench", "gap"]
    network = about["network"]
    return [
        "# Eight tasks, one small vision transformer, every merge method",
        "",
        f"{facts['date']}; zoo {facts['zoo']}, torch {facts['torch']}, fusion_bench "
        f"{facts['fusion_bench']}. Written by `benchmarks/eight_tasks.py`, which had a core for "
        f"{minutes['core']:.0f} minutes ({stages}) and took {minutes['wall']:.0f} on a machine of "
        "2 cores that did other work too.",
        "",
        f"Accuracy in percent on the test data. `{network['model_type']}` of "
        f"{about['parameters']:,} parameters (width {network['width']}, depth "
        f"{network['depth']}), all from one base; each task keeps the head of its expert, also "
        "under *pre-trained*, which is the base with those heads. *95 %*: interval of the "
        "average, over the draw of the test data. *normalized*: mean over the tasks of the "
        "accuracy over the expert's. *fusion_bench*: average of the same experts merged by its "
        "own algorithm with the same settings; *gap*: that less ours, in points. Settings were "
        f"chosen on {about['validation']} validation examples of each task, all others are the "
        "methods' defaults. Sorted by average.",
        "",
        _row(head),
        _row(["---", "---", *["---:"] * (len(head) - 2)]),
        *(_method(n, rows[n], tasks) for n in shown),
        *(_method(n, rows[n], tasks) for n in whole),
        "",
        "Methods that keep something for each task:",
        "",
        _row(head),
        _row(["---", "---", *["---:"] * (len(head) - 2)]),
        *(_method(n, rows[n], tasks) for n in parts),
        "",
        "## Not in the table",
        "",
        *(f"- `{name}`: {why}" for name, why in sorted(left_out.items())),
        "",
        "## Tasks",
        "",
        _row(["task", "classes", "train", "validation", "test"]),
        _row(["---", *["---:"] * 4]),
        *(
            _row([t, str(d["labels"]), *(f"{d['examples'][s]:,}" for s in d["examples"])])
            for t, d in about["tasks"].items()
        ),
        "",
        *_remarks(rows),
    ]


def _method(name: str, row: Mapping[str, Any], tasks: Sequence[str]) -> str:
    settings = ", ".join(f"{k}={v}" for k, v in row.get("settings", {}).items())
    interval = "" if row.get("low") is None else f"{100 * row['low']:.1f}-{100 * row['high']:.1f}"
    gap = difference(row)
    their = ""
    if "theirs" in row:
        their = f"{100 * mean(row['theirs'].values()):.2f}"
    elif "theirs_draws" in row:
        their = f"{100 * mean(_means(row['theirs_draws'])):.2f}\\*"
    elif "theirs_failed" in row:
        their = "failed"
    return _row(
        [
            TITLES.get(name, f"`{row.get('method', name)}`"),
            settings,
            *(f"{100 * row['cells'][t]['value']:.1f}" for t in tasks),
            f"**{100 * row['mean']:.2f}**",
            interval,
            f"{100 * row['normalized']:.1f}",
            their,
            "" if gap is None else f"{100 * gap:+.2f}",
        ]
    )


def _remarks(rows: Mapping[str, Any]) -> list[str]:
    said = [
        f"\\* `{name}` draws at random, by other generators: means of {len(row['draws'])} draws "
        f"each, {100 * mean(_means(row['draws'])):.2f} here (standard deviation "
        f"{100 * stdev(_means(row['draws'])):.2f}) and "
        f"{100 * mean(_means(row['theirs_draws'])):.2f} there "
        f"({100 * stdev(_means(row['theirs_draws'])):.2f})."
        for name, row in rows.items()
        if "draws" in row
    ]
    if "wudi-lr" in rows:
        said.append(
            "`wudi` steps by 1e-5 of a weight at a time unless told otherwise, as fusion_bench's "
            "does: in these small networks 300 steps lead nowhere, and the result is the sum of "
            "the deltas. Its second line has longer steps."
        )
    failed = [
        f"`{name}` did not run in fusion_bench: {row['theirs_failed']}."
        for name, row in rows.items()
        if "theirs_failed" in row
    ]
    return [line for remark in (*said, *failed) for line in (remark, "")][:-1]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
