"""The engine: streams tensors through a method, on threads, within a memory budget.

One tensor is the work of one thread from its first chunk to its last, so every reduction happens in
one order and the digest grows as the bytes are made. Threads take tensors, largest first. Nothing
depends on which thread takes what, or when.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import repeat
from typing import TYPE_CHECKING, Any

from zoo.checkpoints.reading import Reader
from zoo.contract import AGAIN, Chunk, Parts, Statistic, Unit
from zoo.dtypes import DTYPES
from zoo.engine.gates import Gate
from zoo.engine.part_writers import PartWriters
from zoo.engine.plan import APART, BASE, Model, Plan, Task, element_bytes, working_set
from zoo.engine.single_thread import single_threaded_torch
from zoo.engine.sinks import Sink, Writer
from zoo.errors import GateFailed, PluginError
from zoo.progress import NoProgress, Progress
from zoo.random import Random

if TYPE_CHECKING:
    import torch

    from zoo.checkpoint import Checkpoint, TensorInfo

    Beside = Mapping[str, torch.Tensor | None]
    """A chunk of each artifact, shape (e, n), by name; None where an expert has none."""


def execute(
    plan: Plan,
    experts: Sequence[Model],
    base: Model | None,
    sink: Sink,
    *,
    memory: int,
    threads: int,
    device: str = "cpu",
    only: Iterable[str] | None = None,
    data: Callable[[], Iterable[Any]] | None = None,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Carry out a plan and return the digest of each tensor, parts of overlays included.

    Args:
        memory: budget in bytes for the whole process.
        only: names of the tensors to make; statistics still see the whole model.
        data: gives the batches for methods that need data.
    Raises:
        GateFailed: an input or a result is not finite, or a norm ran away; names the tensor.
    """
    wanted = set(only) if only is not None else None
    planned = (*plan.tasks, *plan.apart)
    tasks = [t for t in planned if wanted is None or t.info.name in wanted]
    run = _Run(plan, experts, base, sink, memory, threads, device, progress or NoProgress())
    run.data = data
    with single_threaded_torch():
        return run.all(tasks)


def _join_torch() -> None:
    """Make MKL take torch's number of threads in this new thread, from its first product on.

    MKL keeps one of its own for each thread, and torch passes the number on only when asked.
    """
    import torch

    torch.get_num_threads()


