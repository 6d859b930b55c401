"""What the registry knows of experts and pairs of them, as the advice wants it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from statistics import fmean
from typing import TYPE_CHECKING

from zoo.advice.advise import METRICS, Advice, Expert, Pair, advise
from zoo.errors import InvalidRecipe, NotFound, ZooError
from zoo.measuring.chosen import is_query

if TYPE_CHECKING:
    from zoo.records import Version
    from zoo.registry import Registry

_PARTS: dict[str, tuple[str, Callable[[Iterable[float]], float]]] = {
    "cosine": ("task_vector_cosine", fmean),
    "sign_agreement": ("sign_agreement", fmean),
    "length_ratio": ("task_vector_norm_ratio", max),
    "subspace_excess": ("subspace_overlap_excess", fmean),
    "barrier": ("barrier", max),
    "error_barrier": ("error_barrier", max),
    "cka": ("cka", fmean),
}
"""Field of `Pair` -> the metric, and what makes one number of those on several tasks."""

_OF_WEIGHTS = {"task_vector", "task_vectors"}
"""Metrics that need no task."""


def advise_on(
    registry: Registry,
    refs: Sequence[str] = (),
    *,
    where: str | None = None,
    order_by: str | None = None,
    limit: int | None = None,
    tasks: Sequence[str] = (),
    most: int = 10,
) -> tuple[list[Advice], list[str]]:
    """Which of these versions merge well together, from what is recorded; see `zoo.advice.advise`.

    Args:
        refs, where: the candidates, by name or by a query; bases and artifacts that a query finds
            are left out.
        tasks: advise on sets with one expert for each.
        most: sets to give.
    Returns:
        The sets, the most promising first; and the commands that measure what is not known of them.
    Raises:
        NotFound: no version fits, or no expert of a task.
        InvalidRecipe: fewer than two experts.
    """
    experts, pairs = gathered(registry, candidates(registry, refs, where, order_by, limit))
    found = advise(experts, pairs, tasks=tasks, most=most)
    return found, measure_commands(found, experts, where)


def candidates(
    registry: Registry,
    refs: Sequence[str],
    where: str | None,
    order_by: str | None,
    limit: int | None,
) -> list[Version]:
    """The versions that are named or selected, each once.

    Raises:
        NotFound: none.
    """
    if bool(refs) == is_query(where, order_by, limit):
        raise InvalidRecipe("Name the experts, or select them by a query; one of the two.")
    if refs:
        return list({v.id: v for v in map(registry.get, refs)}.values())
    selected = registry.select(where, order_by, limit)
    found = [v for v in selected if v.kind in ("expert", "merge")]
    if not found:
        raise NotFound(
            f"No expert fits `{where or 'everything'}`.",
            "Experts and merges can be merged; bases and adapters are not looked at."
            if selected
            else "",
            "Try the query with `zoo ls --where`.",
            where=where,
        )
    return found


def gathered(
    registry: Registry, versions: Sequence[Version]
) -> tuple[list[Expert], dict[frozenset[str], Pair]]:
    """What is recorded of versions, and of each two of them."""
    experts = [
        Expert(
            v.ref,
            v.architecture,
            v.base,
            v.task,
            v.phase,
            v.metrics.get("accuracy", v.metrics.get(f"accuracy/{v.task}")),
            v.metrics.get("task_vector_relative_norm"),
        )
        for v in versions
    ]
    wanted = {metric for metric, _ in _PARTS.values()}
    in_nats = cache(lambda task: _is_cross_entropy(registry, task))
    refs = {v.ref for v in versions}
    measured: dict[frozenset[str], dict[str, dict[str, float]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for row in registry.catalog.group_metrics():
        members = row["versions"]
        if len(members) != 2 or row["name"] not in wanted or not refs.issuperset(members):
            continue
        if row["name"] != "barrier" or in_nats(row["dataset"]):
            measured[frozenset(members)][row["name"]][row["split"]] = row["value"]
    task_of = {e.ref: e.task for e in experts}
    pairs = {
        key: _pair(values, {t for ref in key if (t := task_of[ref]) is not None})
        for key, values in measured.items()
    }
    return experts, pairs


def measure_commands(
    advice: Sequence[Advice], experts: Sequence[Expert], where: str | None
) -> list[str]:
    """What measures what is missing in these sets; empty where nothing is that can be measured.

    Experts of several tasks are compared on each of these.
    """
    missing = {m for one in advice for part in one.missing for m in METRICS.get(part, ())}
    refs = dict.fromkeys(ref for one in advice for ref in one.experts)
    chosen = " ".join(refs) if where is None else f'--where "{where}"'
    tasks = sorted({e.task for e in experts if e.ref in refs and e.task is not None})
    found = []
    if weights := missing & _OF_WEIGHTS:
        found.append(f"zoo measure {chosen} {_named(weights)}")
    if others := missing - _OF_WEIGHTS:
        found += [f"zoo measure {chosen} {_named(others)} --task {t}" for t in tasks or ["TASK"]]
    return found


def _is_cross_entropy(registry: Registry, name: str) -> bool:
    """Whether a task's loss is in nats, as the threshold of barriers is; one that has a loss of its
    own tells no unit, nor does one that is gone."""
    from zoo.task import Task
    from zoo.tasks.data import DataTask
    from zoo.tasks.known import task_named

    if not name:  # recorded by hand, in the unit that is documented
        return True
    try:
        task = task_named(registry, name)
    except ZooError:
        return False
    return type(task).loss in (Task.loss, DataTask.loss)


def _named(metrics: Iterable[str]) -> str:
    return " ".join(f"--metric {m}" for m in sorted(metrics))


def _pair(values: dict[str, dict[str, float]], tasks: set[str]) -> Pair:
    """One number of each metric: of the whole, else of the pair's own tasks, else of any task.

    Parts of a model or of a score do not count.
    """
    found = {}
    for part, (metric, one_of) in _PARTS.items():
        known = values.get(metric, {})
        if "" in known:
            found[part] = known[""]
            continue
        whole = {split: v for split, v in known.items() if not {"/", ":"} & set(split)}
        if own := [v for split, v in whole.items() if split in tasks] or list(whole.values()):
            found[part] = one_of(own)
    return Pair(**found)
