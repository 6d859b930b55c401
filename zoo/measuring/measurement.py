"""Measure versions: each metric of each version, pair or set, recorded as soon as it is known.

    selection -> sets of versions -> measurements, each with its protocol -> values, recorded

A measurement is one metric of one set under one protocol, and is recorded in one transaction: a
killed run leaves those that were finished, and the next run does the others. One that fails is
told, and the others go on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any

from zoo.engine.single_thread import single_threaded_torch
from zoo.environment import check_device
from zoo.errors import (
    IncompatibleModels,
    InvalidRecipe,
    NotFound,
    PluginError,
    ZooError,
    did_you_mean,
)
from zoo.measuring.chosen import named_or_selected
from zoo.measuring.measurement_cost import Costs
from zoo.measuring.recording import recorded, splits
from zoo.measuring.subjects import subjects
from zoo.metrics import Metric, metrics_named, parameters_of_each
from zoo.progress import NoProgress, Progress
from zoo.records import MetricValue, Version
from zoo.sample import Sample

if TYPE_CHECKING:
    from zoo.registry import Registry
    from zoo.subject import Subject
    from zoo.task import Task


@dataclass(frozen=True, slots=True)
class Measurement:
    """One metric of one set of versions, under one protocol."""

    metric: Metric
    versions: tuple[Version, ...]
    """By weights digest, so that a set is measured alike in whichever order it was named."""
    parameters: Mapping[str, Any]
    """Public name -> value, all of them, defaults too."""
    sample: Sample | None
    """None for a metric of the weights alone."""
    rules: Mapping[str, Any]
    """All that decides the values besides the versions."""
    known: tuple[MetricValue, ...] = ()
    """What is recorded under just these rules, as `Measured.values` tells it; not empty means that
    nothing is to be done."""

    @property
    def refs(self) -> list[str]:
        return [v.ref for v in self.versions]

    def unmeasured(self) -> Measured:
        """What becomes of it, before anything has."""
        task, split = (self.sample.task.name, self.sample.split) if self.sample else ("", "")
        return Measured(self.metric.name, tuple(self.refs), task, split)

    @property
    def examples(self) -> int | None:
        """Examples of the sample; None where there is none, or their number is unknown."""
        if self.sample is None:
            return None
        size = self.sample.task.size(self.sample.split)
        count = self.sample.count
        return size if count is None else count if size is None else min(count, size)

    @property
    def passes(self) -> float:
        """Passes over the sample that it takes at most, each forward and backward."""
        if self.sample is None or self.metric.passes is None:
            return 0
        model = self.metric.parameters(**self.parameters)
        return self.metric.passes(model, len(self.versions))


@dataclass(frozen=True, slots=True)
class Measured:
    """What became of a measurement."""

    metric: str
    versions: tuple[str, ...]
    """References, in the order of their digests."""
    task: str = ""
    """Empty for a metric of the weights alone, and where the failure is that there is none."""
    split: str = ""
    """Of the task."""
    values: tuple[MetricValue, ...] = ()
    """With their protocol; `split` is the part of the model, empty for the whole. Empty where it
    failed, or nothing could be told."""
    was_known: bool = False
    """Whether nothing was computed: the values were there, with the same protocol."""
    seconds: float = 0.0
    error: ZooError | None = None
    """Why there are no values."""

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "metric": self.metric,
            "versions": list(self.versions),
            "task": self.task or None,
            "split": self.split or None,
            "values": [
                {
                    "name": v.name,
                    "part": v.split or None,
                    "value": v.value,
                    "stderr": v.stderr,
                    "protocol": dict(v.protocol),
                }
                for v in self.values
            ],
            "was_known": self.was_known,
            "seconds": round(self.seconds, 3),
            "error": None if self.error is None else str(self.error),
        }


def measure(
    registry: Registry,
    refs: Sequence[str] | None = None,
    *,
    where: str | None = None,
    order_by: str | None = None,
    limit: int | None = None,
    metrics: Sequence[str],
    task: str | None = None,
    split: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    within: Sequence[str] = (),
    samples: int | None = None,
    batch: int = 256,
    seed: int = 0,
    device: str = "cpu",
    force: bool = False,
    progress: Progress | None = None,
) -> list[Measured]:
    """Measure versions, pairs or sets of them, and record the values; see `Registry.measure`."""
    asked = plan(
        registry,
        refs,
        where=where,
        order_by=order_by,
        limit=limit,
        metrics=metrics,
        task=task,
        split=split,
        parameters=parameters,
        within=within,
        samples=samples,
        batch=batch,
        seed=seed,
        device=device,
    )
    costs = Costs(registry)
    done = []
    for one in asked:
        if isinstance(one, Measured):
            done.append(one)
        elif one.known and not force:
            done.append(replace(one.unmeasured(), values=one.known, was_known=True))
        else:
            done.append(_done(registry, one, progress, costs))
    return done


def plan(
    registry: Registry,
    refs: Sequence[str] | None = None,
    *,
    where: str | None = None,
    order_by: str | None = None,
    limit: int | None = None,
    metrics: Sequence[str],
    task: str | None = None,
    split: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    within: Sequence[str] = (),
    samples: int | None = None,
    batch: int = 256,
    seed: int = 0,
    device: str = "cpu",
) -> list[Measurement | Measured]:
    """What `measure` would do, in order; what cannot be measured is there with its error.

    Raises:
        InvalidRecipe, NotFound: of what is asked for, as `Registry.measure` says.
    """
    chosen = metrics_named(registry.plugins.metrics, metrics)
    settings = parameters_of_each(chosen, parameters or {})
    for name, count in (("samples", samples), ("batch", batch)):
        if count is not None and count < 1:
            raise InvalidRecipe(f"`{name}` is {count}.", how="Use 1 or more.", key=name)
    check_device(device)
    versions = named_or_selected(
        registry, refs, where, order_by, limit, "There is nothing to measure."
    )
    tasks = _Tasks(registry)
    if task is not None and any(m.needs == "data" for m in chosen):
        _check_split(tasks.named(task), split)

    def prepared(metric: Metric, members: Sequence[Version]) -> Measurement | Measured:
        members = tuple(sorted(members, key=lambda v: (v.digest, v.id)))
        try:
            _check_bases(metric, members)
            sample = None
            if metric.needs == "data":
                of = tasks.named(task or _common_task(members))
                where_ = split or metric.split
                _check_split(of, where_)
                sample = Sample(of, where_, samples, batch, seed, device)
            rules = {
                "metric": metric.name,
                "version": metric.version,
                "parameters": settings[metric.name],
                **(tasks.examples(sample) if sample else {}),
            }
            known = _known(registry, metric, members, sample, rules)
        except ZooError as error:
            return Measured(metric.name, tuple(v.ref for v in members), error=error)
        return Measurement(metric, members, settings[metric.name], sample, rules, known)

    return [
        prepared(metric, members)
        for metric in chosen
        for members in _sets(metric, versions, within)
    ]


def _sets(
    metric: Metric, versions: Sequence[Version], within: Sequence[str]
) -> Iterator[Sequence[Version]]:
    """The sets a metric is computed on.

    Raises:
        InvalidRecipe: there is none, since too few versions are selected.
    """
    if metric.arity == 1:
        yield from ([v] for v in versions)
        return
    alike: dict[tuple[str | None, ...], list[Version]] = {}
    for version in versions:
        alike.setdefault(tuple(_said(version, key) for key in within), []).append(version)
    least = metric.arity or 2
    enough = [group for group in alike.values() if len(group) >= least]
    if not enough:
        agree = f" that agree in {', '.join(f'`{k}`' for k in within)}" if within else ""
        raise InvalidRecipe(
            f"Metric `{metric.name}` takes {least}{'' if metric.arity else ' or more'} versions"
            f"{agree}, and {max(map(len, alike.values()))} "
            f"{'is' if len(versions) == 1 else 'are'} selected.",
            how="Name more, or widen the query.",
            metric=metric.name,
        )
    for group in enough:
        if metric.arity is None:
            yield group
        else:
            yield from combinations(group, metric.arity)


_COLUMNS = ("name", "kind", "base", "task", "phase", "architecture")


def _said(version: Version, key: str) -> str | None:
    """What a version says of itself under a tag, or a column."""
    value = getattr(version, key) if key in _COLUMNS else version.tags.get(key)
    return None if value is None else str(value)


class _Tasks:
    """Tasks by name, each looked up once."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._found: dict[str, Task] = {}
        self._examples: dict[tuple[str, str], Mapping[str, Any]] = {}

    def named(self, name: str) -> Task:
        from zoo.tasks.known import task_named

        if name not in self._found:
            self._found[name] = task_named(self._registry, name)
        return self._found[name]

    def examples(self, sample: Sample) -> Mapping[str, Any]:
        """The sample's protocol, made once for each split, since data are hashed for it."""
        key = sample.task.name, sample.split
        if key not in self._examples:
            self._examples[key] = sample.protocol
        return self._examples[key]


