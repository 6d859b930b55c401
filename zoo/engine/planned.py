"""What planning passes on: the models as they are merged, and the work, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from zoo.checkpoint import Checkpoint, TensorInfo
from zoo.contract import Chunk
from zoo.overlays.overlay import Part

if TYPE_CHECKING:
    import torch

    from zoo.contract import Method

BASE = -1
"""Index of the base among the models, where experts are 0, 1, ..."""
APART = -2
"""The source of a tensor that the result lacks, and that some tasks keep in their overlays."""
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
    models: Mapping[str, str] = field(default_factory=dict)
    """What the models are called, by the digests that the lock has."""

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
            "models": dict(self.models),
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
