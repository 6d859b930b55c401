"""Runs models on tasks and keeps their scores, each (version, task) whole or not at all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import IncompatibleModels, InvalidCheckpoint, InvalidRecipe, NotFound, ZooError
from zoo.measuring.chosen import is_query, selected
from zoo.overlays.expert_heads import Heads, take_head
from zoo.progress import NoProgress, Progress
from zoo.records import MetricValue
from zoo.sample import Sample

if TYPE_CHECKING:
    import torch

    from zoo.records import Version
    from zoo.registry import Registry
    from zoo.subject import Subject
    from zoo.task import Task

METRIC, METRIC_VERSION = "scores", "1.0.0"
"""What the protocol of a score says it is."""
USUAL = "test"
"""The split that scores are meant for."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One model on one task."""

    label: str
    """The model's reference or path, as messages call it."""
    task: str
    """Empty where the failure is that there is none."""
    split: str
    version: Version | None
    """With what is recorded now; None for a path, of which nothing is recorded."""
    values: tuple[MetricValue, ...] = ()
    """The scores; `split` is the part, empty for the whole."""
    was_known: bool = False
    """Whether it was not run: the scores were recorded, with the same protocol."""
    error: ZooError | None = None

    def scores(self) -> dict[str, float]:
        """The scores of the whole, by name."""
        return {v.name: v.value for v in self.values if not v.split}

    def as_dict(self) -> dict[str, Any]:
        """Plain data; the parts, such as classes, apart from the whole."""
        parts: dict[str, dict[str, float]] = {}
        for value in self.values:
            if value.split:
                parts.setdefault(value.name, {})[value.split] = value.value
        return {
            "model": self.label,
            "task": self.task,
            "split": self.split,
            "scores": self.scores(),
            "stderr": {
                v.name: v.stderr for v in self.values if not v.split and v.stderr is not None
            },
            "parts": parts,
            "was_known": self.was_known,
            "recorded": self.version is not None and self.error is None,
            "error": str(self.error) if self.error else None,
        }


def evaluate(
    registry: Registry,
    refs: Iterable[str] | None = None,
    *,
    where: str | None = None,
    order_by: str | None = None,
    limit: int | None = None,
    tasks: Sequence[str] | None = None,
    heads_from: Sequence[str] = (),
    split: str = USUAL,
    samples: int | None = None,
    batch: int = 256,
    seed: int = 0,
    device: str = "cpu",
    force: bool = False,
    progress: Progress | None = None,
) -> list[Evaluated]:
    """Score models on tasks. What is recorded already with the same protocol is not run again.

    A version's scores on a task are recorded together when all are known. A failure concerns its
    own model and task, and is told in the result; the others go on.

    Args:
        refs: references or paths; or else `where`, `order_by`, `limit` select versions.
        tasks: names; by default each version's own, or those it keeps overlays for. A version
            with an overlay for a task is scored as its model of that task.
        heads_from: experts whose heads replace the model's, each for the task it was made for; a
            merge of experts with heads of their own is scored so. One alone serves all tasks.
        samples: examples drawn by the seed; None for all.
        batch: examples at a time.
        force: run again what is recorded.
    Returns:
        One for each model and task, in order.
    Raises:
        NotFound: an unknown task, or a head's expert that is not there.
        InvalidRecipe: nothing is asked for, or what is asked contradicts itself.
    """
    from zoo.engine.single_thread import single_threaded_torch
    from zoo.environment import check_device

    if (samples is not None and samples < 1) or batch < 1:
        raise InvalidRecipe(f"{samples} examples in batches of {batch}: both must be 1 or more.")
    check_device(device)
    tasks = list(dict.fromkeys(tasks)) if tasks else None
    asked = _asked(registry, refs, where, order_by, limit)
    samples_of = _Samples(registry, split, samples, batch, seed, device, progress or NoProgress())
    for name in tasks or ():
        samples_of.get(name)
    with ExitStack() as stack, single_threaded_torch():
        heads = Heads(registry, heads_from, tasks, stack)
        return [
            one
            for ref in asked
            for one in _evaluated(registry, ref, tasks, samples_of, heads, force)
        ]