def _common_task(versions: Sequence[Version]) -> str:
    """The task that versions were made for.

    Raises:
        InvalidRecipe: one has none, or they have different ones.
    """
    names = {v.task for v in versions}
    if len(names) == 1 and (name := names.pop()) is not None:
        return name
    said = ", ".join(f"`{v.ref}`: {v.task or 'none'}" for v in versions[:6])
    raise InvalidRecipe(
        f"The task to measure on is not known ({said}).",
        "It is the task of the versions, where they agree on one.",
        "Name it with --task; or say what a version is for: `zoo annotate REF --task T`.",
        versions=[v.ref for v in versions],
    )


def _check_split(task: Task, split: str | None) -> None:
    if split is not None and split not in task.splits:
        raise NotFound(
            f"Task `{task.name}` has no split `{split}`.",
            how=did_you_mean(split, list(task.splits)),
            task=task.name,
            split=split,
        )


def _check_bases(metric: Metric, versions: Sequence[Version]) -> None:
    alone = [v.ref for v in versions if v.base is None] if metric.base else []
    if alone:
        raise IncompatibleModels(
            f"Metric `{metric.name}` needs the base of `{alone[0]}`, and the registry knows none.",
            "It looks at what fine-tuning changed.",
            "Register the expert again with its base: `zoo register ... --base REF`.",
            problems=[f"`{ref}` has no base" for ref in alone],
            metric=metric.name,
        )


