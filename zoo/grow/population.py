"""Grows a population of models over a grid, and measures it; see `zoo.grow.plan`.

    plan -> members, each trained, registered, evaluated, measured (in parallel)
         -> cells, each pair and set of members measured (in parallel)
         -> phases

A model is there or not: what a killed run has registered is found again, and a model that it was
training goes on after its last whole epoch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.digest import canonical_json
from zoo.errors import (
    IncompatibleModels,
    InvalidCheckpoint,
    InvalidRecipe,
    ZooError,
    did_you_mean,
)
from zoo.grow.member import Grown, architecture_of, grow_member, is_single, measure_cell
from zoo.grow.plan import SEED, GrowPlan, Member, read_plan, unknown_grid_key
from zoo.grow.pool import workers
from zoo.progress import NoProgress, Progress

if TYPE_CHECKING:
    from zoo.registry import Registry
    from zoo.task import Task


@dataclass(frozen=True, slots=True)
class Population:
    """What `grow` made."""

    plan: GrowPlan
    members: tuple[Grown, ...]
    """In order of the grid."""
    cells: tuple[Grown, ...]
    """Those whose pairs or sets were measured, in order of the grid."""
    phases: Mapping[str, str]
    """Reference -> phase, where the plan asks for phases."""
    unlabelled: str | None
    """Why there are no phases, where the plan asks for them."""
    seconds: float

    @property
    def problems(self) -> tuple[str, ...]:
        """All that failed, each with the name of the model or cell."""
        found = [f"{g.name}: {p}" for g in (*self.members, *self.cells) for p in g.problems]
        return (*found, *([f"phases: {self.unlabelled}"] if self.unlabelled else []))

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "name": self.plan.name,
            "plan": self.plan.digest,
            "members": [g.as_dict() for g in self.members],
            "cells": [g.as_dict() for g in self.cells],
            "phases": dict(self.phases),
            "problems": list(self.problems),
            "seconds": round(self.seconds, 3),
        }


def grow(
    registry: Registry,
    plan: str | Path | Mapping[str, Any] | GrowPlan,
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Population:
    """Grow the population of a plan; see `Registry.grow`."""
    began = time.perf_counter()
    plan = plan if isinstance(plan, GrowPlan) else read_plan(plan)
    check(registry, plan)
    progress = progress or NoProgress()
    members = plan.members
    pairs = any(not is_single(registry, one) for one in plan.measure)
    names = list(dict.fromkeys(m.cell for m in members))
    progress.start(len(members) + (len(names) if pairs else 0), "grow")
    try:
        with workers(registry, jobs_for(jobs, len(members))) as run:
            done: dict[str, Grown] = {}
            for grown in run(grow_member, [(plan, m) for m in members]):
                done[grown.name] = grown
                progress.advance(1)
            cells: dict[str, Grown] = {}
            calls = [(plan, cell, _last(members, cell, done)) for cell in names] if pairs else []
            for cell in run(measure_cell, [c for c in calls if len(c[2]) > 1]):
                cells[cell.name] = cell
                progress.advance(1)
    finally:
        progress.done()
    phases, unlabelled = _phases(registry, plan)
    return Population(
        plan=plan,
        members=tuple(done[m.name] for m in members),
        cells=tuple(cells[name] for name in names if name in cells),
        phases=phases,
        unlabelled=unlabelled,
        seconds=time.perf_counter() - began,
    )


def _phases(registry: Registry, plan: GrowPlan) -> tuple[dict[str, str], str | None]:
    """Reference -> phase, as the plan asks; and why there are none."""
    if plan.phases is None:
        return {}, None
    try:
        assigned = registry.assign_phases(where=plan.where, **asdict(plan.phases))
    except ZooError as error:
        return {}, str(error)
    return {v.ref: one.label.phase for one in assigned.cells for v in one.cell.members}, None


def check(registry: Registry, plan: GrowPlan) -> None:
    """Refuse a plan that cannot be carried out, before anything is trained.

    Raises:
        InvalidRecipe: an unknown split, metric or parameter; a pair metric in cells of one seed, a
            metric that needs a base; a configuration that nothing can be built from.
        NotFound: an unknown task.
        PluginError: an unknown architecture.
        IncompatibleModels: a model that does not take the task's inputs, or has other outputs.
    """
    from zoo.tasks.known import task_named

    task = task_named(registry, plan.task)
    for split in dict.fromkeys(m.train.split for m in plan.members):
        _check_split(task, split)
    for asked in plan.evaluate:
        for name in asked.tasks or (plan.task,):
            _check_split(task_named(registry, name), asked.split)
    for one in plan.measure:
        if one.split is not None:
            _check_split(task_named(registry, one.task or plan.task), one.split)
    _check_metrics(registry, plan)
    configs = {canonical_json(m.config): m for m in plan.members}
    for member in configs.values():
        _check_config(registry, plan, member, task)


def _check_split(task: Task, split: str) -> None:
    if split not in task.splits:
        raise InvalidRecipe(
            f"Task `{task.name}` has no split `{split}`.",
            how=did_you_mean(split, list(task.splits)),
            task=task.name,
            split=split,
        )


def _check_metrics(registry: Registry, plan: GrowPlan) -> None:
    from zoo.metrics import metrics_named, parameters_of_each

    seeds = len(plan.grid.get(SEED, (0,)))
    for asked in plan.measure:
        found = metrics_named(registry.plugins.metrics, [asked.metric])
        parameters_of_each(found, asked.parameters)
        for metric in found:
            if metric.base:
                raise InvalidRecipe(
                    f"Metric `{metric.name}` needs the base of a model.",
                    "Models that are grown from nothing have none.",
                    metric=metric.name,
                )
            if (least := metric.arity or 2) > seeds:
                raise InvalidRecipe(
                    f"Metric `{metric.name}` takes {least} models of a cell, and a cell has "
                    f"{seeds}.",
                    "Members of a cell differ by their seed.",
                    "Add seeds to the grid: `seed: [0, 1, 2]`.",
                    metric=metric.name,
                )


def _check_config(registry: Registry, plan: GrowPlan, member: Member, task: Task) -> None:
    """Build the model, and run it on two examples."""
    import torch

    from zoo.measuring.scores import check_outputs
    from zoo.networks.modules import built

    architecture = architecture_of(registry, member.config)
    try:
        module = built(architecture, member.config).eval()
    except InvalidCheckpoint as error:
        raise InvalidRecipe(
            f"`{member.name}` cannot be built: {error}", unknown_grid_key(plan), name=member.name
        ) from error
    x, y = next(iter(task.batches(member.train.split, 2)))
    try:
        with torch.inference_mode():
            outputs = module(x)
            task.loss(outputs, y)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise IncompatibleModels(
            f"`{architecture.name}` as the plan has it does not run on task `{task.name}`:",
            f"inputs of shape {tuple(x.shape)} give {type(error).__name__}: {error}.",
            "Correct `architecture`.",
            task=task.name,
        ) from error
    if task.labels:
        check_outputs(task, outputs)


def jobs_for(jobs: int | None, models: int) -> int:
    """Processes to use: as many as there are cores, unless fewer are asked for or needed.

    Raises:
        InvalidRecipe: fewer than one is asked for.
    """
    if jobs is not None and jobs < 1:
        raise InvalidRecipe(f"{jobs} jobs cannot grow anything.", how="Use 1 or more.")
    return min(jobs or os.cpu_count() or 1, models)


def _last(members: Sequence[Member], cell: str, done: Mapping[str, Grown]) -> list[str]:
    """The finished members of a cell, by reference."""
    of_it = (done[m.name].versions for m in members if m.cell == cell)
    return [versions[-1] for versions in of_it if versions]
