"""From a lock and opened models to tasks, with every problem found before a byte is read.

Only headers are looked at. The plan also predicts what the merge will cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from zoo.checkpoint import Checkpoint, TensorInfo
from zoo.contract import Chunk, chunk_length
from zoo.dtypes import DTYPES
from zoo.errors import IncompatibleModels, InvalidRecipe, did_you_mean
from zoo.overlays import Part, parts_apart, parts_of
from zoo.quantization import quantization_of
from zoo.recipe import parameters_at
from zoo.schedule import depths
from zoo.schedule import layers as blocks_of
from zoo.tied_heads import tied_pair
from zoo.vocabulary import remedy

if TYPE_CHECKING:
    import torch

    from zoo.contract import Method, Statistic

BASE = -1
"""Index of the base among the models, where experts are 0, 1, ..."""
APART = -2
"""The source of a tensor that the result lacks, and that some tasks keep in their overlays."""
MOST_NAMED = 8
"""Tensors a problem lists by name; it counts the rest."""
RUNTIME_BYTES = 300 << 20
"""Resident memory of Python with torch and the registry loaded; part of every prediction."""
MOST_BLOCKS = 4
"""Chunks read at a time at most: larger reads gain nothing."""
HELD_BLOCKS = 48
"""The same where each tensor is read several times over: one that fits is read once."""
BYTES_PER_SECOND = 1.5e9
"""What one pass over cached inputs moves on two cores, roughly; for the prediction only."""


@dataclass(frozen=True, slots=True)
class Model:
    """One input, opened."""

    label: str
    """Reference or path, for messages."""
    digest: str
    """Weights digest."""
    checkpoint: Checkpoint
    module: Callable[[], torch.nn.Module] | None = None
    """Builds the runnable module; None where no plugin knows the architecture."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Tensor digests by name."""
    artifacts: Mapping[str, Model] = field(default_factory=dict)
    """What lies beside it, by name: tensors called and shaped like its own."""


@dataclass(frozen=True, slots=True)
class Place:
    """How one tensor comes about in a result made of slices."""

    parameters: Mapping[str, Any]
    """The lock's, of its slice."""
    depth: float
    """In its slice, from 0 to 1."""
    names: tuple[str, ...]
    """What each expert calls it; as many as are merged."""


