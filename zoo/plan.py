"""From a lock and opened models to tasks, with every problem found before a byte is read.

Only headers are looked at. The plan also predicts what the merge will cost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from zoo.checkpoint import Checkpoint, TensorInfo
from zoo.contract import Chunk, chunk_length
from zoo.dtypes import DTYPES
from zoo.errors import IncompatibleModels, InvalidRecipe, did_you_mean
from zoo.recipe import parameters_at
from zoo.schedule import depths, layer_count
from zoo.schedule import layers as blocks_of

if TYPE_CHECKING:
    import torch

    from zoo.contract import Method

BASE = -1
"""Index of the base among the models, where experts are 0, 1, ..."""
MOST_NAMED = 8
"""Tensors a problem lists by name; it counts the rest."""
RUNTIME_BYTES = 300 << 20
"""Resident memory of Python with torch and the registry loaded; part of every prediction."""
MOST_BLOCKS = 4
"""Chunks read at a time at most: larger reads gain nothing."""
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
    block: tuple[int, int] | None = None
    """(layer, layers of its stack), for a tensor of a block."""

    @property
    def known_as(self) -> str:
        """The name that statistics, chunks and randomness go by: tied tensors share one."""
        return self.alias_of or self.info.name

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

    @property
    def merged(self) -> tuple[Task, ...]:
        """Tasks the method computes."""
        return tuple(t for t in self.tasks if t.source is None)

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
    layers: int | None = None,
    notes: Sequence[str] = (),
) -> Plan:
    """Check the models against each other and the method, and lay out the work.

    Args:
        memory: budget in bytes for the whole process.
        layers: number of layers the recipe claims to cover, to be checked.
    Raises:
        IncompatibleModels: `problems` lists all that is wrong.
        InvalidRecipe: a parameter is out of range for some tensor.
    """
    if threads < 1:
        raise InvalidRecipe(f"A merge runs on at least one thread, not {threads}.", threads=threads)
    found = _Findings(notes=list(notes))
    _check_inputs(method, experts, base, found)
    if not experts:
        _refuse(found.problems)
    models = [*experts, *([base] if base else [])]
    _check_tensors(models, found)
    donor = base or experts[0]
    names = list(donor.checkpoint.tensors)
    if layers is not None and layers != layer_count(names):
        found.problems.append(
            f"the recipe covers {layers} layers, `{donor.label}` has {layer_count(names)}"
        )
    if method.needs == "data":
        _check_data(method, lock, models, found)
    tasks: list[Task] = []
    if not found.problems:
        tasks = _tasks(method, lock, experts, base, found)
    budget = _budget(method, lock, tasks, models, memory, threads)
    if budget.threads == 0:
        found.problems.append(
            f"this merge needs {budget.peak / 2**20:.0f} MiB on one thread, the budget is "
            f"{memory / 2**20:.0f} MiB: pass --memory {-(-budget.peak // 2**20)}MiB"
        )
    _refuse(found.problems)
    merged = sum(_input_bytes(t.info.name, models) for t in tasks if t.source is None)
    carried = sum(t.info.nbytes for t in tasks if t.source is not None)
    passes = 1 + _full_passes(method, lock, len(experts))
    return Plan(
        method=method,
        lock=lock,
        tasks=tuple(tasks),
        passes=passes,
        bytes_read=merged * passes + carried,
        bytes_written=sum(t.info.nbytes for t in tasks),
        peak_memory=budget.peak,
        threads=budget.threads,
        blocks=budget.blocks,
        largest_working_set=budget.largest,
        notes=tuple(found.notes),
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
    memory: int,
    threads: int,
) -> _Budget:
    """As many threads, and then as large reads, as the budget has room for."""
    width = element_bytes(models)
    shared, each = _statistics_bytes(method, tasks, len(models))
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
        streaming = chunk_memory(len(models), longest, blocks, width)
        return RUNTIME_BYTES + shared + threads * (each + streaming)

    fitting = [n for n in range(1, threads + 1) if needed(n, 1) <= memory]
    if not fitting:
        return _Budget(0, 1, needed(1, 1), 0)
    count = fitting[-1]
    blocks = max(b for b in range(1, MOST_BLOCKS + 1) if b == 1 or needed(count, b) <= memory)
    return _Budget(count, blocks, needed(count, blocks), 0)


def element_bytes(models: Sequence[Model]) -> int:
    """Bytes of one value while it is merged: float64 for all if any tensor of any model is."""
    wide = any(t.dtype == "F64" for m in models for t in m.checkpoint.tensors.values())
    return 8 if wide else 4


def chunk_memory(models: int, chunk: int, blocks: int, width: int) -> int:
    """Bytes one thread needs for streaming: raw blocks, upcast chunks, and the method's own."""
    return (models + 1) * blocks * chunk * width + (3 * models + 8) * chunk * width