def _known(
    registry: Registry,
    metric: Metric,
    versions: Sequence[Version],
    sample: Sample | None,
    rules: Mapping[str, Any],
) -> tuple[MetricValue, ...]:
    """What is recorded under just these rules; nothing where some was replaced since.

    Values of the whole decide, where there are any: those of a part may be left over from other
    rules, such as the fifth of five layers where now there are four.
    """
    wanted = json.loads(json.dumps(rules))
    rows = _recorded(registry, [v.id for v in versions])
    own = _parts((v for v in rows if v.protocol.get("metric") == metric.name), metric, sample)

    def fits(value: MetricValue) -> bool:
        return all(value.protocol.get(key) == wanted[key] for key in wanted)

    decisive = [v for v in own if not v.split] or own
    if not all(fits(v) for v in decisive):
        return ()
    return tuple(v for v in own if fits(v))


def _parts(rows: Iterable[MetricValue], metric: Metric, sample: Sample | None) -> list[MetricValue]:
    """The values among those of a set that are about this sample, each with its part as split."""
    if sample is None:
        return list(rows)
    place = splits(False, sample, metric.split, "")[0]
    return [
        replace(v, split=v.split[len(place) + 1 :])
        for v in rows
        if v.split == place or v.split.startswith(f"{place}/")
    ]