@dataclass(frozen=True, slots=True)
class Task:
    """One tensor of the output."""

    info: TensorInfo
    """Name, type and shape as they will be written."""
    source: int | None
    """Index of the model whose tensor it is, or None when the method computes it."""
    parameters: Any = None
    """The method's parameters for this tensor."""
    alias_of: str | None = None
    """The tensor this one is tied to: it is merged alike, and counted once in statistics."""
    excluded: bool = False
    """Whether the recipe keeps it out of the merge: whatever is in it is then copied."""
    block: tuple[int, int] | None = None
    """(layer, layers of its stack), for a tensor of a block."""
    parts: tuple[Part, ...] = ()
    """What the tasks' overlays get of it."""
    artifacts: tuple[str, ...] = ()
    """Those of the method's artifacts that all experts have for this tensor."""
    experts: int | None = None
    """How many of the experts are merged, the first ones: slices may differ. None is all."""

    @property
    def known_as(self) -> str:
        """The name that statistics, chunks and randomness go by: tied tensors share one."""
        return self.alias_of or self.info.name

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """All tensors that come of it; it is finished when they are."""
        own = () if self.source == APART else (self.info,)
        return (*own, *(p.info for p in self.parts))

    @property
    def whole(self) -> Chunk:
        """The tensor as one chunk."""
        layer, layers = self.block or (None, 0)
        n = self.info.elements
        return Chunk(self.known_as, self.info.shape, 0, n, 0, 1, layer, layers)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything the engine needs, and what it will cost."""

    method: Method
    lock: Mapping[str, Any]
    tasks: tuple[Task, ...]
    """Tensor names ascending."""
    passes: int
    """Times the merged tensors are read, at most."""
    bytes_read: int
    bytes_written: int
    peak_memory: int
    """Predicted resident bytes, the interpreter included."""
    threads: int
    """Threads that fit the budget; no more than were asked for."""
    blocks: int
    """Chunks read at a time."""
    largest_working_set: int
    """Bytes one thread needs at most, for methods that see whole tensors; 0 for the others."""
    notes: tuple[str, ...] = ()
    apart: tuple[Task, ...] = ()
    """Tensors that only overlays get: heads that the base lacks."""

    @property
    def merged(self) -> tuple[Task, ...]:
        """Tasks the method computes."""
        return tuple(t for t in self.tasks if t.source is None)

    def by_experts(self, experts: int) -> list[tuple[int, Plan]]:
        """The plan by the number of experts that are merged: one part, but for some slices."""
        counts = {t.experts for t in self.tasks}
        if len(counts) < 2:
            return [(experts, self)]
        return [
            (n, replace(self, tasks=tuple(t for t in self.tasks if t.experts == n)))
            for n in sorted(n for n in counts if n is not None)
        ]

    @property
    def seconds(self) -> float:
        """Rough prediction."""
        return 2.0 + (self.bytes_read + self.bytes_written) / BYTES_PER_SECOND

    def as_dict(self) -> dict[str, Any]:
        return {
            "recipe": dict(self.lock),
            "tensors": len(self.tasks),
            "merged": len(self.merged),
            "carried": len(self.tasks) - len(self.merged),
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "peak_memory": self.peak_memory,
            "threads": self.threads,
            "seconds": round(self.seconds, 1),
            "notes": list(self.notes),
        }


@dataclass
class _Findings:
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


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
    found = _Findings(notes=list(notes))
    _check_inputs(method, experts, base, found)
    if not experts:
        refuse(found.problems)
    models = [*experts, *([base] if base else [])]
    donor = base or experts[0]
    tied = tied_pair(donor.checkpoint.opened.config, donor.checkpoint.tensors)
    excluded = _excluded(lock["exclude"], models, tied, found)
    _check_tensors(models, len(experts), excluded, places, found)
    if method.needs == "data":
        _check_data(method, lock, models, found)
    _check_artifacts(method, experts, found)
    if method.overlays is not None and (places is not None or lock.get("tokenizer")):
        found.problems.append(
            f"method `{method.name}` keeps parts per task, which belong to the tensors of the base "
            "as they are: slices and a `tokenizer` block make others"
        )
    tasks: list[Task] = []
    if not found.problems:
        tasks = _tasks(method, lock, experts, base, excluded, tied, places, found)
    apart = _apart(method, lock, experts, donor, excluded) if tasks else []
    if lost := excluded - donor.checkpoint.tensors.keys() - {t.info.name for t in apart}:
        found.notes.append(
            f"{listed(sorted(lost))} are excluded, and left out: `{donor.label}` has none"
        )
    budget = _budget(method, lock, tasks, models, len(experts), memory, threads)
    if budget.threads == 0:
        found.problems.append(
            f"this merge needs {budget.peak / 2**20:.0f} MiB on one thread, the budget is "
            f"{memory / 2**20:.0f} MiB: pass --memory {-(-budget.peak // 2**20)}MiB"
        )
    refuse(found.problems)
    merged = sum(
        _input_bytes(t.info.name, models)
        + sum(_input_bytes(t.known_as, [e.artifacts[r] for e in experts]) for r in t.artifacts)
        for t in tasks
        if t.source is None
    )
    carried = sum(t.info.nbytes for t in tasks if t.source is not None)
    passes = 1 + len(_statistics(method, tasks, len(experts)))
    return Plan(
        method=method,
        lock=lock,
        tasks=tuple(tasks),
        passes=passes,
        bytes_read=merged * passes + carried,
        bytes_written=sum(i.nbytes for t in (*tasks, *apart) for i in t.outputs),
        peak_memory=budget.peak,
        threads=budget.threads,
        blocks=budget.blocks,
        largest_working_set=budget.largest,
        notes=tuple(found.notes),
        apart=tuple(apart),
    )


@dataclass(frozen=True, slots=True)
class _Budget:
    threads: int
    """0 when not even one thread fits."""
    blocks: int
    peak: int
    largest: int


def _budget(
    method: Method,
    lock: Mapping[str, Any],
    tasks: Sequence[Task],
    models: Sequence[Model],
    experts: int,
    memory: int,
    threads: int,
) -> _Budget:
    """As many threads, and then as large reads, as the budget has room for."""
    width = element_bytes(models)
    statistics = _statistics(method, tasks, experts)
    shared, each = _statistics_bytes(statistics, tasks, width)
    if method.needs in ("tensor", "model", "data"):
        merged = [t for t in tasks if t.source is None]
        sizes = [working_set(method, t, len(models), width) for t in merged]
        largest = max(sizes, default=0)
        # Large tensors take turns (see `_Admission`), so they count once however many threads run.
        peak = RUNTIME_BYTES + shared + largest
        fits = method.needs != "tensor" or peak <= memory
        return _Budget(threads if fits else 0, 1, peak, largest)

    lengths = (
        chunk_length(t.info.shape, lock["chunk"], method.unit_of(t.parameters))
        for t in tasks
        if t.source is None
    )
    longest = max(lengths, default=lock["chunk"])

    def needed(threads: int, blocks: int) -> int:
        streams = len(models) * (1 + len(method.artifacts))
        streaming = chunk_memory(streams, longest, blocks, width)
        return RUNTIME_BYTES + shared + threads * (each + streaming)

    fitting = [n for n in range(1, threads + 1) if needed(n, 1) <= memory]
    if not fitting:
        return _Budget(0, 1, needed(1, 1), 0)
    count = fitting[-1]
    # Statistics of single tensors are passes before the last.
    again = any(s.scope == "tensor" for s in statistics)
    most = HELD_BLOCKS if again else MOST_BLOCKS
    blocks = max(b for b in range(1, most + 1) if b == 1 or needed(count, b) <= memory)
    return _Budget(count, blocks, needed(count, blocks), 0)


def element_bytes(models: Sequence[Model]) -> int:
    """Bytes of one value while it is merged: float64 for all if any tensor of any model is."""
    wide = any(t.dtype == "F64" for m in models for t in m.checkpoint.tensors.values())
    return 8 if wide else 4


def chunk_memory(models: int, chunk: int, blocks: int, width: int) -> int:
    """Bytes one thread needs for streaming: raw blocks, upcast chunks, and the method's own."""
    return (models + 1) * blocks * chunk * width + (3 * models + 8) * chunk * width


