"""The examples a model is run on: which, in which batches, where; fixed by a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zoo.progress import NoProgress, Progress

if TYPE_CHECKING:
    import torch

    from zoo.task import Batch, Task


@dataclass(frozen=True, slots=True)
class Sample:
    """A fixed set of examples of one split of a task.

    All of a split, in its order; or `count` of them, drawn without replacement by `seed`. Where the
    task's data has only one order, the first `count`.
    """

    task: Task
    split: str = "test"
    count: int | None = None
    """Examples; None for all."""
    batch: int = 256
    """Examples per batch, at most."""
    seed: int = 0
    device: str = "cpu"
    progress: Progress = field(default_factory=NoProgress, compare=False)
    """Told of each example that was read, by `batches`."""

    def batches(self) -> Iterator[Batch]:
        """(inputs, targets) on the device; the same batches each time."""
        left = self.count
        for x, y in self._drawn() or self.task.batches(self.split, self.batch):
            if left is not None:
                x, y = x[:left], y[:left]
                left -= len(x)
            if len(x):
                self.progress.advance(len(x))
                yield x.to(self.device), y.to(self.device)
            if left == 0:
                return

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean loss of the task over a batch, shape ()."""
        return self.task.loss(outputs, targets)

    def generator(self) -> torch.Generator:
        """Randomness on the CPU that begins anew with the seed at each call."""
        import torch

        return torch.Generator().manual_seed(self.seed)

    @property
    def protocol(self) -> dict[str, Any]:
        """What says which examples these are, as plain data."""
        return {
            "task": self.task.name,
            "data": self.task.digest(self.split),
            "split": self.split,
            "samples": self.count,
            "batch": self.batch,
            "seed": self.seed,
        }

    def _drawn(self) -> Iterator[Batch] | None:
        """Batches of examples drawn by the seed; None where all are taken, or cannot be chosen."""
        import torch

        size = self.task.size(self.split)
        if self.count is None or size is None or self.count >= size:
            return None
        order = torch.randperm(size, generator=self.generator())[: self.count]
        starts = range(0, self.count, self.batch)
        parts = (self.task.examples(self.split, order[a : a + self.batch]) for a in starts)
        first = next(parts)
        if first is None:
            return None

        def every() -> Iterator[Batch]:
            yield first
            for part in parts:
                assert part is not None
                yield part

        return every()