def _asked(
    registry: Registry,
    refs: Iterable[str] | None,
    where: str | None,
    order_by: str | None,
    limit: int | None,
) -> list[str]:
    """The models to run, by reference or path."""
    selecting = is_query(where, order_by, limit)
    if refs is not None:
        listed = [str(ref) for ref in refs]
        if selecting or not listed:
            raise InvalidRecipe("Name the models, or select them by a query; one of the two.")
        return listed
    if not selecting:
        raise InvalidRecipe("Name the models, or select them by a query; one of the two.")
    nothing = "There is nothing to evaluate."
    return [v.ref for v in selected(registry, where, order_by, limit, nothing)]


class _Samples:
    """The sample of each task, and what says which it is; made once, since data are hashed."""

    def __init__(
        self,
        registry: Registry,
        split: str,
        count: int | None,
        batch: int,
        seed: int,
        device: str,
        progress: Progress,
    ) -> None:
        self.split = split
        self.device = device
        self._registry = registry
        self._fixed: dict[str, Any] = {
            "split": split,
            "count": count,
            "batch": batch,
            "seed": seed,
            "device": device,
            "progress": progress,
        }
        self._found: dict[str, tuple[Sample, Mapping[str, Any]]] = {}

    def get(self, name: str) -> tuple[Sample, Mapping[str, Any]]:
        """The sample of a task and its protocol.

        Raises:
            NotFound: there is no such task, or it has no such split.
        """
        from zoo.tasks.known import task_named

        if name not in self._found:
            task = task_named(self._registry, name)
            _check_split(task, self.split)
            sample = Sample(task, **self._fixed)
            self._found[name] = sample, sample.protocol
        return self._found[name]


def _check_split(task: Task, split: str) -> None:
    from zoo.errors import did_you_mean

    if split not in task.splits:
        raise NotFound(
            f"Task `{task.name}` has no split `{split}`.",
            how=did_you_mean(split, list(task.splits)),
            task=task.name,
            split=split,
        )


def _evaluated(
    registry: Registry,
    ref: str,
    tasks: Sequence[str] | None,
    samples: _Samples,
    heads: Heads,
    force: bool,
) -> Iterator[Evaluated]:
    """One model on its tasks."""
    from zoo.measuring.subjects import subjects

    with ExitStack() as stack:
        try:
            (model,) = subjects(registry, [ref], stack, bases=False)
            overlays = _overlays(registry, model)
            named = tasks or _own_tasks(model, overlays)
        except ZooError as error:
            yield Evaluated(ref, "", samples.split, None, error=error)
            return
        for name in named:
            head = heads.of(name)
            try:
                sample, examples = samples.get(name)
                yield _one(registry, model, overlays, sample, examples, head, force)
            except ZooError as error:
                yield Evaluated(model.label, name, samples.split, model.version, error=error)


def _one(
    registry: Registry,
    model: Subject,
    overlays: Sequence[str],
    sample: Sample,
    examples: Mapping[str, Any],
    head: Subject | None,
    force: bool,
) -> Evaluated:
    """One model on one task: known, or run and recorded."""
    from zoo.measuring.recording import recorded, splits

    rules = {
        "metric": METRIC,
        "version": METRIC_VERSION,
        "parameters": {"head": head.digest} if head else {},
        **examples,
    }
    own = model.version is not None and model.version.task == sample.task.name
    made = Evaluated(model.label, sample.task.name, sample.split, model.version)
    if model.version is not None and not force:
        kept = registry.catalog.measured(model.version.id)
        if (known := _known(kept, splits(own, sample, USUAL, ""), rules)) is not None:
            return replace(made, values=tuple(known), was_known=True)
    module = _module(registry, model, overlays, sample, head)
    values = _run(module, model.label, sample)
    if model.version is not None:
        rows = recorded(values, [model], sample, USUAL, rules)
        version = registry.catalog.annotate(model.version.id, metrics=rows)
        made = replace(made, version=version)
    return replace(made, values=tuple(values))