def _statistics(method: Method, tasks: Sequence[Task], experts: int) -> Sequence[Statistic]:
    """What runs before the merge of a tensor, as the first that is merged has it."""
    first = next((t for t in tasks if t.source is None), None)
    if method.statistics is None or first is None:
        return ()
    return method.statistics(first.parameters, first.experts or experts)


def _statistics_bytes(
    statistics: Sequence[Statistic], tasks: Sequence[Task], width: int
) -> tuple[int, int]:
    """Bytes that statistics hold: of the whole model, and per thread."""
    sizes = {t.info.elements for t in tasks if t.source is None}
    whole = each = 0
    for statistic in statistics:
        statistic.width = width
        if statistic.scope == "model":
            whole += _held(statistic, sum(t.info.elements for t in tasks if t.source is None))
        else:
            each += max(_held(statistic, size) for size in sizes)
    return whole, each


def _held(statistic: Statistic, elements: int) -> int:
    """Bytes that a statistic holds when it has seen so many elements."""
    statistic.elements = elements
    return statistic.memory + int(statistic.memory_per_element * elements)


def working_set(method: Method, task: Task, models: int, width: int) -> int:
    """Bytes to hold one tensor of every model, the result, and what the method needs beside."""
    tensor = task.info.elements * width
    if method.scratch is None:
        return tensor * (2 * models + 2)
    return tensor * (models + 2) + method.scratch(task.info.shape, models, width)


def _input_bytes(name: str, models: Sequence[Model]) -> int:
    return sum(t.nbytes for m in models if (t := m.checkpoint.tensors.get(name)))


def _check_inputs(
    method: Method, experts: Sequence[Model], base: Model | None, found: _Findings
) -> None:
    if len(experts) < method.min_experts:
        found.problems.append(
            f"method `{method.name}` merges {method.min_experts} or more experts, "
            f"{len(experts)} given"
        )
    if method.max_experts is not None and len(experts) > method.max_experts:
        found.problems.append(
            f"method `{method.name}` merges at most {method.max_experts} experts, "
            f"{len(experts)} given"
        )
    if method.base == "required" and base is None:
        found.problems.append(
            f"method `{method.name}` needs the base its experts were fine-tuned from: "
            "pass --base REF"
        )
    if method.base == "refused" and base is not None:
        found.problems.append(f"method `{method.name}` takes no base, `{base.label}` given")


def _check_data(
    method: Method, lock: Mapping[str, Any], models: Sequence[Model], found: _Findings
) -> None:
    if lock["data"] is None:
        found.problems.append(
            f"method `{method.name}` needs data: name a task in the recipe, "
            "`data: {task: NAME, split: train}`"
        )
    for model in models:
        if model.module is None:
            found.problems.append(
                f"method `{method.name}` runs its models, and no plugin offers the architecture "
                f"of `{model.label}`"
            )


