"""Exact order statistics of values that stream past: the k-th smallest, in bounded memory.

Floats are ordered like integers made of their bits. A sample of those brackets each rank; one pass
over everything counts what lies below the bracket and makes a histogram of what lies inside. Where
a bin of it is wider than one value, one more pass looks into the bin that has the rank. The answer
does not depend on the sample, on the length of a chunk, nor on the order of tensors.

`zoo.stages.magnitude` does the same for the cut of a delta, where it must also tell which of
several equal entries survive.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from zlib import crc32

from zoo.contract import AGAIN, Chunk, Statistic

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    Values = Callable[
        [torch.Tensor, torch.Tensor | None, Chunk, Mapping[str, Any]], torch.Tensor | None
    ]

_SAMPLE = 1 << 18
"""About how many values of each expert are sampled."""
_SAMPLE_CHUNKS = 32
"""At most one chunk in this many is read for the sample."""
_BIN_BITS = 18
_FLUSH = 1 << 18


class Ranked(Statistic):
    """The values at some ranks, for each expert: `stats[name][expert]` is a tuple of floats.

    Zeros where nothing was counted; a rank beyond the last is infinity.

    Args:
        values: what is ranked, shape (e, n), made of one chunk's models, base, place and the
            statistics before; None leaves the chunk out. It may overwrite the models.
        ranks: each, given an expert and how many values it has, says a rank, from 0 (smallest).
        experts: how many there are.
    Cost: one sampled and one full pass, one more where values crowd; 6 MB per rank and expert.
    """

    def __init__(
        self,
        name: str,
        values: Values,
        ranks: Sequence[Callable[[int, int], int]],
        experts: int,
        scope: Literal["model", "tensor"] = "model",
        reads: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.scope = scope
        self.reads = reads
        self._values = values
        self._ranks = ranks
        self.memory = experts * (len(ranks) * 24 * _FLUSH + 8 * _SAMPLE)
        self._sampling = True
        self._samples: list[list[np.ndarray]] = [[] for _ in range(experts)]
        self._searches: list[list[_Search]] = []
        self._count = 0
        self._lock = threading.Lock()

    def start(self, tensor: str, shape: tuple[int, ...], parameters: Any) -> None:
        """Nothing is kept by tensor: counts add up to the same in any order."""

    def wants(self, chunk: Chunk) -> bool:
        if not self._sampling:
            return True
        stride = self._chunk_stride(chunk)
        return chunk.index % stride == stride // 2

    def _rate(self) -> int:
        return max(1, self.elements // _SAMPLE)

    def _chunk_stride(self, chunk: Chunk) -> int:
        return min(_SAMPLE_CHUNKS, chunk.count, self._rate())

    def add(
        self,
        state: None,
        models: torch.Tensor,
        base: torch.Tensor | None,
        chunk: Chunk,
        stats: Mapping[str, Any],
    ) -> None:
        values = self._values(models, base, chunk, stats)
        if values is None:
            return
        rows = [_keys(row) for row in values.cpu()]
        if self._sampling:
            stride = max(1, self._rate() // self._chunk_stride(chunk))
            first = crc32(chunk.tensor.encode()) % stride
            with self._lock:
                for sample, keys in zip(self._samples, rows, strict=True):
                    sample.append(keys[first::stride].copy())
            return
        for keys, searches in zip(rows, self._searches, strict=True):
            for search in searches:
                if not search.done:
                    below, offsets = search.look(keys)
                    with self._lock:
                        search.take(below, offsets)
        with self._lock:
            self._count += values.shape[1]

    def finish(self, states: Mapping[str, None]) -> Any:
        if self._sampling:
            return self._from_samples()
        for i, searches in enumerate(self._searches):
            for search, rank in zip(searches, self._ranks, strict=True):
                if not search.done and self._count:
                    search.locate(rank(i, self._count), self._count)
        if self._count and not all(s.done for searches in self._searches for s in searches):
            self._count = 0
            return AGAIN
        return [tuple(s.value() for s in searches) for searches in self._searches]

    def _from_samples(self) -> Any:
        import numpy as np

        self._sampling = False
        samples = [
            np.sort(np.concatenate(s)) if s else np.zeros(0, np.int32) for s in self._samples
        ]
        self._samples = []
        if self._rate() == 1:  # the sample is all there is
            return [
                tuple(_at(keys, rank(i, len(keys))) for rank in self._ranks)
                for i, keys in enumerate(samples)
            ]
        for i, keys in enumerate(samples):
            shares = [rank(i, self.elements) / self.elements for rank in self._ranks]
            self._searches.append([_Search(keys, share) for share in shares])
        return AGAIN


class _Search:
    """Where one value must lie, as keys from `low` to `last`, and what was found there."""

    def __init__(self, sample: np.ndarray, share: float) -> None:
        """Bracket the rank: six standard deviations of where a sample has it, and 0.4 %."""
        import numpy as np

        n = len(sample)
        rank = share * n
        slack = 6 * (rank * max(0.0, 1 - share)) ** 0.5 + 2 + 0.004 * n
        left, right = int(rank - slack), int(rank + slack)
        self._dtype = sample.dtype
        info = np.iinfo(sample.dtype)
        self._least, self._most = int(info.min), int(info.max)
        self._beyond = _infinity(sample.dtype)
        self.done = False
        self._narrow(
            int(sample[left]) if 0 <= left < n else self._least,
            int(sample[right]) if 0 <= right < n else self._most,
        )

    def _narrow(self, low: int, last: int) -> None:
        """Look at keys from `low` to `last` in the next pass."""
        self._low, self._last = low, last
        self._shift = max(0, (last - low).bit_length() - _BIN_BITS)
        self._histogram: np.ndarray | None = None
        self._pending: list[np.ndarray] = []
        self._waiting = 0
        self._below = 0

    def look(self, keys: np.ndarray) -> tuple[int, np.ndarray]:
        """How many keys lie below, and those inside as offsets from `low`."""
        import numpy as np

        below = int(np.count_nonzero(keys < self._low))
        # What lies below wraps around to large offsets, beyond those of the bracket.
        offsets = np.subtract(keys, keys.dtype.type(self._low)).view(
            np.uint32 if keys.itemsize == 4 else np.uint64
        )
        return below, offsets[offsets <= self._last - self._low]

    def take(self, below: int, offsets: np.ndarray) -> None:
        """Remember what `look` found; in a histogram once it is much."""
        self._below += below
        self._pending.append(offsets)
        self._waiting += len(offsets)
        if self._waiting >= _FLUSH:
            self._flush()

    def _flush(self) -> None:
        import numpy as np

        if self._histogram is None:
            self._histogram = np.zeros(((self._last - self._low) >> self._shift) + 1, np.int64)
        bins = np.concatenate(self._pending) >> self._shift
        self._histogram += np.bincount(bins.astype(np.int64), minlength=len(self._histogram))
        self._pending, self._waiting = [], 0

    def locate(self, rank: int, count: int) -> None:
        """Find the rank in what was taken, or choose where to look next."""
        import numpy as np

        if rank >= count:
            self.done, self._low = True, self._beyond
            return
        if self._histogram is None:
            shift = 0
            taken = np.concatenate(self._pending) if self._pending else np.zeros(0, np.uint32)
            bins, counts = np.unique(taken, return_counts=True)
        else:
            if self._pending:
                self._flush()
            shift = self._shift
            bins = np.flatnonzero(self._histogram)
            counts = self._histogram[bins]
        up_to = np.cumsum(counts)
        if rank < self._below:
            self._narrow(self._least, self._low - 1)
        elif rank >= self._below + int(counts.sum()):
            self._narrow(self._last + 1, self._most)
        else:
            place = int(np.searchsorted(up_to, rank - self._below, side="right"))
            low = self._low + (int(bins[place]) << shift)
            last = min(low + (1 << shift) - 1, self._last)
            self._narrow(low, last)
            self.done = low == last

    def value(self) -> float:
        return _value(self._low, self._dtype) if self.done else 0.0


def _keys(row: torch.Tensor) -> npt.NDArray[np.signedinteger[Any]]:
    """Integers ordered like the floats: the bits, those below the sign turned where it is set."""
    import numpy as np

    narrow = row.itemsize == 4
    kind = np.int32 if narrow else np.int64
    bits: npt.NDArray[np.signedinteger[Any]] = row.contiguous().numpy().view(kind)
    top = np.iinfo(bits.dtype)
    return bits ^ ((bits >> (top.bits - 1)) & top.max)


def _at(keys: np.ndarray, rank: int) -> float:
    """The value at a rank of keys in order."""
    if not len(keys):
        return 0.0
    return _value(int(keys[rank]) if rank < len(keys) else _infinity(keys.dtype), keys.dtype)


def _infinity(dtype: np.dtype[Any]) -> int:
    """The key of infinity: exponent all ones, nothing else."""
    return 0x7F800000 if dtype.itemsize == 4 else 0x7FF << 52


def _value(key: int, dtype: np.dtype[Any]) -> float:
    """The float that has a key."""
    import numpy as np

    bits = key if key >= 0 else key ^ int(np.iinfo(dtype).max)
    return float(np.asarray(bits, dtype).view(np.float32 if dtype.itemsize == 4 else np.float64))
