"""From a lock and opened models to a plan, with every problem found before a byte is read.

Only headers are looked at. The plan also predicts what the merge will cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from zoo.checkpoints.tied_heads import kept_once, tied_pair
from zoo.compatibility.method import misfits as misfits
from zoo.compatibility.method import unmet
from zoo.compatibility.problem import Problem
from zoo.compatibility.problem import refuse as refuse
from zoo.compatibility.tensors import differences
from zoo.compatibility.wording import listed as listed
from zoo.compatibility.wording import together
from zoo.engine.plan_cost import budget, element_bytes, input_bytes, statistics_of, working_set
from zoo.engine.plan_tasks import tasks_apart, tasks_of
from zoo.engine.planned import APART, BASE, Model, Place, Plan, Task
from zoo.errors import InvalidRecipe, did_you_mean

if TYPE_CHECKING:
    from zoo.contract import Method

__all__ = [
    "APART",
    "BASE",
    "Model",
    "Place",
    "Plan",
    "Task",
    "artifact_digests",
    "element_bytes",
    "listed",
    "misfits",
    "plan",
    "refuse",
    "working_set",
]


def plan(
    method: Method,
    lock: Mapping[str, Any],
    experts: Sequence[Model],
    base: Model | None,
    *,
    memory: int,
    threads: int,
    places: Mapping[str, Place] | None = None,
    notes: Sequence[str] = (),
) -> Plan:
    """Check the models against each other and the method, and lay out the work.

    Args:
        memory: budget in bytes for the whole process.
        places: where the models are views of slices: how each tensor comes about.
    Raises:
        IncompatibleModels: `problems` lists all that is wrong.
        InvalidRecipe: a parameter is out of range for some tensor.
    """
    if threads < 1:
        raise InvalidRecipe(f"A merge runs on at least one thread, not {threads}.", threads=threads)
    told = list(notes)
    problems = unmet(method, lock, experts, base, places)
    if not experts:
        refuse(problems)
    models = [*experts, *([base] if base else [])]
    donor = base or experts[0]
    tied = _tied(donor, models, told)
    excluded = _excluded(lock["exclude"], models, tied, told)
    problems += differences(models, len(experts), excluded, places)
    tasks: list[Task] = []
    if not problems:
        tasks = tasks_of(method, lock, experts, base, excluded, tied, places, told)
    apart = tasks_apart(method, lock, experts, donor, excluded) if tasks else []
    if lost := excluded - donor.checkpoint.tensors.keys() - {t.info.name for t in apart}:
        told.append(f"{listed(sorted(lost))} are excluded, and left out: `{donor.label}` has none")
    cost = budget(method, lock, tasks, models, len(experts), memory, threads)
    if cost.threads == 0:
        problems.append(
            Problem(
                "memory",
                "error",
                f"this merge needs {cost.peak / 2**20:.0f} MiB on one thread, the budget is "
                f"{memory / 2**20:.0f} MiB",
                remedy=f"Pass --memory {-(-cost.peak // 2**20)}MiB.",
            )
        )
    refuse(problems)
    merged = sum(
        input_bytes(t.info.name, models)
        + sum(input_bytes(t.known_as, [e.artifacts[r] for e in experts]) for r in t.artifacts)
        for t in tasks
        if t.source is None
    )
    carried = sum(t.info.nbytes for t in tasks if t.source is not None)
    passes = 1 + len(statistics_of(method, tasks, len(experts)))
    return Plan(
        method=method,
        lock=lock,
        tasks=tuple(tasks),
        passes=passes,
        bytes_read=merged * passes + carried,
        bytes_written=sum(i.nbytes for t in (*tasks, *apart) for i in t.outputs),
        peak_memory=cost.peak,
        threads=cost.threads,
        blocks=cost.blocks,
        largest_working_set=cost.largest,
        notes=tuple(told),
        apart=tuple(apart),
        models={m.digest: m.label for m in reversed(models)},
    )


def _tied(donor: Model, models: Sequence[Model], notes: list[str]) -> dict[str, str]:
    """Tensor -> the one it is: because the donor's configuration says so, or because its file kept
    one for both, and both are alike in every model."""
    pair = tied_pair(donor.checkpoint.opened.config, donor.checkpoint.tensors)
    tied = dict([pair]) if pair else {}
    for name, origin in kept_once(donor.checkpoint).items():
        if other := next((m for m in models if m.digests.get(name) != m.digests.get(origin)), None):
            notes.append(
                f"`{name}` and `{origin}` are one in `{donor.label}`, and two in `{other.label}`: "
                "they are merged apart"
            )
        else:
            tied[name] = origin
    return tied


def _excluded(
    patterns: Sequence[str],
    models: Sequence[Model],
    tied: Mapping[str, str],
    notes: list[str],
) -> set[str]:
    """Tensors that keep the donor's values, by glob patterns; tied ones together.

    Raises:
        InvalidRecipe: a pattern fits no tensor.
    """
    names = sorted({name for model in models for name in model.checkpoint.tensors})
    excluded: set[str] = set()
    for pattern in patterns:
        fits = [n for n in names if fnmatchcase(n, pattern)]
        if not fits:
            raise InvalidRecipe(
                f"`exclude` names `{pattern}`, and no tensor of `{models[-1].label}` fits.",
                how=did_you_mean(pattern, names),
                pattern=pattern,
            )
        excluded.update(fits)
    for origin in sorted(set(tied.values())):
        group = {origin, *(name for name, other in tied.items() if other == origin)}
        if not excluded.isdisjoint(group) and not group <= excluded:
            excluded |= group
            every = "both" if len(group) == 2 else "all"
            notes.append(f"{together(sorted(group))} are tied, and {every} are excluded")
    return excluded


def artifact_digests(method: Method, experts: Sequence[Model]) -> dict[str, list[str | None]]:
    """What the lock keeps of artifacts: by name, the weights digest of each expert's."""
    return {
        role: [e.artifacts[role].digest if role in e.artifacts else None for e in experts]
        for role in method.artifacts
    }