def _check_tensors(
    models: Sequence[Model],
    experts: int,
    excluded: set[str],
    places: Mapping[str, Place] | None,
    found: _Findings,
) -> None:
    """What is excluded may have another shape in each model, or be in some only: heads do."""

    def owes(number: int, name: str) -> bool:
        """Whether a model must have a tensor; views of slices need not have all."""
        return places is None or number >= experts or number < len(places[name].names)

    def compared(model: Model) -> dict[str, TensorInfo]:
        return {n: t for n, t in model.checkpoint.tensors.items() if n not in excluded}

    first, *others = models
    reference = compared(first)
    for number, other in enumerate(others, 1):
        tensors = compared(other)
        for names, have, lack, position in (
            (sorted(set(reference) - set(tensors)), first, other, number),
            (sorted(set(tensors) - set(reference)), other, first, 0),
        ):
            if names := [n for n in names if owes(position, n)]:
                of_base = len(models) > experts and have is models[-1]
                allow = ": `missing: base` in the recipe allows it" if of_base else ""
                found.problems.append(
                    f"`{lack.label}` lacks {listed(names)}, which `{have.label}` has{allow}"
                )
        for name in sorted(set(reference) & set(tensors)):
            a, b = reference[name], tensors[name]
            if a.shape != b.shape:
                found.problems.append(
                    f"tensor `{name}` is {list(a.shape)} in `{first.label}` and "
                    f"{list(b.shape)} in `{other.label}`{remedy(name, a.shape, b.shape)}"
                )
            elif DTYPES[a.dtype].merges != DTYPES[b.dtype].merges:
                found.problems.append(
                    f"tensor `{name}` is {a.dtype} in `{first.label}` and {b.dtype} in "
                    f"`{other.label}`: one merges, the other does not"
                )
    for model in models:
        found_in = quantization_of(model.checkpoint.opened.config, model.checkpoint.tensors)
        if found_in is not None:
            found.problems.append(
                f"`{model.label}` stores {listed(found_in.tensors)} as codes of {found_in.kind}, "
                f"which arithmetic is not defined on. {found_in.remedy or 'Dequantize it first.'}"
            )


def _tasks(
    method: Method,
    lock: Mapping[str, Any],
    experts: Sequence[Model],
    base: Model | None,
    excluded: set[str],
    pair: tuple[str, str] | None,
    places: Mapping[str, Place] | None,
    found: _Findings,
) -> list[Task]:
    donor = base or experts[0]
    carried_from = BASE if base else 0
    blocks = blocks_of(donor.checkpoint.tensors)
    sliced, places = places is not None, places or _places(lock, donor, len(experts))
    tied = {pair[0]: pair[1]} if pair else {}  # tensor -> the one it is tied to
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
        out = TensorInfo(name, lock["dtype"] or info.dtype, info.shape)
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
    _note_remarks(method, tasks, len(experts), found)
    _note_buffers(tasks, found)
    _note_artifacts(method, tasks, found)
    if method.overlays is None:  # tasks with overlays keep their own
        _note_carried(tasks, [*experts, *([base] if base else [])], donor, found)
    _check_statistics(method, tasks, len(experts))
    return [replace(t, parts=parts_of(t, method, lock, experts, donor)) for t in tasks]


def _places(lock: Mapping[str, Any], donor: Model, experts: int) -> dict[str, Place]:
    """Where tensors are that no slice moved: every expert has them, under their own names."""
    depth = depths(donor.checkpoint.tensors, mergekit=lock["compat"] == "mergekit")
    return {n: Place(lock["parameters"], depth[n], (n,) * experts) for n in depth}