def _known(
    kept: Iterable[MetricValue], places: Sequence[str], rules: Mapping[str, Any]
) -> list[MetricValue] | None:
    """What was recorded by these rules; None where it was not, or was replaced since.

    The values of the whole decide: values of parts may be left over from other rules, such as the
    accuracy of a class that a smaller sample has no examples of.

    Args:
        places: splits that the scores of the whole are kept under, the task's the last. The bare
            one is missing where the version was given its task after it was scored on it.
    """
    place = places[-1]
    scores = [v for v in kept if v.protocol.get("metric") == rules["metric"]]
    right = [v for v in scores if all(v.protocol.get(k) == x for k, x in rules.items())]
    whole = [v for v in scores if v.split == place]
    parts = [v for v in scores if v.split.startswith(f"{place}/")]
    decisive = whole or parts
    if not decisive or any(v not in right for v in decisive):
        return None
    if whole and any(p not in {v.split for v in right} for p in places):
        return None
    return [replace(v, split=v.split[len(place) + 1 :]) for v in (*whole, *parts) if v in right]


def _own_tasks(model: Subject, overlays: Sequence[str]) -> list[str]:
    """What a model is made for.

    Raises:
        InvalidRecipe: nobody said.
    """
    if model.version is not None and model.version.task is not None:
        return [model.version.task]
    if overlays:
        return list(overlays)
    raise InvalidRecipe(
        f"`{model.label}` has no task of its own.",
        how="Name tasks: `--task NAME`, in Python `tasks=[...]`.",
        model=model.label,
    )


def _overlays(registry: Registry, model: Subject) -> list[str]:
    """The tasks that a model keeps overlays for, as its directory names them."""
    from zoo.overlays.overlay import files_below, is_overlay, task_of

    if model.version is not None:
        files = [f.path for f in registry.catalog.files(model.version.id)]
    else:
        files = files_below(Path(model.label))
    return [task_of(f) for f in files if is_overlay(f)]


def _module(
    registry: Registry,
    model: Subject,
    overlays: Sequence[str],
    sample: Sample,
    head: Subject | None,
) -> torch.nn.Module:
    """What is run: the model, or its model of the task, with the head asked for.

    Raises:
        InvalidCheckpoint: what builds it fails, other than by a `ZooError`.
    """
    from zoo.overlays.overlay import task_names

    (file,) = task_names([sample.task.name])
    try:
        if file in overlays:
            module = registry.load(model.label, task=file).float().to(sample.device)
        else:
            module = model.module(sample.device)
        if head is not None:
            take_head(module, model, head, sample.device)
    except ZooError:
        raise
    except Exception as error:  # plugins build it, and may raise anything
        raise InvalidCheckpoint(
            f"`{model.label}` cannot be loaded:", _said(error), "Mend its files or its plugin."
        ) from error
    return module.eval()


def _run(module: torch.nn.Module, label: str, sample: Sample) -> list[MetricValue]:
    """The scores that are numbers.

    Raises:
        IncompatibleModels: the module cannot take the task's inputs.
    """
    import torch

    task = sample.task
    size = task.size(sample.split)
    counts = [n for n in (size, sample.count) if n is not None]
    sample.progress.start(min(counts, default=0), f"{label} on {task.name}")
    try:
        with torch.no_grad():
            values = task.evaluate(module, sample)
    except ZooError:
        raise
    except Exception as error:  # plugins run it, and may raise anything
        raise IncompatibleModels(
            f"`{label}` cannot be run on task `{task.name}`:",
            f"{_said(error).rstrip('.')}.",
            "Its inputs must be such as the task gives.",
            task=task.name,
        ) from error
    finally:
        sample.progress.done()
    return [v for v in values if math.isfinite(v.value)]


def _said(error: Exception) -> str:
    """The first line of what another library says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
