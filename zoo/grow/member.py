"""One model of a grown population: trained, registered, evaluated, measured.

    staging directory        state.pt, the weights kept on the way, all ours until we are done
    -> train                 goes on after the last epoch, where a run was killed
    -> register              kept epochs as versions of the entry, the last one as its newest
    -> evaluate, measure     what is recorded already is not done again

A version has `training.json` beside its weights: the whole record of its training. What it was
grown from is in its tags:

    grow.name   grow.plan   the plan: its name, and the digest of what all of the grid share
    grow.cell   grow.KEY    its place in the grid: the cell's name, and each key with its value
    training                digest of all that decides the weights, such as the data and the seed
    grow.epoch  grow.last   the epoch that ended with these weights; yes or no: whether it is the
                            last
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.environment import environment
from zoo.errors import PluginError, ZooError, did_you_mean
from zoo.grow.plan import GrowPlan, Member, MetricOf
from zoo.grow.training import VERSION as TRAINING
from zoo.grow.training import EpochRecord, TrainingRecord, fresh, train
from zoo.records import MetricValue, Version

if TYPE_CHECKING:
    import torch

    from zoo.architecture import Architecture
    from zoo.registry import Registry
    from zoo.task import Task

STATE = "state.pt"
RECORD = "training.json"
LAST = "last"
TAG = "grow."
TRAINED = "training"
"""The tag that names a training."""


@dataclass(frozen=True, slots=True)
class Grown:
    """What became of one model, or of the metrics of one cell."""

    name: str
    """Of the entry, or of the cell."""
    versions: tuple[str, ...] = ()
    """References: the kept epochs, then the last one. Of a cell, its members."""
    was_there: bool = False
    """Whether it was trained by an earlier run."""
    seconds: float = 0.0
    problems: tuple[str, ...] = ()
    """What failed, each a message."""

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "name": self.name,
            "versions": list(self.versions),
            "was_there": self.was_there,
            "seconds": round(self.seconds, 3),
            "problems": list(self.problems),
        }


def grow_member(registry: Registry, plan: GrowPlan, member: Member) -> Grown:
    """Make one model of the population, as far as it is not there; failures are told."""
    began = time.perf_counter()
    try:
        versions, was_there = _versions(registry, plan, member)
    except ZooError as error:
        return Grown(member.name, seconds=time.perf_counter() - began, problems=(str(error),))
    refs = [v.ref for v in versions]
    problems = [
        *_evaluate(registry, plan, refs),
        *_measure(registry, _single(registry, plan), refs[-1:]),
    ]
    return Grown(member.name, tuple(refs), was_there, time.perf_counter() - began, tuple(problems))


def measure_cell(registry: Registry, plan: GrowPlan, cell: str, refs: Sequence[str]) -> Grown:
    """Measure the pairs and sets of one cell; failures are told."""
    began = time.perf_counter()
    asked = [one for one in plan.measure if not is_single(registry, one)]
    problems = _measure(registry, asked, refs)
    return Grown(cell, tuple(refs), False, time.perf_counter() - began, tuple(problems))


def is_single(registry: Registry, asked: MetricOf) -> bool:
    """Whether a metric is one of single models.

    Raises:
        InvalidRecipe: there is no such metric.
    """
    from zoo.metrics import metrics_named

    return all(m.arity == 1 for m in metrics_named(registry.plugins.metrics, [asked.metric]))


def _single(registry: Registry, plan: GrowPlan) -> list[MetricOf]:
    return [one for one in plan.measure if is_single(registry, one)]


def _evaluate(registry: Registry, plan: GrowPlan, refs: Sequence[str]) -> list[str]:
    from zoo.measuring.evaluation import evaluate

    return [
        problem
        for asked in plan.evaluate
        for problem in _problems(
            evaluate,
            registry,
            refs,
            tasks=asked.tasks,
            split=asked.split,
            samples=asked.samples,
            batch=asked.batch,
            seed=asked.seed,
        )
    ]


def _measure(registry: Registry, metrics: Sequence[MetricOf], refs: Sequence[str]) -> list[str]:
    return [
        problem
        for asked in metrics
        for problem in _problems(
            registry.measure,
            refs,
            metrics=[asked.metric],
            task=asked.task,
            split=asked.split,
            parameters=asked.parameters,
            samples=asked.samples,
            batch=asked.batch,
            seed=asked.seed,
        )
    ]


def _problems(run: Callable[..., Iterable[Any]], *arguments: Any, **options: Any) -> list[str]:
    """What went wrong as a whole, or with one of the results."""
    try:
        return [str(one.error) for one in run(*arguments, **options) if one.error is not None]
    except ZooError as error:
        return [str(error)]


def _versions(registry: Registry, plan: GrowPlan, member: Member) -> tuple[list[Version], bool]:
    """The kept epochs and the last one, by epoch; trained if one is missing."""
    from zoo.tasks.known import task_named

    task = task_named(registry, plan.task)
    digest = member.digest(task.name, task.digest(member.train.split))
    found = _registered(registry, member, digest)
    wanted = [*map(str, member.keep), LAST]
    if all(epoch in found for epoch in wanted):
        return [found[epoch] for epoch in wanted], True
    key = "grow-" + digest.removeprefix("sha256:")[:32]
    with registry.store.staging(key, keep=True) as folder:
        record, folders = _train(registry, member, task, folder)
        for epoch in wanted:
            if epoch not in found:
                tags = {
                    "name": plan.name,
                    "plan": plan.digest,
                    "cell": member.cell,
                    "epoch": str(record.epochs[-1].epoch) if epoch == LAST else epoch,
                    "last": "yes" if epoch == LAST else "no",
                    **{key: str(value) for key, value in member.point.items()},
                }
                found[epoch] = registry.register(
                    folders[epoch],
                    name=member.name,
                    task=plan.task,
                    tags={TAG + key: value for key, value in tags.items()} | {TRAINED: digest},
                    metrics=_scores(record) if epoch == LAST else (),
                    threads=1,
                    origin=f"grow:{plan.name}",
                )
    return [found[epoch] for epoch in wanted], False


def is_there(registry: Registry, task: Task, member: Member) -> bool:
    """Whether all of a member is registered."""
    digest = member.digest(task.name, task.digest(member.train.split))
    return {*map(str, member.keep), LAST} <= _registered(registry, member, digest).keys()


def _registered(registry: Registry, member: Member, digest: str) -> dict[str, Version]:
    """By epoch as text, or `last`."""
    where = f"name = '{member.name}' and tag.{TRAINED} = '{digest}'"
    return {
        LAST if v.tags[TAG + "last"] == "yes" else v.tags[TAG + "epoch"]: v
        for v in registry.select(where, "version")
    }


def _train(
    registry: Registry, member: Member, task: Task, folder: Path
) -> tuple[TrainingRecord, dict[str, Path]]:
    """The record, and the directories to register: by epoch, and `last`."""
    from zoo.networks.modules import built, save_module

    kept = {str(epoch): folder / f"epoch{epoch}" for epoch in member.keep}
    architecture = architecture_of(registry, member.config)

    def keep(epoch: EpochRecord, module: torch.nn.Module) -> None:
        path = kept.get(str(epoch.epoch))
        if path is not None and not path.exists():
            save_module(module, member.config, path)

    module = fresh(lambda: built(architecture, member.config), member.seed)
    record = train(
        module, task, member.train, seed=member.seed, on_epoch=keep, state=folder / STATE
    )
    last = folder / LAST
    if not last.exists():
        save_module(module, member.config, last)
    folders = {**kept, LAST: last}
    around = environment(record.threads, record.device, 0)
    for name, path in folders.items():
        told = record.as_dict(None if name == LAST else int(name))
        text = json.dumps({**told, "environment": around}, indent=2)
        (path / RECORD).write_text(text + "\n")
    return record, folders


def _scores(record: TrainingRecord) -> list[MetricValue]:
    """Loss and accuracy on what it was trained on."""
    protocol = {
        "metric": "training",
        "version": TRAINING,
        "task": record.task,
        "data": record.data,
        "split": record.plan.split,
        "samples": record.examples,
        "seed": record.plan.data_seed,
    }
    found = {"train_loss": record.train_loss, "train_accuracy": record.train_accuracy}
    return [
        MetricValue(name, value, dataset=record.task, protocol=protocol)
        for name, value in found.items()
        if value is not None
    ]


def architecture_of(registry: Registry, config: Mapping[str, Any]) -> Architecture:
    """The architecture that builds a configuration.

    Raises:
        PluginError: no plugin offers it.
    """
    name = str(config["model_type"])
    found = registry.plugins.architecture(name, config)
    if found is None:
        raise PluginError(
            f"No plugin offers the architecture `{name}`.",
            how=did_you_mean(name, sorted(registry.plugins.architectures)),
            architecture=name,
        )
    return found
