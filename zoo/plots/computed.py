"""Numbers of pictures that models are run for: losses on lines and planes between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from zoo.errors import IncompatibleModels, InvalidRecipe
from zoo.plots.barrier import Line
from zoo.plots.coefficients import MEAN, Sweep, Sweeps
from zoo.plots.loss_surface import Point, Surface
from zoo.progress import NoProgress, Progress
from zoo.sample import Sample

if TYPE_CHECKING:
    import torch

    from zoo.registry import Registry
    from zoo.subject import Subject

    State = dict[str, torch.Tensor]

Quantity = Literal["loss", "error", "accuracy"]


@dataclass(frozen=True, slots=True)
class Examples:
    """Which examples of each task, and where models are run."""

    registry: Registry
    split: str = "test"
    samples: int | None = None
    batch: int = 256
    seed: int = 0
    device: str = "cpu"
    progress: Progress | None = None

    def of(self, task: str) -> Sample:
        """The sample of a task.

        Raises:
            NotFound: an unknown task.
            InvalidRecipe: it has no such split.
        """
        from zoo.tasks.known import task_named

        found = task_named(self.registry, task)
        if self.split not in found.splits:
            raise InvalidRecipe(
                f"Task `{task}` has no split `{self.split}`.",
                how=f"It has {', '.join(f'`{s}`' for s in found.splits)}.",
                task=task,
                split=self.split,
            )
        return Sample(
            found,
            self.split,
            self.samples,
            self.batch,
            self.seed,
            self.device,
            self.progress or NoProgress(),
        )


def lines_between(
    refs: Sequence[str], examples: Examples, *, task: str | None = None, points: int = 11
) -> list[Line]:
    """Loss and error along the straight line between each two models.

    Args:
        refs: references or paths, two or more.
        task: the models' own by default, where they have the same.
        points: on each line, both ends among them.
    Raises:
        InvalidRecipe: fewer than two models or points, or the task is not known.
        IncompatibleModels: tensors differ in name or shape.
        NotFound, PluginError
    Cost: `points` passes over the sample for each pair, forward only.
    Source: Frankle et al. 2020, arXiv:1912.05671, section 2.
    """
    from zoo.paths.profile import even_positions, line, norm_sample
    from zoo.paths.states import opened_ends

    if len(refs) < 2 or points < 3:
        raise InvalidRecipe(
            f"{len(refs)} models with {points} points make no line.",
            how="Name two models or more, and three points or more.",
        )
    with _opened(examples, refs) as models:
        sample = examples.of(task or _common_task(models))
        module, states = opened_ends(models, examples.device)
        pairs = list(combinations(range(len(models)), 2))
        found = []
        with _counted(sample, points * len(pairs), "between " + ", ".join(refs)):
            for a, b in pairs:
                ends = (states[a], states[b])
                at = even_positions(points)
                profile = line(module, ends, at, sample, norm_sample(sample))
                found.append(
                    Line(models[a].label, models[b].label, at, profile.loss, profile.error)
                )
    return found


def surface_of(
    first: str,
    second: str,
    examples: Examples,
    *,
    tasks: Sequence[str] = (),
    merges: Sequence[str] = (),
    low: float = -0.25,
    high: float = 1.25,
    points: int = 13,
    quantity: Quantity = "loss",
    own_heads: bool = False,
) -> Surface:
    """Mean loss over tasks of the models base + x * delta(first) + y * delta(second).

    Args:
        tasks: those of the two experts by default.
        merges: models to mark in the plane, each where its own delta is projected on the two.
        low, high: of both coefficients.
        points: on each side.
        own_heads: take for each task the head of the expert that was made for it.
    Raises:
        InvalidRecipe: the experts have no common base, or their tasks are not known.
        IncompatibleModels: tensors differ in name or shape.
        NotFound, PluginError
    Cost: `points`**2 passes over the sample of each task, forward only.
    Source: Li et al. 2018, arXiv:1712.09913, section 3 (surfaces along two directions); Ilharco et
        al. 2023, arXiv:2212.04089 (task vectors as the directions).
    """
    if points < 2 or not low < high:
        raise InvalidRecipe(f"{points} points from {low} to {high} make no surface.")
    grid = [low + (high - low) * i / (points - 1) for i in range(points)]
    with _opened(examples, [first, second, *merges]) as models:
        experts, others = models[:2], models[2:]
        base = _common_base(experts)
        places = [(x, y) for y in grid for x in grid]
        each = _measured(
            base, experts, _tasks(experts, tasks), examples, places, quantity, own_heads
        )
        values = [fmean(row) for row in zip(*each.values(), strict=True)]
        named = [Point("base", 0, 0), Point(experts[0].label, 1, 0), Point(experts[1].label, 0, 1)]
        named += [Point(m.label, *_projected(base, experts, m)) for m in others]
        if not others:
            named.append(Point("mean", 0.5, 0.5))
    rows = [values[i : i + points] for i in range(0, len(values), points)]
    return Surface(
        experts[0].label, experts[1].label, grid, grid, rows, _said(quantity, len(each)), named
    )


def sweep_of(
    refs: Sequence[str],
    examples: Examples,
    *,
    tasks: Sequence[str] = (),
    low: float = 0.0,
    high: float = 1.0,
    points: int = 11,
    quantity: Quantity = "accuracy",
    own_heads: bool = False,
) -> Sweeps:
    """A score of the models base + c * (sum of the experts' deltas), for each task and in the mean.

    Args:
        refs: experts of one base; one or more.
        tasks: those of the experts by default.
        low, high: of the coefficient c, which `task_arithmetic` calls lambda.
        own_heads: take for each task the head of the expert that was made for it.
    Raises:
        as `surface_of`.
    Cost: `points` passes over the sample of each task, forward only.
    """
    if points < 2 or not low < high:
        raise InvalidRecipe(f"{points} points from {low} to {high} make no curve.")
    at = [low + (high - low) * i / (points - 1) for i in range(points)]
    with _opened(examples, refs) as experts:
        base = _common_base(experts)
        places = [(c,) * len(experts) for c in at]
        names = _tasks(experts, tasks)
        each = _measured(base, experts, names, examples, places, quantity, own_heads)
    curves = [Sweep(task, at, values) for task, values in each.items()]
    if len(curves) > 1:
        curves.append(Sweep(MEAN, at, [fmean(row) for row in zip(*each.values(), strict=True)]))
    return Sweeps(quantity, "lambda", curves, {}, quantity == "accuracy")


def _measured(
    base: Subject,
    experts: Sequence[Subject],
    tasks: Sequence[str],
    examples: Examples,
    places: Sequence[Sequence[float]],
    quantity: Quantity,
    own_heads: bool,
) -> dict[str, list[float]]:
    """For each task the quantity of base + sum_i place_i * (expert_i - base), at each place."""
    from zoo.paths.profile import along, norm_sample
    from zoo.paths.states import mixed, opened_ends

    models = [base, *experts]
    module, states = (None, []) if own_heads else opened_ends(models, examples.device)
    kept: State = {}
    found: dict[str, list[float]] = {}
    for task in tasks:
        sample = examples.of(task)
        if own_heads:
            module, states, kept = _with_head(models, _host(experts, task), examples.device)
        assert module is not None, "it is made above or for the task"

        def at(
            i: float, states: Sequence[State] = states, kept: State = kept
        ) -> dict[str, torch.Tensor]:
            place = places[int(i)]
            return {**mixed(states, (1 - sum(place), *place)), **kept}

        with _counted(sample, len(places), f"{quantity} on {task}"):
            profile = along(module, at, range(len(places)), sample, norm_sample(sample))
        if quantity == "loss":
            found[task] = list(profile.loss)
        elif profile.error is None:
            raise InvalidRecipe(
                f"Task `{task}` has no labels, so there is no {quantity} on it.",
                how="Draw the loss.",
                task=task,
            )
        else:
            found[task] = [e if quantity == "error" else 1 - e for e in profile.error]
    return found


def _with_head(
    models: Sequence[Subject], host: Subject, device: str
) -> tuple[torch.nn.Module, list[State], State]:
    """A module with an expert's head, the tensors of each model but for the head, and the head.

    Raises:
        IncompatibleModels: a tensor that the module needs is not there, or has another shape.
    """
    module = host.module(device)
    own = module.state_dict()
    names = _head_names(host, own)
    trunks = []
    for model in models:
        state = model.module(device).state_dict()
        problems = [
            f"`{name}`"
            for name, t in own.items()
            if name not in names and (name not in state or state[name].shape != t.shape)
        ]
        if problems:
            raise IncompatibleModels(
                f"`{host.label}` and `{model.label}` lie in no common plane: {len(problems)} "
                f"tensors differ in name or shape, {', '.join(problems[:6])}.",
                how="Choose models of one architecture and size.",
                problems=problems,
            )
        trunks.append({k: state[k] for k in own if k not in names})
    return module, trunks, {k: own[k].clone() for k in names}


def _host(experts: Sequence[Subject], task: str) -> Subject:
    """The expert that was made for a task."""
    for expert in experts:
        if expert.version is not None and expert.version.task == task:
            return expert
    raise InvalidRecipe(
        f"None of the experts was made for task `{task}`, so there is no head of its own.",
        how="Leave out --own-heads, or name an expert of the task.",
        task=task,
    )


def _head_names(expert: Subject, state: State) -> frozenset[str]:
    name = expert.architecture.head(expert.config) if expert.architecture else None
    found = frozenset(k for k in state if name and k.startswith(f"{name}."))
    if not found:
        raise InvalidRecipe(
            f"The architecture of `{expert.label}` does not say what its head is.",
            how="Leave out --own-heads.",
        )
    return found


def _projected(base: Subject, experts: Sequence[Subject], model: Subject) -> tuple[float, float]:
    """Coefficients x, y for which base + x * delta_1 + y * delta_2 comes nearest to a model."""
    import torch

    origin, states = base.state(), [m.state() for m in (*experts, model)]
    gram = torch.zeros(3, 3, dtype=torch.float64)
    for name, start in origin.items():
        if not start.is_floating_point() or any(s[name].shape != start.shape for s in states):
            continue
        deltas = torch.stack([(s[name].double() - start.double()).flatten() for s in states])
        gram += deltas @ deltas.T
    solved = torch.linalg.lstsq(gram[:2, :2], gram[:2, 2:]).solution
    return float(solved[0]), float(solved[1])


def _tasks(experts: Sequence[Subject], tasks: Sequence[str]) -> list[str]:
    found = list(tasks) or [m.version.task for m in experts if m.version and m.version.task]
    if not found:
        raise _unknown_task(experts)
    return list(dict.fromkeys(found))


def _common_task(models: Sequence[Subject]) -> str:
    names = {m.version.task if m.version else None for m in models}
    if len(names) == 1 and (name := names.pop()):
        return name
    raise _unknown_task(models)


def _unknown_task(models: Sequence[Subject]) -> InvalidRecipe:
    said = ", ".join(
        f"`{m.label}`: {(m.version.task if m.version else None) or 'none'}" for m in models
    )
    return InvalidRecipe(
        f"It is not known which task to run these models on ({said}).", how="Name it: --task NAME"
    )


def _common_base(experts: Sequence[Subject]) -> Subject:
    bases = {m.base.digest: m.base for m in experts if m.base is not None}
    if len(bases) == 1 and all(m.base is not None for m in experts):
        return bases.popitem()[1]
    said = ", ".join(f"`{m.label}`: {m.base.label if m.base else 'none'}" for m in experts)
    raise InvalidRecipe(
        f"These models have no common base ({said}).",
        "Their deltas start from it.",
        "Register them with it, `zoo register ... --base REF`; or draw the line between them: "
        "zoo plot barrier REF REF",
    )


def _said(quantity: Quantity, tasks: int) -> str:
    name = {"loss": "loss (nats)", "error": "error (share)", "accuracy": "accuracy"}[quantity]
    return name if tasks == 1 else f"{name}, mean of {tasks} tasks"


@contextmanager
def _opened(examples: Examples, refs: Sequence[str]) -> Iterator[list[Subject]]:
    from zoo.engine.single_thread import single_threaded_torch
    from zoo.measuring.subjects import subjects

    with ExitStack() as stack, single_threaded_torch():
        yield subjects(examples.registry, refs, stack)


@contextmanager
def _counted(sample: Sample, passes: int, label: str) -> Iterator[None]:
    size = sample.task.size(sample.split) or 0
    each = size if sample.count is None else min(size, sample.count)
    sample.progress.start(each * passes, label)
    try:
        yield
    finally:
        sample.progress.done()