class _Run:
    def __init__(
        self,
        plan: Plan,
        experts: Sequence[Model],
        base: Model | None,
        sink: Sink,
        memory: int,
        threads: int,
        device: str,
        progress: Progress,
    ) -> None:
        self.plan = plan
        self.method = plan.method
        self.experts = experts
        self.base = base
        self.models = [*experts, *([base] if base else [])]
        self.labels = [m.label for m in self.models]
        self.checkpoints = [m.checkpoint for m in self.models]
        self.sink = sink
        self.threads = threads
        self.device = device
        self.progress = progress
        self.reader = self._reader()
        self.beside = self._reader()
        self.drift = float(plan.lock["max_norm_drift"])
        self.stats: dict[str, Any] = {}
        self.part_digests: dict[str, str] = {}
        self.stop = threading.Event()
        self.admission = _Admission(memory, plan, self.models)
        self.data: Callable[[], Iterable[Any]] | None = None

    def _reader(self) -> Reader:
        wide = element_bytes(self.models) == 8
        chunk, blocks = int(self.plan.lock["chunk"]), self.plan.blocks
        return Reader(chunk, blocks, self.device, wide, self.progress.advance)

    def all(self, tasks: Sequence[Task]) -> dict[str, str]:
        merged = [t for t in tasks if t.source is None]
        if merged and self.method.statistics is not None:
            self._model_statistics()
        self.progress.start(self._bytes(tasks), "merge")
        try:
            digests = {}
            if merged and self.method.needs in ("model", "data"):
                digests = self._whole_model(merged)
                tasks = [t for t in tasks if t.source is not None]
            digests |= dict(self._map(self._make, [t for t in tasks if t.source != APART]))
            self._map(self._keep_in_full, [t for t in tasks if t.parts])
            return digests | self.part_digests
        finally:
            self.progress.done()

    def _bytes(self, tasks: Iterable[Task]) -> int:
        """Bytes that one pass over these tensors reads."""
        copied = sum(i.nbytes for t in tasks if t.source is not None for i in t.outputs)
        merged = [t for t in tasks if t.source is None]
        read = sum(c.tensors[t.info.name].nbytes for t in merged for c in self.checkpoints)
        beside = sum(
            m.checkpoint.tensors[t.known_as].nbytes for t in merged for m in self._beside(t)
        )
        return copied + read + beside

    # Threads

    def _map(self, work: Callable[[Task], Any], tasks: Sequence[Task]) -> list[tuple[str, Any]]:
        """Do the work for each task, largest first; the first failure stops the rest."""
        ordered = sorted(tasks, key=lambda t: (-t.info.nbytes, t.info.name))

        def guarded(task: Task) -> tuple[str, Any]:
            if self.stop.is_set():
                raise _Stopped
            with self.admission.of(task):
                return task.info.name, work(task)

        with ThreadPoolExecutor(self.threads, "zoo-merge", _join_torch) as pool:
            futures = [pool.submit(guarded, t) for t in ordered]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                # A failure, or an interruption of this thread: the others need not go on.
                if not all(f.done() and f.exception() is None for f in futures):
                    self.stop.set()
        failures = [e for f in futures if (e := f.exception()) and not isinstance(e, _Stopped)]
        if failures:
            raise failures[0]
        return sorted(f.result() for f in futures)

    # Statistics

    def _model_statistics(self) -> None:
        """Statistics of the whole model: every pass reads all merged tensors, tied ones once."""
        assert self.method.statistics is not None
        tasks = [t for t in self.plan.merged if t.alias_of is None]
        every = self._parameters()
        for statistic in self.method.statistics(every, len(self.experts)):
            if statistic.scope != "model":
                continue
            statistic.elements = sum(t.info.elements for t in tasks)
            self.stats[statistic.name] = self._until_known(statistic, tasks, self.stats)

    def _parameters(self) -> Any:
        """Parameters for what concerns the whole model: those of the first merged tensor."""
        return self.plan.merged[0].parameters

    def _until_known(
        self, statistic: Statistic, tasks: Sequence[Task], stats: Mapping[str, Any]
    ) -> Any:
        statistic.draw = self._draw
        while True:
            self.progress.start(self._bytes(tasks), f"statistics ({statistic.name})")
            try:
                states = self._map(lambda t: self._reduce(statistic, t, stats), tasks)
            finally:
                self.progress.done()
            value = statistic.finish(dict(states))
            if value is not AGAIN:
                return value

    def _reduce(self, statistic: Statistic, task: Task, stats: Mapping[str, Any]) -> Any:
        state = statistic.start(task.known_as, task.info.shape, task.parameters)
        if self.method.needs == "tensor":
            if statistic.wants(task.whole):
                models, base = self._gather(task)
                statistic.add(state, models, base, task.whole, stats)
            return state
        for chunk, models, base, beside in self._chunks(task, statistic.wants):
            statistic.add(state, models, base, chunk, {**stats, **beside} if beside else stats)
        return state

    def _tensor_statistics(self, task: Task) -> dict[str, Any]:
        if self.method.statistics is None:
            return {}
        found = dict(self.stats)
        for statistic in self.method.statistics(task.parameters, len(self.experts)):
            if statistic.scope == "tensor":
                statistic.elements = task.info.elements
                statistic.draw = self._draw
                while True:
                    state = self._reduce(statistic, task, found)
                    value = statistic.finish({task.known_as: state})
                    if value is not AGAIN:
                        found[statistic.name] = value
                        break
        return found

    # One tensor

    def _make(self, task: Task) -> str:
        writer = Writer(task.info, self.sink)
        if task.source is not None:
            self._copy(task.info, self._model(task.source), task.info.name, writer, task.excluded)
        elif self.method.needs == "tensor":
            self._whole_tensor(task, writer)
        else:
            self._stream(task, writer)
        return writer.close()

    def _copy(
        self, info: TensorInfo, model: Model, name: str, writer: Writer, as_is: bool = False
    ) -> None:
        """A model's own tensor, cast to the type of `info`.

        Args:
            as_is: copy what is not finite too, where nothing is to be cast.
        """
        same = model.checkpoint.tensors[name].dtype == info.dtype
        if not DTYPES[info.dtype].merges or (as_is and same):
            self._carry(info, model.checkpoint, name, writer)
            return
        gate = Gate(info, [model.label], math.inf)
        for _, values in self.reader.chunks(name, [model.checkpoint]):
            gate.inputs(values)
            gate.output(values[0])
            writer.write(values[0])

    def _keep_in_full(self, task: Task) -> None:
        """Copy the tensors of experts that their tasks keep whole."""
        for part in task.parts:
            if part.kind == "full":
                writer = Writer(part.info, self.sink)
                self._copy(part.info, self.experts[part.expert], task.info.name, writer)
                self.part_digests[part.info.name] = writer.close()

    def _stream(self, task: Task, writer: Writer) -> None:
        stats = self._tensor_statistics(task)
        gate = Gate(task.info, self.labels, self.drift)
        options = self._options(task)
        kept = PartWriters(task, self.method.name, self.sink)
        for chunk, models, base, beside in self._chunks(task, gate=gate):
            result, parts = self._call(task, chunk, models, base, beside, stats, options)
            try:
                gate.output(result)
            except GateFailed:
                self._blame_inputs(task)
                raise
            writer.write(result)
            kept.write(parts)
        gate.close()
        self.part_digests |= kept.close()

    def _blame_inputs(self, task: Task) -> None:
        """Raise GateFailed if it is an input that is not finite, in a chunk not seen yet."""
        gate = Gate(task.info, self.labels, math.inf)
        for _ in self._chunks(task, gate=gate):
            pass

    def _whole_tensor(self, task: Task, writer: Writer) -> None:
        stats = self._tensor_statistics(task)
        gate = Gate(task.info, self.labels, self.drift)
        models, base = self._gather(task, gate)
        options = self._options(task)
        result, parts = self._call(task, task.whole, models, base, {}, stats, options)
        flat = result.reshape(-1)
        gate.output(flat)
        gate.close()
        for start in range(0, task.info.elements, self.reader.chunk):
            writer.write(flat[start : start + self.reader.chunk])
        kept = PartWriters(task, self.method.name, self.sink)
        kept.write(parts)
        self.part_digests |= kept.close()

    def _gather(
        self, task: Task, gate: Gate | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A whole tensor: experts or deltas (e, *shape), and the base where there is one."""
        import torch

        n, shape = task.info.elements, task.info.shape
        dtype = torch.float64 if self.reader.wide else torch.float32
        models = torch.empty(len(self.experts), n, dtype=dtype, device=self.device)
        base = torch.empty(n, dtype=dtype, device=self.device) if self.base else None
        for chunk, part, base_part, _ in self._chunks(task, gate=gate):
            models[:, chunk.start : chunk.stop] = part
            if base is not None and base_part is not None:
                base[chunk.start : chunk.stop] = base_part
        models = models.reshape(len(self.experts), *shape)
        return models, None if base is None else base.reshape(shape)

    def _call(
        self,
        task: Task,
        chunk: Chunk,
        models: torch.Tensor,
        base: torch.Tensor | None,
        beside: Beside,
        stats: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> tuple[torch.Tensor, Parts | None]:
        """The method's function on one chunk; in delta space the base is added here."""
        extra: dict[str, Any] = {}
        if "stats" in self.method.injected:
            extra["stats"] = stats
        if "chunk" in self.method.injected:
            extra["chunk"] = chunk
        if "random" in self.method.injected:
            extra["random"] = self._draw(chunk)
        arguments = (models, base) if self.method.takes_base else (models,)
        made = self.method.function(*arguments, *beside.values(), **options, **extra)
        parts = made if isinstance(made, Parts) else None
        result = self._floating(made if parts is None else parts.trunk, task.info.name)
        expected = models.shape[1:]
        if result.shape != expected:
            raise PluginError(
                f"Method `{self.method.name}` returned shape {tuple(result.shape)} for tensor "
                f"`{task.info.name}`, expected {tuple(expected)}.",
                method=self.method.name,
                tensor=task.info.name,
            )
        if self.method.space == "delta":
            assert base is not None
            result = result.add_(base) if result.is_contiguous() else result + base
        if task.info.name.endswith("running_var"):
            result = result.clamp_min(0)  # a variance; extrapolation can make it negative
        return result, parts

    def _floating(self, made: Any, tensor: str) -> torch.Tensor:
        """What the method gave for a tensor, if it is one of numbers that round."""
        import torch

        if isinstance(made, torch.Tensor) and made.dtype.is_floating_point:
            return made
        what = made.dtype if isinstance(made, torch.Tensor) else type(made).__name__
        raise PluginError(
            f"Method `{self.method.name}` gave {what} for tensor `{tensor}`.",
            "A merge is a tensor of floating type, as the models are that it is made of.",
            method=self.method.name,
            tensor=tensor,
        )

    def _draw(self, chunk: Chunk) -> Random:
        digests = [m.digest for m in self.experts]
        size = chunk.stop - chunk.start
        seed = int(self.plan.lock["seed"])
        return Random(seed, chunk.tensor, digests, chunk.start, size, self.device)

    def _options(self, task: Task) -> dict[str, Any]:
        return {name: getattr(task.parameters, name) for name in type(task.parameters).model_fields}

    # Whole models

    def _whole_model(self, merged: Sequence[Task]) -> dict[str, str]:
        """Methods that see whole models give tensors one by one, in any order, each once."""
        known = {t.info.name for t in self.plan.tasks}
        due = {t.info.name: t for t in merged}
        digests: dict[str, str] = {}
        for name, value in self._given(merged[0]):
            task = due.pop(name, None)
            if task is None and name in known and name not in digests:
                continue  # made before an interruption, not asked for, or taken as it is
            value = self._floating(value, name)
            if task is None or tuple(value.shape) != task.info.shape:
                raise PluginError(
                    f"Method `{self.method.name}` gave tensor `{name}` of shape "
                    f"{tuple(value.shape)}, which is not one that was due.",
                    method=self.method.name,
                    tensor=name,
                )
            # The method read the inputs itself, so only the finiteness of its result is checked.
            gate = Gate(task.info, [], math.inf)
            flat = value.detach().reshape(-1)
            gate.output(flat)
            writer = Writer(task.info, self.sink)
            for start in range(0, task.info.elements, self.reader.chunk):
                writer.write(flat[start : start + self.reader.chunk])
            digests[name] = writer.close()
        if due:
            raise PluginError(
                f"Method `{self.method.name}` left out {len(due)} tensors, first `{min(due)}`.",
                method=self.method.name,
            )
        return digests

    def _given(self, task: Task) -> Iterator[tuple[str, torch.Tensor]]:
        experts: list[Any] = [self._open(m) for m in self.experts]
        arguments: list[Any] = [experts]
        if self.method.takes_base:
            arguments.append(self._open(self.base) if self.base else None)
        if self.method.needs == "data":
            assert self.data is not None
            arguments += [self.data(), self.device]
        yield from self.method.function(*arguments, **self._options(task))

    def _open(self, model: Model) -> Any:
        """What a whole-model method gets: a lazy checkpoint, or a module on the device."""
        if self.method.needs == "model":
            return model.checkpoint
        assert model.module is not None
        return model.module().to(self.device)

    # Reading

    def _model(self, index: int) -> Model:
        if index == BASE:
            assert self.base is not None
            return self.base
        return self.experts[index]

    def _chunks(
        self,
        task: Task,
        wants: Callable[[Chunk], bool] | None = None,
        gate: Gate | None = None,
    ) -> Iterator[tuple[Chunk, torch.Tensor, torch.Tensor | None, Beside]]:
        """(chunk, experts or deltas (e, n), base (n,) or None, artifacts), in reused buffers."""
        unit = self.method.unit_of(task.parameters)
        named = self.reader.chunks(task.info.name, self.checkpoints, wants, task.whole, unit)
        artifacts = self._artifacts(task, wants, unit, gate is not None)
        for (chunk, values), beside in zip(named, artifacts, strict=False):
            if self.stop.is_set():
                raise _Stopped
            if gate is not None:
                gate.inputs(values)
            models = values[: len(self.experts)]
            base = values[len(self.experts)] if self.base else None
            if self.method.space == "delta":
                assert base is not None
                models.sub_(base)
            yield chunk, models, base, beside

    def _artifacts(
        self, task: Task, wants: Callable[[Chunk], bool] | None, unit: Unit, gated: bool
    ) -> Iterator[Beside]:
        """The values of the artifacts for the same chunks; the same for ever without any."""
        beside: dict[str, torch.Tensor | None] = dict.fromkeys(self.method.artifacts)
        models = self._beside(task)
        if not models:
            yield from repeat(beside)
        gate = Gate(task.info, [m.label for m in models], math.inf)
        read = [m.checkpoint for m in models]
        for _, values in self.beside.chunks(task.known_as, read, wants, task.whole, unit):
            if gated:
                gate.inputs(values)
            yield beside | dict(zip(task.artifacts, values.chunk(len(task.artifacts)), strict=True))

    def _beside(self, task: Task) -> list[Model]:
        """The artifacts that are read with a tensor, in the order of the method's arguments."""
        return [e.artifacts[name] for name in task.artifacts for e in self.experts]

    def _carry(self, info: TensorInfo, checkpoint: Checkpoint, name: str, writer: Writer) -> None:
        """Bytes of a tensor that does not merge, as they are."""
        step = 4 << 20
        for start in range(0, info.nbytes, step):
            view = self.reader.raw(min(step, info.nbytes - start))
            checkpoint.read_into(name, start, view)
            writer.write_raw(view)
            self.progress.advance(len(view))


class _Stopped(Exception):
    """Another thread failed; this one ends quietly."""


class _Admission:
    """Lets whole-tensor work start only while the tensors in memory fit the budget."""

    def __init__(self, memory: int, plan: Plan, models: Sequence[Model]) -> None:
        self._method = plan.method
        self._whole = plan.method.needs == "tensor"
        others = plan.peak_memory - plan.largest_working_set  # the runtime, and statistics
        self._free = max(memory - others, plan.largest_working_set)
        self._models, self._width = len(models), element_bytes(models)
        self._changed = threading.Condition()

    @contextmanager
    def of(self, task: Task) -> Iterator[None]:
        size = 0
        if self._whole and task.source is None:
            size = working_set(self._method, task, self._models, self._width)
        with self._changed:
            self._changed.wait_for(lambda: size <= self._free)
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()