def _statistics_bytes(method: Method, tasks: Sequence[Task], models: int) -> tuple[int, int]:
    """Bytes that statistics hold: of the whole model, and per thread."""
    merged = [t for t in tasks if t.source is None]
    if method.statistics is None or not merged:
        return 0, 0
    found = list(method.statistics(merged[0].parameters, models))
    sizes = [t.info.elements for t in merged]
    whole = sum(s.memory + s.memory_per_element * sum(sizes) for s in found if s.scope == "model")
    each = sum(s.memory + s.memory_per_element * max(sizes) for s in found if s.scope == "tensor")
    return int(whole), int(each)


def _full_passes(method: Method, lock: Mapping[str, Any], experts: int) -> int:
    if method.statistics is None:
        return 0
    return len(method.statistics(parameters_at(method, lock["parameters"], "", 0.0), experts))


def working_set(method: Method, task: Task, models: int, width: int) -> int:
    """Bytes to hold one tensor of every model, the result, and what the method needs beside."""
    tensor = task.info.elements * width
    if method.scratch is None:
        return tensor * (2 * models + 2)
    return tensor * (models + 2) + method.scratch(task.info.shape, models, width)


def _input_bytes(name: str, models: Sequence[Model]) -> int:
    return sum(m.checkpoint.tensors[name].nbytes for m in models)


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


def _check_tensors(models: Sequence[Model], found: _Findings) -> None:
    first, *others = models
    reference = first.checkpoint.tensors
    for other in others:
        tensors = other.checkpoint.tensors
        for names, have, lack in (
            (sorted(set(reference) - set(tensors)), first, other),
            (sorted(set(tensors) - set(reference)), other, first),
        ):
            if names:
                found.problems.append(
                    f"`{lack.label}` lacks {_listed(names)}, which `{have.label}` has"
                )
        for name in sorted(set(reference) & set(tensors)):
            a, b = reference[name], tensors[name]
            if a.shape != b.shape:
                found.problems.append(
                    f"tensor `{name}` is {list(a.shape)} in `{first.label}` and "
                    f"{list(b.shape)} in `{other.label}`"
                )
            elif DTYPES[a.dtype].merges != DTYPES[b.dtype].merges:
                found.problems.append(
                    f"tensor `{name}` is {a.dtype} in `{first.label}` and {b.dtype} in "
                    f"`{other.label}`: one merges, the other does not"
                )
    for model in models:
        scales = [
            name
            for name, t in model.checkpoint.tensors.items()
            if t.dtype.startswith("F8_")
            and any(name + end in model.checkpoint.tensors for end in ("_scale", "_scale_inv"))
        ]
        if scales:
            found.problems.append(
                f"`{model.label}` stores {_listed(scales)} as 8-bit floats with scales beside "
                "them: dequantize it first"
            )


def _tasks(
    method: Method,
    lock: Mapping[str, Any],
    experts: Sequence[Model],
    base: Model | None,
    found: _Findings,
) -> list[Task]:
    donor = base or experts[0]
    carried_from = BASE if base else 0
    depth, blocks = depths(donor.checkpoint.tensors), blocks_of(donor.checkpoint.tensors)
    excluded = _excluded(lock["exclude"], donor)
    tied = _tied(experts, base)
    settings: dict[str, Any] = {}
    checked: dict[int, str | None] = {}
    tasks = []
    for name, info in donor.checkpoint.tensors.items():
        if not DTYPES[info.dtype].merges:
            tasks.append(Task(TensorInfo(name, info.dtype, info.shape), carried_from))
            continue
        if name in excluded:
            kept = TensorInfo(name, lock["dtype"] or info.dtype, info.shape)
            tasks.append(Task(kept, carried_from, alias_of=tied.get(name)))
            continue
        origin = tied.get(name, name)  # tied tensors take the settings of the one they are tied to
        values = parameters_at(method, lock["parameters"], origin, depth[origin])
        # Equal settings share one object, so that a model of a thousand tensors checks a few.
        values = settings.setdefault(values.model_dump_json(), values)
        if id(values) not in checked:
            checked[id(values)] = (
                method.check(values, len(experts)) if method.check is not None else None
            )
            if problem := checked[id(values)]:
                raise InvalidRecipe(
                    f"Method `{method.name}` cannot run:", f"{problem}.", method=method.name
                )
        source = method.shortcut(values, len(experts)) if method.shortcut else None
        if source == BASE and base is None:
            source = None
        out = TensorInfo(name, lock["dtype"] or info.dtype, info.shape)
        tasks.append(Task(out, source, values, tied.get(name), blocks.get(origin)))
    _note_remarks(method, tasks, len(experts), found)
    _note_buffers(tasks, found)
    _note_carried(tasks, [*experts, *([base] if base else [])], donor, found)
    _check_statistics(method, [t for t in tasks if t.source is None], len(experts))
    return tasks


