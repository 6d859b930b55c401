"""What a merge costs: memory, threads and the size of reads that a budget has room for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.contract import chunk_length
from zoo.engine.planned import Model, Task

if TYPE_CHECKING:
    from zoo.contract import Method, Statistic

RUNTIME_BYTES = 300 << 20
"""Resident memory of Python with torch and the registry loaded; part of every prediction."""
MOST_BLOCKS = 4
"""Chunks read at a time at most: larger reads gain nothing."""
HELD_BLOCKS = 48
"""The same where each tensor is read several times over: one that fits is read once."""


@dataclass(frozen=True, slots=True)
class Budget:
    threads: int
    """0 when not even one thread fits."""
    blocks: int
    peak: int
    largest: int


def budget(
    method: Method,
    lock: Mapping[str, Any],
    tasks: Sequence[Task],
    models: Sequence[Model],
    experts: int,
    memory: int,
    threads: int,
) -> Budget:
    """As many threads, and then as large reads, as the budget has room for."""
    width = element_bytes(models)
    statistics = statistics_of(method, tasks, experts)
    shared, each = _bytes_of_statistics(statistics, tasks, width)
    if method.needs in ("tensor", "model", "data"):
        merged = [t for t in tasks if t.source is None]
        sizes = [working_set(method, t, len(models), width) for t in merged]
        largest = max(sizes, default=0)
        # Large tensors take turns (see `_Admission`), so they count once however many threads run.
        peak = RUNTIME_BYTES + shared + largest
        fits = method.needs != "tensor" or peak <= memory
        return Budget(threads if fits else 0, 1, peak, largest)

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
        return Budget(0, 1, needed(1, 1), 0)
    count = fitting[-1]
    # Statistics of single tensors are passes before the last.
    again = any(s.scope == "tensor" for s in statistics)
    most = HELD_BLOCKS if again else MOST_BLOCKS
    blocks = max(b for b in range(1, most + 1) if b == 1 or needed(count, b) <= memory)
    return Budget(count, blocks, needed(count, blocks), 0)


def element_bytes(models: Sequence[Model]) -> int:
    """Bytes of one value while it is merged: float64 for all if any tensor of any model is."""
    wide = any(t.dtype == "F64" for m in models for t in m.checkpoint.tensors.values())
    return 8 if wide else 4


def chunk_memory(models: int, chunk: int, blocks: int, width: int) -> int:
    """Bytes one thread needs for streaming: raw blocks, upcast chunks, and the method's own."""
    return (models + 1) * blocks * chunk * width + (3 * models + 8) * chunk * width


def statistics_of(method: Method, tasks: Sequence[Task], experts: int) -> Sequence[Statistic]:
    """What runs before the merge of a tensor, as the first that is merged has it."""
    first = next((t for t in tasks if t.source is None), None)
    if method.statistics is None or first is None:
        return ()
    return method.statistics(first.parameters, first.experts or experts)


def _bytes_of_statistics(
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


def input_bytes(name: str, models: Sequence[Model]) -> int:
    return sum(t.nbytes for m in models if (t := m.checkpoint.tensors.get(name)))
