"""Numbers of pictures that the registry has already: pairs' metrics, merges' scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import hypot
from statistics import fmean
from typing import TYPE_CHECKING, Any

from zoo.errors import InvalidRecipe, NotFound, did_you_mean
from zoo.plots.coefficients import MEAN, Sweep, Sweeps
from zoo.plots.comparison import Bar, Comparison
from zoo.plots.matrix import Matrix

if TYPE_CHECKING:
    from zoo.records import RunDraft, Version
    from zoo.registry import Registry

_LOWER = ("loss", "error", "barrier", "perplexity", "hessian", "sharpness", "disagreement")
"""A metric with one of these in its name is the better the lower it is."""


def is_higher_better(metric: str) -> bool:
    return not any(part in metric for part in _LOWER)


def matrix_of(
    registry: Registry, versions: Sequence[Version], metric: str, split: str | None = None
) -> Matrix:
    """A recorded metric of each pair of versions.

    Args:
        split: which of several: a task, a part of the model. None for what most pairs have; of
            equals, the value of the whole.
    Raises:
        NotFound: no pair has it; says what would measure it.
        InvalidRecipe: it is recorded for several splits alike, and none is named.
    """
    known = {v.ref for v in versions}
    found: dict[str, dict[tuple[str, str], float]] = {}
    names: set[str] = set()
    for row in registry.catalog.group_metrics():
        members = row["versions"]
        if len(members) == 2 and known.issuperset(members):
            names.add(row["name"])
            if row["name"] == metric:
                a, b = members
                found.setdefault(row["split"], {})[a, b] = row["value"]
    chosen = split
    if split is None and found:
        most = max(map(len, found.values()))
        fullest = [s for s, known in found.items() if len(known) == most]
        chosen = "" if "" in fullest else fullest[0]
        if chosen and len(fullest) > 1:
            raise InvalidRecipe(
                f"`{metric}` of these versions is recorded for {len(fullest)} tasks or parts:",
                ", ".join(f"`{s}`" for s in sorted(fullest)) + ".",
                f"Choose one: --split {min(fullest)}",
                splits=sorted(fullest),
            )
    values = found.get(chosen or "", {})
    if not values:
        place = f" for `{split}`" if split else ""
        near = did_you_mean(metric, sorted(names)) if names and metric not in names else ""
        command = f"zoo measure REF REF --metric {metric}"
        raise NotFound(
            f"No pair of these {len(versions)} versions has `{metric}` recorded{place}.",
            how=f"{near} Or measure it: {command}" if near else f"Measure it: {command}",
            metric=metric,
        )
    return Matrix([v.ref for v in versions], metric, values)


def comparison_of(
    registry: Registry, versions: Sequence[Version], metric: str, tasks: Sequence[str] = ()
) -> Comparison:
    """The scores of merges by method, beside those of their base and their experts.

    Args:
        versions: those that no merge made are left out.
        tasks: the score is the mean over these; none for a version's score on its own task, or
            where it has none, on all tasks that each merge was scored on.
    Raises:
        NotFound: no merge has the score.
    """
    merges = _merges(registry, versions)
    score = _score(registry, [m.version for m in merges], metric, tasks)
    bars = [
        Bar(m.run.method, m.version.ref, value, score.stderr(m.version))
        for m in merges
        if (value := score.of(m.version)) is not None
    ]
    return Comparison(metric, bars, _references(registry, merges, score), is_higher_better(metric))


def sweeps_of(
    registry: Registry,
    versions: Sequence[Version],
    metric: str,
    parameter: str = "lambda",
    tasks: Sequence[str] = (),
) -> Sweeps:
    """The scores of merges that differ only in one parameter, a curve for each family of them.

    With one family and several tasks there is a curve for each task, and one for their mean.

    Raises:
        NotFound: no two merges with the score differ in this parameter alone.
    """
    merges = _merges(registry, versions)
    score = _score(registry, [m.version for m in merges], metric, tasks)
    families: dict[str, dict[float, Version]] = {}
    labels: dict[str, str] = {}
    for merge in merges:
        at = _number(merge.run.recipe.get("parameters", {}).get(parameter))
        if at is not None and score.of(merge.version) is not None:
            key = _but(merge.run, parameter)
            families.setdefault(key, {})[at] = merge.version
            labels[key] = merge.run.method
    families = {key: family for key, family in families.items() if len(family) > 1}
    if not families:
        raise NotFound(
            f"No two of these {len(merges)} merges differ in `{parameter}` alone.",
            "A curve needs two merges of one method, of the same experts.",
            "Merge with several values: "
            f"zoo merge --method task_arithmetic ... --set {parameter}=0.3 --as NAME",
            parameter=parameter,
        )
    taken = list(families.values())
    used = [m for m in merges if any(m.version in family.values() for family in taken)]
    references = _references(registry, used, score)
    if len(taken) == 1 and len(score.tasks) > 1:
        family = taken[0]
        places = sorted(family)
        curves = [
            Sweep(task, places, [family[x].metrics[f"{metric}/{task}"] for x in places])
            for task in score.tasks
        ]
        curves.append(Sweep(MEAN, places, [_some(score.of(family[x])) for x in places]))
    else:
        curves = [
            Sweep(label, sorted(family), [_some(score.of(family[x])) for x in sorted(family)])
            for label, family in zip(_told(families, labels), taken, strict=True)
        ]
    return Sweeps(metric, parameter, curves, references, is_higher_better(metric))


@dataclass(frozen=True, slots=True)
class _Merge:
    version: Version
    run: RunDraft


@dataclass(frozen=True, slots=True)
class _Score:
    """The score of a version: on its own task, or the mean over tasks."""

    registry: Registry
    metric: str
    tasks: tuple[str, ...]
    """None of them for the version's own task."""

    def of(self, version: Version) -> float | None:
        keys = [f"{self.metric}/{t}" for t in self.tasks] or [self.metric]
        if any(key not in version.metrics for key in keys):
            return None
        return fmean(version.metrics[key] for key in keys)

    def stderr(self, version: Version) -> float | None:
        """Of the mean, tasks being independent; None where any is unknown."""
        wanted = self.tasks or ("",)
        found = {
            m.split: m.stderr
            for m in self.registry.catalog.measured(version.id)
            if m.name == self.metric and m.split in wanted and m.stderr is not None
        }
        if len(found) < len(wanted):
            return None
        return hypot(*found.values()) / len(wanted)