def _apart(
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


def _excluded(
    patterns: Sequence[str],
    models: Sequence[Model],
    tied: tuple[str, str] | None,
    found: _Findings,
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
    if tied and len(excluded.intersection(tied)) == 1:
        excluded.update(tied)
        found.notes.append(f"`{tied[0]}` and `{tied[1]}` are tied, and both are excluded")
    return excluded


def _check_statistics(method: Method, tasks: Sequence[Task], experts: int) -> None:
    """What a statistic of the whole model reads must be the same for all tensors."""
    whole = [s for s in _statistics(method, tasks, experts) if s.scope == "model"]
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


def _note_remarks(method: Method, tasks: Sequence[Task], experts: int, found: _Findings) -> None:
    """What the method has to say of single tensors, said once for all it says it of."""
    if method.remark is None:
        return
    names: dict[str, list[str]] = {}
    for task in tasks:
        if task.source is None:
            said = method.remark(task.parameters, task.experts or experts, task.info.shape)
            if said is not None:
                names.setdefault(said, []).append(task.info.name)
    found.notes += [f"{listed(of)} {said}" for said, of in names.items()]


def _note_buffers(tasks: Sequence[Task], found: _Findings) -> None:
    running = [t for t in tasks if t.info.name.endswith(("running_mean", "running_var"))]
    if any(t.source is None for t in running):
        found.notes.append(
            f"{len(running)} BatchNorm statistics were merged like weights; recompute them on data"
        )


def artifact_digests(method: Method, experts: Sequence[Model]) -> dict[str, list[str | None]]:
    """What the lock keeps of artifacts: by name, the weights digest of each expert's."""
    return {
        role: [e.artifacts[role].digest if role in e.artifacts else None for e in experts]
        for role in method.artifacts
    }


def _check_artifacts(method: Method, experts: Sequence[Model], found: _Findings) -> None:
    for role in method.artifacts:
        for expert in experts:
            artifact = expert.artifacts.get(role)
            if artifact is None:
                found.problems.append(
                    f"method `{method.name}` needs `{role}` beside `{expert.label}`: attach it, "
                    f"`zoo attach REF {role} PATH`, or name it in the recipe, "
                    f"`{{model: REF, {role}: PATH}}`"
                )
                continue
            own = {n: t.shape for n, t in expert.checkpoint.tensors.items()}
            for problem in misfits(artifact.checkpoint.tensors, own, expert.label):
                found.problems.append(f"`{role}` from `{artifact.label}`: {problem}")


def misfits(
    tensors: Mapping[str, TensorInfo], own: Mapping[str, tuple[int, ...]], label: str
) -> list[str]:
    """Why tensors cannot be an artifact of a model; empty if they can.

    Args:
        own: shapes of the model's tensors.
        label: of the model.
    """
    found = []
    if strange := sorted(tensors.keys() - own.keys()):
        found.append(f"`{label}` lacks {listed(strange)}")
    for name in sorted(tensors.keys() & own.keys()):
        here = tensors[name]
        if here.shape != own[name]:
            found.append(f"tensor `{name}` is {list(here.shape)}, in `{label}` {list(own[name])}")
        elif not DTYPES[here.dtype].merges:
            found.append(f"tensor `{name}` is {here.dtype}, and should be of floats")
    return found


def _note_artifacts(method: Method, tasks: Sequence[Task], found: _Findings) -> None:
    """Frozen parameters have no optimizer state; say which tensors a method merges without."""
    for role in method.artifacts:
        without = [t.info.name for t in tasks if t.source is None and role not in t.artifacts]
        if without:
            found.notes.append(f"not all experts have `{role}` for {listed(without)}")


def _note_carried(
    tasks: Sequence[Task], models: Sequence[Model], donor: Model, found: _Findings
) -> None:
    """Tensors that do not merge are taken from one model; say so where the models disagree."""
    differing = [
        t.info.name
        for t in tasks
        if not DTYPES[t.info.dtype].merges and len(_digests(t.info.name, models)) > 1
    ]
    if differing:
        found.notes.append(
            f"{listed(differing)} do not merge and differ between the models; "
            f"those of `{donor.label}` are kept"
        )


def _digests(name: str, models: Sequence[Model]) -> set[str]:
    """Of a tensor in the models that have it; views of slices need not."""
    return {digest for m in models if (digest := m.digests.get(name)) is not None}


def listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{n}`" for n in names[:MOST_NAMED])
    more = len(names) - MOST_NAMED
    return f"{len(names)} tensors ({shown}{f' and {more} more' if more > 0 else ''})"


def refuse(problems: Sequence[str]) -> None:
    """Raise IncompatibleModels with all problems, if there are any."""
    if problems:
        lines = "\n".join(f"  - {p}" for p in problems)
        raise IncompatibleModels(
            f"These models cannot be merged, {len(problems)} "
            f"problem{'s' if len(problems) > 1 else ''}:\n{lines}\n",
            "Nothing was written.",
            problems=list(problems),
        )
