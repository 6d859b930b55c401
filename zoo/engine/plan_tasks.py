"""The work of a merge, tensor by tensor: what is computed and how, and what is copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from zoo.checkpoint import TensorInfo
from zoo.compatibility.wording import listed
from zoo.dtypes import DTYPES
from zoo.engine.plan_cost import statistics_of
from zoo.engine.planned import APART, BASE, Model, Place, Task
from zoo.errors import InvalidRecipe
from zoo.overlays.overlay import parts_apart, parts_of
from zoo.recipes.recipe import parameters_at
from zoo.recipes.schedule import depths
from zoo.recipes.schedule import layers as blocks_of

if TYPE_CHECKING:
    from zoo.contract import Method


def tasks_of(
    method: Method,
    lock: Mapping[str, Any],
    experts: Sequence[Model],
    base: Model | None,
    excluded: set[str],
    tied: Mapping[str, str],
    places: Mapping[str, Place] | None,
    notes: list[str],
) -> list[Task]:
    """What is done for each tensor of the result.

    Args:
        tied: tensor -> the one it is, and whose values it gets.
    """
    donor = base or experts[0]
    carried_from = BASE if base else 0
    blocks = blocks_of(donor.checkpoint.tensors, donor.checkpoint.opened.config)
    sliced, places = places is not None, places or _places(lock, donor, len(experts))
    settings: dict[str, Any] = {}
    checked: dict[tuple[int, int], str | None] = {}
    tasks = []
    for name, info in donor.checkpoint.tensors.items():
        origin = tied.get(name, name)  # tied tensors take the settings of the one they are tied to
        place = places[origin]
        count = len(place.names)
        some = count if sliced else None
        if not DTYPES[info.dtype].merges:
            kept = TensorInfo(name, info.dtype, info.shape)
            tasks.append(Task(kept, carried_from, experts=some))
            continue
        out = TensorInfo(name, lock["dtype"] or info.written_as or info.dtype, info.shape)
        if name in excluded or not count:
            excludes = name in excluded
            tasks.append(
                Task(out, carried_from, alias_of=tied.get(name), experts=some, excluded=excludes)
            )
            continue
        if sliced and count == 1 < method.min_experts:
            # A slice's only source has nothing to be merged with.
            tasks.append(Task(out, 0, alias_of=tied.get(name), experts=some))
            continue
        values = parameters_at(method, place.parameters, origin, place.depth, place.names)
        # Equal settings share one object, so that a model of a thousand tensors checks a few.
        values = settings.setdefault(values.model_dump_json(), values)
        key = id(values), count
        if key not in checked:
            checked[key] = method.check(values, count) if method.check is not None else None
            if problem := checked[key]:
                raise InvalidRecipe(
                    f"Method `{method.name}` cannot run:", f"{problem}.", method=method.name
                )
        source = method.shortcut(values, count) if method.shortcut else None
        if source == BASE and base is None:
            source = None
        beside = tuple(
            role
            for role in method.artifacts
            if all(origin in e.artifacts[role].checkpoint.tensors for e in experts)
        )
        block = blocks.get(origin)
        tasks.append(
            Task(out, source, values, tied.get(name), block=block, artifacts=beside, experts=some)
        )
    _note_remarks(method, tasks, len(experts), notes)
    _note_buffers(tasks, notes)
    _note_artifacts(method, tasks, notes)
    if method.overlays is None:  # tasks with overlays keep their own
        _note_carried(tasks, [*experts, *([base] if base else [])], donor, notes)
    _check_statistics(method, tasks, len(experts))
    return [replace(t, parts=parts_of(t, method, lock, experts, donor)) for t in tasks]


def _places(lock: Mapping[str, Any], donor: Model, experts: int) -> dict[str, Place]:
    """Where tensors are that no slice moved: every expert has them, under their own names."""
    config = donor.checkpoint.opened.config
    depth = depths(donor.checkpoint.tensors, config, mergekit=lock["compat"] == "mergekit")
    return {n: Place(lock["parameters"], depth[n], (n,) * experts) for n in depth}


def tasks_apart(
    method: Method,
    lock: Mapping[str, Any],
    experts: Sequence[Model],
    donor: Model,
    excluded: set[str],
) -> list[Task]:
    """Tensors that the donor lacks: none but what is excluded, and only tasks have a place for."""
    tasks = []
    for name in sorted(excluded - donor.checkpoint.tensors.keys()):
        if parts := parts_apart(name, method, lock, experts):
            owner = experts[parts[0].expert]
            tasks.append(Task(owner.checkpoint.tensors[name], APART, parts=parts))
    return tasks


def _check_statistics(method: Method, tasks: Sequence[Task], experts: int) -> None:
    """What a statistic of the whole model reads must be the same for all tensors."""
    whole = [s for s in statistics_of(method, tasks, experts) if s.scope == "model"]
    merged = [t for t in tasks if t.source is None]
    if whole and len({t.experts for t in merged}) > 1:
        raise InvalidRecipe(
            f"Method `{method.name}` looks at the whole model at once,",
            "and the slices have different numbers of sources.",
            "Give every slice as many, or choose a per-tensor scope.",
        )
    for name in (name for statistic in whole for name in statistic.reads):
        first = getattr(merged[0].parameters, name)
        if any(getattr(t.parameters, name) != first for t in merged):
            raise InvalidRecipe(
                f"`{name}` of method `{method.name}` varies over tensors,",
                "and is used once for the whole model.",
                "Give it one value, or choose a per-tensor scope.",
                parameter=name,
            )


def _note_remarks(method: Method, tasks: Sequence[Task], experts: int, notes: list[str]) -> None:
    """What the method has to say of single tensors, said once for all it says it of."""
    if method.remark is None:
        return
    names: dict[str, list[str]] = {}
    for task in tasks:
        if task.source is None:
            said = method.remark(task.parameters, task.experts or experts, task.info.shape)
            if said is not None:
                names.setdefault(said, []).append(task.info.name)
    notes += [f"{listed(of)} {said}" for said, of in names.items()]


def _note_buffers(tasks: Sequence[Task], notes: list[str]) -> None:
    running = [t for t in tasks if t.info.name.endswith(("running_mean", "running_var"))]
    if any(t.source is None for t in running):
        notes.append(
            f"{len(running)} BatchNorm statistics were merged like weights; recompute them on data"
        )


def _note_artifacts(method: Method, tasks: Sequence[Task], notes: list[str]) -> None:
    """Frozen parameters have no optimizer state; say which tensors a method merges without."""
    for role in method.artifacts:
        without = [t.info.name for t in tasks if t.source is None and role not in t.artifacts]
        if without:
            notes.append(f"not all experts have `{role}` for {listed(without)}")


def _note_carried(
    tasks: Sequence[Task], models: Sequence[Model], donor: Model, notes: list[str]
) -> None:
    """Tensors that do not merge are taken from one model; say so where the models disagree."""
    differing = [
        t.info.name
        for t in tasks
        if not DTYPES[t.info.dtype].merges and len(_digests(t.info.name, models)) > 1
    ]
    if differing:
        notes.append(
            f"{listed(differing)} do not merge and differ between the models; "
            f"those of `{donor.label}` are kept"
        )


def _digests(name: str, models: Sequence[Model]) -> set[str]:
    """Of a tensor in the models that have it; views of slices need not."""
    return {digest for m in models if (digest := m.digests.get(name)) is not None}