def _merges(registry: Registry, versions: Sequence[Version]) -> list[_Merge]:
    runs = ((v, registry.catalog.run_of(v.id)) for v in versions if v.run is not None)
    return [_Merge(v, run) for v, run in runs if run is not None and run.kind == "merge"]


def _score(
    registry: Registry, versions: Sequence[Version], metric: str, tasks: Sequence[str]
) -> _Score:
    """How these versions are scored.

    Raises:
        NotFound: there are none, or none of them has the score.
    """
    if not versions:
        raise NotFound(
            "None of the versions selected is a merge.",
            how="Merge some, and select them: --where \"kind = 'merge'\".",
        )
    score = _Score(registry, metric, tuple(tasks))
    if not tasks and all(score.of(v) is None for v in versions):
        each = [
            {m.split for m in registry.catalog.measured(v.id) if m.name == metric and _of_task(m)}
            for v in versions
        ]
        score = _Score(registry, metric, tuple(sorted(set.intersection(*each) if each else ())))
    if all(score.of(v) is None for v in versions):
        names = sorted({key.split("/")[0] for v in versions for key in v.metrics})
        on = f" on {', '.join(f'`{t}`' for t in tasks)}" if tasks else ""
        raise NotFound(
            f"None of these {len(versions)} merges has `{metric}` recorded{on}.",
            did_you_mean(metric, names) if names and metric not in names else "",
            "Measure it: zoo evaluate REF --task T",
            metric=metric,
        )
    return score


def _of_task(value: Any) -> bool:
    """Whether a value is of a whole task, and kept under the task's name."""
    return bool(value.dataset) and value.split == value.dataset


def _references(registry: Registry, merges: Sequence[_Merge], score: _Score) -> Mapping[str, float]:
    """The scores of the experts, each on its own task or the best of them, and of the base."""
    roles: dict[str, dict[int, Version]] = {"expert": {}, "base": {}}
    for merge in merges:
        for one in merge.run.inputs:
            if one.role in roles and one.version not in roles[one.role]:
                roles[one.role][one.version] = registry.catalog.by_id(one.version)
    found: dict[str, float] = {}
    experts = list(roles["expert"].values())
    pick = max if is_higher_better(score.metric) else min
    if score.tasks:
        own = {v.task: v.metrics.get(f"{score.metric}/{v.task}") for v in experts}
        values = [own.get(task) for task in score.tasks]
        if all(v is not None for v in values):
            found["experts"] = fmean(_some(v) for v in values)
    elif known := [v for v in map(score.of, experts) if v is not None]:
        found["best expert"] = pick(known)
    if bases := [v for v in map(score.of, roles["base"].values()) if v is not None]:
        found["base"] = pick(bases)
    return found


def _some(value: float | None) -> float:
    assert value is not None, "only versions with a score are asked"
    return value


def _number(value: Any) -> float | None:
    """A parameter's value where it is one number, for all experts alike."""
    if isinstance(value, list) and value and all(v == value[0] for v in value):
        value = value[0]
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _but(run: RunDraft, parameter: str) -> str:
    """Names a family: all of a run that decides its result, but for one parameter."""
    others = {k: v for k, v in run.recipe.get("parameters", {}).items() if k != parameter}
    inputs = sorted((i.role, i.digest) for i in run.inputs)
    return json.dumps([run.method, others, inputs], sort_keys=True, default=str)


def _told(families: Mapping[str, Any], labels: Mapping[str, str]) -> list[str]:
    """A name for each family: its method, and the parameters in which it differs from another of
    the same method."""
    parts = {key: json.loads(key)[1] for key in families}
    names = []
    for key in families:
        alike = [k for k in families if labels[k] == labels[key]]
        differing = [
            name
            for name, value in parts[key].items()
            if any(parts[k].get(name) != value for k in alike)
        ]
        said = " ".join(f"{name}={parts[key][name]}" for name in differing[:2])
        names.append(f"{labels[key]} {said}".strip())
    clashes = {a for a, b in combinations(names, 2) if a == b}
    return [f"{n} ({i + 1})" if n in clashes else n for i, n in enumerate(names)]