def _recorded(registry: Registry, ids: Sequence[int]) -> list[MetricValue]:
    if len(ids) == 1:
        return registry.catalog.measured(ids[0])
    fields = ("name", "value", "split", "dataset", "protocol", "stderr", "environment", "tool")
    return [
        MetricValue(**{key: row[key] for key in fields})
        for row in registry.catalog.group_metrics(ids)
    ]


def _done(
    registry: Registry, asked: Measurement, progress: Progress | None, costs: Costs
) -> Measured:
    """Compute and record one measurement; a failure is told in what is returned."""
    done = asked.unmeasured()
    began = time.perf_counter()
    watched = progress or NoProgress()
    try:
        label = f"{asked.metric.name} of {', '.join(asked.refs)}"
        # Under a second the guess would be longer than the work.
        if progress is not None and (seconds := costs.seconds(asked) or 0) >= 1:
            label += f", at most about {seconds:.2g} s"
        watched.start(round((asked.examples or 0) * asked.passes), label)
        with ExitStack() as stack:
            models = subjects(registry, asked.refs, stack, bases=asked.metric.base)
            sample = asked.sample and replace(asked.sample, progress=watched)
            if sample is not None:
                models = [_of_task(registry, model, sample.task.name) for model in models]
            found = compute(asked.metric, models, sample, asked.parameters)
            rows = recorded(found, models, sample, asked.metric.split, asked.rules)
        _record(registry, asked.versions, rows)
    except ZooError as error:
        return replace(done, error=error, seconds=time.perf_counter() - began)
    finally:
        watched.done()
    values = tuple(_parts(rows, asked.metric, asked.sample))
    return replace(done, values=values, seconds=time.perf_counter() - began)


def _of_task(registry: Registry, model: Subject, task: str) -> Subject:
    """A model that keeps an overlay for a task, as its model of that task; others as they are."""
    from zoo.overlays.overlay import is_overlay, task_names, task_of

    (name,) = task_names([task])
    files = registry.catalog.files(model.version.id) if model.version else []
    if name not in [task_of(f.path) for f in files if is_overlay(f.path)]:
        return model
    return replace(model, make=partial(registry.load, model.label, task=name))


def compute(
    metric: Metric,
    models: Sequence[Any],
    sample: Sample | None,
    parameters: Mapping[str, Any],
) -> list[MetricValue]:
    """The values of a metric, the same for any number of threads; what it draws from torch's own
    generators is fixed by the seed.

    Raises:
        ZooError: as the metric raises.
        PluginError: it failed otherwise, or gave a value that it does not announce.
    """
    import torch

    options = dict(metric.parameters(**parameters))
    first = models[0] if metric.arity == 1 else models
    arguments = (first,) if sample is None else (first, sample)
    labels = ", ".join(f"`{m.label}`" for m in models)
    try:
        with torch.random.fork_rng(devices=[]), single_threaded_torch():
            torch.manual_seed(sample.seed if sample else 0)
            found = list(metric.function(*arguments, **options))
    except ZooError:
        raise
    except Exception as error:
        raise PluginError(
            f"Metric `{metric.name}` failed on {labels}:",
            f"{type(error).__name__}: {error}".rstrip(": .") + ".",
            f"Does the model take the inputs of `{sample.task.name}`? `zoo evaluate` tells."
            if sample
            else "",
            metric=metric.name,
        ) from error
    for value in found:
        if value.name not in metric.gives:
            raise PluginError(
                f"Metric `{metric.name}` gave a value `{value.name}` that it does not announce.",
                how=f"Name it in `gives`, beside {', '.join(f'`{n}`' for n in metric.gives)}.",
                metric=metric.name,
            )
    return found


def _record(registry: Registry, versions: Sequence[Version], values: Sequence[MetricValue]) -> None:
    """Keep the values of one measurement, all or none."""
    if not values:
        return
    if len(versions) == 1:
        registry.catalog.annotate(versions[0].id, metrics=values)
    else:
        registry.catalog.record_group_metrics([v.id for v in versions], values)
