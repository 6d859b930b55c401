"""Sparsify by magnitude: keep the k largest |delta|, exactly, in one pass and bounded memory.

A tensor trimmed by itself, if it is not huge, is held and partitioned around its cuts. Sorting a
delta of billions of entries, or holding it, is out of the question: there a sample brackets the
cut, and one pass over everything counts what lies above the bracket and makes a histogram of the
bit patterns inside it, which gives the k-th magnitude exactly. Equal magnitudes at the cut are kept
in order of their flattened index, so the pass also counts, chunk by chunk, how many equal the
likely cut; a second pass is needed only when that guess was wrong.

Source: Yadav et al. 2023, arXiv:2306.01708, section 3 (trim). Departs: the cut is exact and ties
go to the lower index; the authors' code keeps every entry not below the k-th, one more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from zlib import crc32

from zoo.contract import AGAIN, Chunk, Statistic

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

_SAMPLE = 1 << 20
"""About how many entries of each delta are sampled."""
_SAMPLE_CHUNKS = 32
"""At most one chunk in this many is read for the sample."""
_BIN_BITS = 20
_HELD = 1 << 24
"""Magnitudes of one tensor that are held at once, those of all experts, at most."""
_FLUSH = 1 << 20


@dataclass(frozen=True, slots=True)
class Cut:
    """Which entries of one expert survive.

    An entry survives if its magnitude is above `magnitude`, or equal to it and among the first
    `equals` such entries in flattened order (tensor names ascending, then C order).
    """

    magnitude: float
    below: float
    """The largest number below `magnitude`, in the type of the deltas."""
    equals: int
    before: Mapping[str, np.ndarray]
    """Tensor name -> entries equal to the cut before each of its chunks, other tensors included."""

    def quota(self, chunk: Chunk) -> int:
        """How many entries of this chunk that equal the cut survive."""
        return max(0, self.equals - int(self.before[chunk.tensor][chunk.index]))


_NOTHING = Cut(float("inf"), float("inf"), 0, {})
"""The cut that nothing survives."""


@dataclass(slots=True)
class _Seen:
    """What one tensor has shown of one expert."""

    above: int = 0
    """Entries above the bracket."""
    equal: list[int] = field(default_factory=list)
    """Per chunk, entries equal to the guess."""


class _Bracket:
    """Where the cut of one expert must lie, as bit patterns, and what was found there."""

    def __init__(self) -> None:
        self.pending: list[np.ndarray] = []
        self.pending_size = 0
        self.guess = 0
        self.above = 0

    def narrow(self, low: int, high: int) -> None:
        """Look at patterns in [low, high) next."""
        self.low, self.high = low, high
        self.shift = max(0, (high - low - 1).bit_length() - _BIN_BITS)
        self.histogram: np.ndarray | None = None
        self.pending, self.pending_size = [], 0

    def take(self, offsets: np.ndarray) -> None:
        """Remember patterns, as offsets from `low`; in a histogram once they are many."""
        self.pending.append(offsets)
        self.pending_size += len(offsets)
        if self.pending_size >= _FLUSH:
            self._flush()

    def _flush(self) -> None:
        import numpy as np

        if self.histogram is None:
            self.histogram = np.zeros(((self.high - self.low - 1) >> self.shift) + 1, np.int64)
        bins = np.concatenate(self.pending) >> self.shift
        self.histogram += np.bincount(bins.astype(np.int64), minlength=len(self.histogram))
        self.pending, self.pending_size = [], 0

    def found(self, at_guess: int) -> tuple[np.ndarray, np.ndarray, int, int]:
        """What was taken, and the `at_guess` entries that equal the guess and were only counted.

        Returns:
            offsets ascending, and how many entries each has; patterns that share one offset;
            the offset of the guess, -1 when it lies outside.
        """
        import numpy as np

        if self.histogram is None:
            width = 1
            taken = np.concatenate(self.pending) if self.pending else np.zeros(0, np.int64)
            offsets, counts = np.unique(taken.astype(np.int64), return_counts=True)
        else:
            if self.pending:
                self._flush()
            width = 1 << self.shift
            bins = np.flatnonzero(self.histogram)
            offsets, counts = bins << self.shift, self.histogram[bins]
        if not self.low <= self.guess < self.high:
            return offsets, counts, width, -1
        own = (self.guess - self.low) // width * width
        place = int(np.searchsorted(offsets, own))
        if place == len(offsets) or offsets[place] != own:
            offsets, counts = np.insert(offsets, place, own), np.insert(counts, place, 0)
        counts[place] += at_guess
        return offsets, counts, width, own


Keep = Callable[[int], int]
"""How many of n entries are kept; below 0 is 0, above n is n."""


class Magnitudes(Statistic):
    """Cuts of every expert: `stats["cut"][i]` has one `Cut | None` for each count asked of
    expert i; None keeps everything.

    Args:
        keep: for each expert, how many entries survive each of its cuts.
        scope: `model` takes cuts over all merged tensors, `tensor` for each of its own.
        reads: the parameters that `keep` was made of.
        inclusive: keep all entries that equal the last one kept, as the authors' code does.
    Cost: of a small tensor of its own, one pass that holds its magnitudes and selects among them,
        0.5 ns per entry. Else one sampled and one full pass, two full ones when many entries tie
        unexpectedly; O(2^20) memory per cut.
    """

    name = "cut"

    def __init__(
        self,
        keep: Sequence[Sequence[Keep]],
        scope: Literal["model", "tensor"],
        reads: tuple[str, ...] = ("density",),
        inclusive: bool = False,
    ) -> None:
        self.scope = scope
        self.reads = reads
        self._keep = keep
        self._inclusive = inclusive
        self._phase: Literal["sample", "select", "equal"] = "sample"
        self._held: np.ndarray | None = None
        self._brackets = [[_Bracket() for _ in cuts] for cuts in keep]
        self._samples: list[list[np.ndarray]] = [[] for _ in keep]
        self._lock = threading.Lock()
        self._float: type = float

    @property
    def memory(self) -> int:  # type: ignore[override]
        if self._holds():
            return self.width * self.elements * (len(self._keep) + 1)
        cuts = sum(map(len, self._keep))
        return cuts * ((16 << _BIN_BITS) + 4 * (2 * _FLUSH + _SAMPLE))

    def _holds(self) -> bool:
        """Whether the magnitudes of all experts are held at once."""
        return self.scope == "tensor" and self.elements * len(self._keep) <= _HELD

    def start(self, tensor: str, shape: tuple[int, ...], parameters: Any) -> list[list[_Seen]]:
        return [[_Seen() for _ in cuts] for cuts in self._keep]

    def wants(self, chunk: Chunk) -> bool:
        if self._phase != "sample" or self._holds():
            return True
        stride = self._chunk_stride(chunk)
        return chunk.index % stride == stride // 2

    def _rate(self) -> int:
        return max(1, self.elements // _SAMPLE)

    def _chunk_stride(self, chunk: Chunk) -> int:
        return min(_SAMPLE_CHUNKS, chunk.count, self._rate())

    def add(
        self,
        state: list[list[_Seen]],
        models: torch.Tensor,
        base: torch.Tensor | None,
        chunk: Chunk,
        stats: Mapping[str, Any],
    ) -> None:
        import numpy as np
        import torch

        narrow = models.dtype == torch.float32
        self._float = np.float32 if narrow else np.float64
        if self._holds():
            self._hold(models, chunk)
            return
        for i, delta in enumerate(models):
            # Magnitudes are ordered like their bit patterns read as integers.
            bits = delta.abs().cpu().numpy().view(np.int32 if narrow else np.int64)
            if self._phase == "sample":
                stride = max(1, self._rate() // self._chunk_stride(chunk))
                taken = bits[crc32(chunk.tensor.encode()) % stride :: stride].copy()
                with self._lock:
                    self._samples[i].append(taken)
                continue
            for seen, bracket in zip(state[i], self._brackets[i], strict=True):
                if self._phase == "equal":
                    seen.equal.append(int(np.count_nonzero(bits == bracket.guess)))
                else:
                    self._count(bits, seen, bracket)

    def _hold(self, models: torch.Tensor, chunk: Chunk) -> None:
        import torch

        if self._held is None:
            shape = (len(models), self.elements)
            self._held = _scratch("held", shape[0] * shape[1], self._float)
            self._held = self._held.reshape(shape)
            self._ends: list[int] = []
        self._ends.append(chunk.stop)
        held = torch.from_numpy(self._held[:, chunk.start : chunk.stop])
        if models.device.type == "cpu":
            torch.abs(models, out=held)
        else:
            held.copy_(models.abs())

    def _select(self, tensor: str) -> list[list[Cut | None]]:
        """The cuts of magnitudes that are all at hand."""
        import numpy as np

        assert self._held is not None
        pattern = np.int32 if self._float is np.float32 else np.int64
        found = []
        for i, row in enumerate(self._held.view(pattern)):
            kept = [self._kept(i, c) for c in range(len(self._keep[i]))]
            inner = sorted({len(row) - k for k in kept if 0 < k < len(row)})
            ordered = _scratch("ordered", len(row), pattern)
            if inner:
                ordered[:] = row
            start = 0
            for at in inner:  # numpy is vectorized for one place at a time
                ordered[start:].partition(at - start)
                start = at + 1  # what stands at `at` must not move again
            found.append([self._chosen(tensor, row, ordered, k) for k in kept])
        self._held = None
        return found

    def _chosen(self, tensor: str, row: np.ndarray, ordered: np.ndarray, keep: int) -> Cut | None:
        """The cut that keeps `keep` entries of `row`; `ordered` has them in its last places."""
        import numpy as np

        if keep >= len(row):
            return None
        if keep <= 0:
            return _NOTHING
        last = ordered[len(row) - keep]
        starts = [0, *self._ends[:-1]]
        ends = zip(starts, self._ends, strict=True)
        equal = np.array([np.count_nonzero(row[a:b] == last) for a, b in ends], np.int64)
        above = int(np.count_nonzero(ordered[len(row) - keep :] > last))
        equals = len(row) if self._inclusive else keep - above
        return self._at(int(last), equals, {tensor: np.cumsum(equal) - equal})

    def _count(self, bits: np.ndarray, seen: _Seen, bracket: _Bracket) -> None:
        """Count what lies above the bracket and what equals the guess, and take the rest of it."""
        import numpy as np

        seen.above += int(np.count_nonzero(bits >= bracket.high))
        # What lies below the bracket wraps around to large offsets and drops out.
        unsigned = np.uint32 if bits.itemsize == 4 else np.uint64
        offsets = (bits - bracket.low).view(unsigned)
        inside = offsets < unsigned(bracket.high - bracket.low)
        if bracket.high - bracket.low == 1:
            seen.equal.append(int(np.count_nonzero(inside)))
            return
        # A boolean index is four times as slow as the positions of its few ones.
        picked = offsets[np.flatnonzero(inside)]
        # Differences of half-precision numbers tie in droves: the guess is only counted.
        others = picked != bracket.guess - bracket.low
        equal = len(picked) - int(np.count_nonzero(others))
        seen.equal.append(equal)
        picked = picked[others] if equal else picked
        with self._lock:
            bracket.take(picked)

    def finish(self, states: Mapping[str, list[list[_Seen]]]) -> Any:
        if self._held is not None:
            (tensor,) = states
            return self._select(tensor)
        if self._phase == "sample":
            for i, brackets in enumerate(self._brackets):
                sample = _sorted(self._samples[i])
                for c, bracket in enumerate(brackets):
                    _from_sample(bracket, sample, self._kept(i, c) / max(1, self.elements))
            self._samples = [[] for _ in self._keep]
            self._phase = "select"
            return AGAIN
        if self._phase == "select":
            unsure, missed = False, False
            for i, brackets in enumerate(self._brackets):
                for c, bracket in enumerate(brackets):
                    guess = bracket.guess
                    seen = [s[i][c] for s in states.values()]
                    missed |= not self._locate(bracket, self._kept(i, c), seen)
                    unsure |= bracket.guess != guess
            if missed:
                return AGAIN
            if unsure:
                self._phase = "equal"
                return AGAIN
        return [
            [self._cut(i, c, states) for c in range(len(cuts))] for i, cuts in enumerate(self._keep)
        ]

    def _kept(self, expert: int, cut: int) -> int:
        return min(self.elements, max(0, self._keep[expert][cut](self.elements)))

    def _locate(self, bracket: _Bracket, keep: int, seen: list[_Seen]) -> bool:
        """Set the guess to the cut and count what lies above it; False: look again, elsewhere."""
        import numpy as np

        above = sum(s.above for s in seen)
        guessed = sum(sum(s.equal) for s in seen)
        offsets, counts, width, own = bracket.found(guessed)
        inside = int(counts.sum())
        if keep <= 0 or keep >= self.elements:
            return True
        if above >= keep:
            pattern = np.int32 if self._float is np.float32 else np.int64
            bracket.narrow(bracket.high, _above_all(pattern))
            return False
        if above + inside < keep:
            bracket.narrow(0, bracket.low)
            return False
        from_top = np.cumsum(counts[::-1])
        place = int(np.searchsorted(from_top, keep - above))
        offset, entries = int(offsets[-1 - place]), int(counts[-1 - place])
        low = bracket.low + offset
        if offset == own and entries == guessed:
            low = bracket.guess  # however wide its bin, it has it for itself
        elif width > 1:
            bracket.narrow(low, min(low + width, bracket.high))
            return False
        bracket.above = above + int(from_top[place - 1] if place else 0)
        bracket.guess = low
        bracket.narrow(low, low + 1)  # should another cut need one more look
        return True

    def _cut(self, expert: int, cut: int, states: Mapping[str, list[list[_Seen]]]) -> Cut | None:
        import numpy as np

        keep = self._kept(expert, cut)
        if keep >= self.elements:
            return None
        if keep <= 0:
            return _NOTHING
        before: dict[str, np.ndarray] = {}
        running = 0
        for tensor, state in states.items():
            equal = np.asarray(state[expert][cut].equal, dtype=np.int64)
            before[tensor] = running + np.cumsum(equal) - equal
            running += int(equal.sum())
        bracket = self._brackets[expert][cut]
        equals = self.elements if self._inclusive else keep - bracket.above
        return self._at(bracket.guess, equals, before)

    def _at(self, bits: int, equals: int, before: Mapping[str, np.ndarray]) -> Cut:
        """The cut at a magnitude given by its bit pattern; the pattern before is the next below."""
        import numpy as np

        pattern = np.int32 if self._float is np.float32 else np.int64
        below, magnitude = np.array([max(0, bits - 1), bits], pattern).view(self._float).tolist()
        return Cut(magnitude, below, equals, before)


def _above_all(pattern: npt.DTypeLike) -> int:
    """An integer no bit pattern reaches, not even that of a NaN: else they are sought for ever."""
    import numpy as np

    return int(np.iinfo(pattern).max) + 1


_thread = threading.local()


def _scratch(name: str, size: int, dtype: npt.DTypeLike) -> np.ndarray:
    """An array that this thread uses again for its next tensor: new pages cost more than the work
    on them."""
    import numpy as np

    held = getattr(_thread, name, None)
    if held is None or held.dtype != dtype or len(held) < size:
        held = np.empty(size, dtype)
        setattr(_thread, name, held)
    return held[:size]


def _sorted(taken: list[np.ndarray]) -> np.ndarray:
    import numpy as np

    return np.sort(np.concatenate(taken)) if taken else np.zeros(0, np.int32)


def _from_sample(bracket: _Bracket, sample: np.ndarray, density: float) -> None:
    """Bracket the cut with a sorted sample: six standard deviations of its rank, and 0.4 %."""
    top, n = _above_all(sample.dtype), len(sample)
    rank = density * n
    slack = 6 * (rank * (1 - density)) ** 0.5 + 2 + 0.004 * n
    lowest, highest = n - 1 - int(rank + slack), n - 1 - int(rank - slack)
    low = int(sample[lowest]) if 0 <= lowest < n else 0
    high = int(sample[highest]) + 1 if 0 <= highest < n else top
    bracket.guess = int(sample[min(n - 1, max(0, n - int(rank)))]) if n else 0
    bracket.narrow(low, max(high, low + 1))


def trim(deltas: torch.Tensor, cuts: Sequence[Cut | None], chunk: Chunk) -> torch.Tensor:
    """Zero, in place, the entries that do not survive the cut of their expert.

    Args:
        deltas: shape (e, n).
        cuts: one per expert; None keeps everything.
    Returns:
        `deltas`, trimmed.
    """
    import torch

    for row, cut in zip(deltas, cuts, strict=True):
        if cut is None:
            continue
        if cut.magnitude == float("inf"):
            row.zero_()
            continue
        quota = cut.quota(chunk)
        if quota and _splits(cut, chunk):
            at_cut = (row.abs() == cut.magnitude).nonzero()[:, 0]
            row[at_cut[quota:]] = 0
        # hardshrink keeps what is above its bound.
        torch.hardshrink(row, cut.below if quota else cut.magnitude, out=row)
    return deltas


def _splits(cut: Cut, chunk: Chunk) -> bool:
    """Whether the quota can run out inside this chunk."""
    before = cut.before[chunk.tensor]
    following = chunk.index + 1
    return following >= len(before) or int(before[following]) > cut.equals
