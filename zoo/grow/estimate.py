"""What growing a population would take, from a few timed steps of each kind of model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import comb
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.digest import canonical_json
from zoo.grow.member import architecture_of, is_there
from zoo.grow.plan import SEED, GrowPlan, Member, MetricOf, read_plan
from zoo.grow.population import check, jobs_for
from zoo.grow.training import fresh, train, training_data

if TYPE_CHECKING:
    from zoo.registry import Registry
    from zoo.task import Task

TIMED = 4
"""Steps of training that are timed."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a plan would take."""

    models: int
    cells: int
    there: int
    """Models that are registered already."""
    steps: int
    """Of training, for the others."""
    training: float
    """Seconds to train the others."""
    measuring: float
    """Seconds to measure all that is asked of all, as if nothing were recorded; metrics of the
    weights alone, evaluation and the reading of the data come on top."""
    jobs: int
    """Processes among which this is divided."""

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def estimate(
    registry: Registry,
    plan: str | Path | Mapping[str, Any] | GrowPlan,
    *,
    jobs: int | None = None,
) -> Estimate:
    """Time a few steps of each size and batch, and add up; nothing is kept.

    Raises:
        ZooError: as `zoo.grow.population.check` says.
    """
    from zoo.engine.single_thread import single_threaded_torch
    from zoo.tasks.known import task_named

    plan = plan if isinstance(plan, GrowPlan) else read_plan(plan)
    check(registry, plan)
    task = task_named(registry, plan.task)
    members = plan.members
    size = {split: _size(task, split) for split in {m.train.split for m in members}}
    a_step: dict[bytes, float] = {}
    there, steps, training, measuring = 0, 0, 0.0, 0.0
    with single_threaded_torch():
        for member in members:
            examples = size[member.train.split]
            key = canonical_json([dict(member.config), member.train.optimizer, member.train.batch])
            if key not in a_step:
                a_step[key] = _seconds_of_a_step(registry, member, task, examples)
            for asked in plan.measure:
                passes = _passes(registry, asked, len(plan.grid.get(SEED, (0,))))
                count = min(asked.samples or examples, examples)
                measuring += passes * count * a_step[key] / member.train.batch
            if not registry.is_absent and is_there(registry, task, member):
                there += 1
                continue
            wanted = member.train.steps(member.train.examples(examples))
            steps += wanted
            training += wanted * a_step[key]
    count = jobs_for(jobs, len(members))
    at_once = min(count, os.cpu_count() or 1)
    return Estimate(
        models=len(members),
        cells=len({m.cell for m in members}),
        there=there,
        steps=steps,
        training=training / at_once,
        measuring=measuring / at_once,
        jobs=count,
    )


def _size(task: Task, split: str) -> int:
    from zoo.grow.training import TrainingPlan

    return task.size(split) or len(training_data(task, TrainingPlan(split=split))[1])


def _seconds_of_a_step(registry: Registry, member: Member, task: Task, size: int) -> float:
    from zoo.networks.modules import built

    architecture = architecture_of(registry, member.config)
    share = min(1.0, TIMED * member.train.batch / size)
    short = replace(member.train, data=share, epochs=TIMED, max_steps=TIMED, label_noise=0.0)
    module = fresh(lambda: built(architecture, member.config), member.seed)
    record = train(module, task, short, seed=member.seed)
    return record.seconds / record.steps


def _passes(registry: Registry, asked: MetricOf, seeds: int) -> float:
    """Passes over the sample for one member: its own, and its share of those of its cell."""
    from zoo.metrics import metrics_named, parameters_of_each

    total = 0.0
    chosen = metrics_named(registry.plugins.metrics, [asked.metric])
    settings = parameters_of_each(chosen, asked.parameters)
    for metric in chosen:
        if metric.passes is None:
            continue
        parameters = metric.parameters(**settings[metric.name])
        if metric.arity is None:
            total += metric.passes(parameters, seeds) / seeds
        else:
            sets = comb(seeds, metric.arity)
            total += metric.passes(parameters, metric.arity) * sets / seeds
    return total