def _excluded(patterns: Sequence[str], donor: Model) -> Collection[str]:
    """Tensors that keep the donor's values, by glob patterns.

    Raises:
        InvalidRecipe: a pattern fits no tensor.
    """
    names = list(donor.checkpoint.tensors)
    found: set[str] = set()
    for pattern in patterns:
        fits = [n for n in names if fnmatchcase(n, pattern)]
        if not fits:
            raise InvalidRecipe(
                f"`exclude` names `{pattern}`, and no tensor of `{donor.label}` fits.",
                how=did_you_mean(pattern, names),
                pattern=pattern,
            )
        found.update(fits)
    return found


def _check_statistics(method: Method, merged: Sequence[Task], experts: int) -> None:
    """What a statistic of the whole model reads must be the same for all tensors."""
    if method.statistics is None or not merged:
        return
    first = merged[0].parameters
    for statistic in method.statistics(first, experts):
        for name in statistic.reads if statistic.scope == "model" else ():
            if any(getattr(t.parameters, name) != getattr(first, name) for t in merged):
                raise InvalidRecipe(
                    f"`{name}` of method `{method.name}` varies over tensors,",
                    "and is used once for the whole model.",
                    "Give it one value, or choose a per-tensor scope.",
                    parameter=name,
                )


def _tied(experts: Sequence[Model], base: Model | None) -> dict[str, str]:
    """Tensor -> the one it is tied to: both stored although the configuration ties them."""
    donor = base or experts[0]
    config = donor.checkpoint.opened.config or {}
    if not config.get("tie_word_embeddings"):
        return {}
    names = donor.checkpoint.tensors
    heads = [n for n in names if n in ("lm_head.weight", "embed_out.weight")]
    embeddings = [n for n in names if n.endswith(("embed_tokens.weight", "wte.weight"))]
    return {heads[0]: embeddings[0]} if heads and embeddings else {}


def _note_remarks(method: Method, tasks: Sequence[Task], experts: int, found: _Findings) -> None:
    """What the method has to say of single tensors, said once for all it says it of."""
    if method.remark is None:
        return
    names: dict[str, list[str]] = {}
    for task in tasks:
        if task.source is None:
            said = method.remark(task.parameters, experts, task.info.shape)
            if said is not None:
                names.setdefault(said, []).append(task.info.name)
    found.notes += [f"{_listed(of)} {said}" for said, of in names.items()]


def _note_buffers(tasks: Sequence[Task], found: _Findings) -> None:
    running = [t for t in tasks if t.info.name.endswith(("running_mean", "running_var"))]
    if any(t.source is None for t in running):
        found.notes.append(
            f"{len(running)} BatchNorm statistics were merged like weights; recompute them on data"
        )


def _note_carried(
    tasks: Sequence[Task], models: Sequence[Model], donor: Model, found: _Findings
) -> None:
    """Tensors that do not merge are taken from one model; say so where the models disagree."""
    differing = [
        t.info.name
        for t in tasks
        if not DTYPES[t.info.dtype].merges and len({m.digests.get(t.info.name) for m in models}) > 1
    ]
    if differing:
        found.notes.append(
            f"{_listed(differing)} do not merge and differ between the models; "
            f"those of `{donor.label}` are kept"
        )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{n}`" for n in names[:MOST_NAMED])
    more = len(names) - MOST_NAMED
    return f"{len(names)} tensors ({shown}{f' and {more} more' if more > 0 else ''})"


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        lines = "\n".join(f"  - {p}" for p in problems)
        raise IncompatibleModels(
            f"These models cannot be merged, {len(problems)} "
            f"problem{'s' if len(problems) > 1 else ''}:\n{lines}\n",
            "Nothing was written.",
            problems=list(problems),
        )
