"""Sparsify by magnitude: keep the k largest |delta|, exactly, in one pass and bounded memory.

Sorting a delta of billions of entries, or holding it, is out of the question. A sample
brackets the cut; one pass over everything counts what lies above the bracket and makes a histogram
of the bit patterns inside it, which gives the k-th magnitude exactly. Equal magnitudes at the cut
are kept in order of their flattened index, so the pass also counts, chunk by chunk, how many
equal the likely cut; a second pass is needed only when that guess was wrong.

Source: Yadav et al. 2023, arXiv:2306.01708, section 3 (trim). Departs: the cut is exact and ties
go to the lower index; the authors' code keeps every entry not below the k-th, one more.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from zlib import crc32

from zoo.contract import AGAIN, Chunk, Statistic

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

_SAMPLE = 1 << 18
"""About how many entries of each delta are sampled."""
_SAMPLE_CHUNKS = 32
"""At most one chunk in this many is read for the sample."""
_BIN_BITS = 20
_FLUSH = 1 << 20


@dataclass(frozen=True, slots=True)
class Cut:
    """Which entries of one expert survive.

    An entry survives if its magnitude is above `magnitude`, or equal to it and among the first
    `equals` such entries in flattened order (tensor names ascending, then C order).
    """

    magnitude: float
    equals: int
    before: Mapping[str, np.ndarray]
    """Tensor name -> entries equal to the cut before each of its chunks, other tensors included."""

    def quota(self, chunk: Chunk) -> int:
        """How many entries of this chunk that equal the cut survive."""
        return max(0, self.equals - int(self.before[chunk.tensor][chunk.index]))


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
        self.sample: list[np.ndarray] = []
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


class Magnitudes(Statistic):
    """The cut of every expert: `stats["cut"]` is a list of `Cut | None`, None keeping everything.

    Args:
        density: fraction of entries kept, one per expert, dimensionless.
        scope: `model` takes one cut over all merged tensors, `tensor` one for each.
        inclusive: keep one entry more, and all that equal it, as the authors' code does.
        least: fewest entries kept: 1 is what mergekit does.
    Cost: one sampled and one full pass; two full ones when many entries tie unexpectedly.
        O(2^20) memory per expert.
    """

    name = "cut"
    reads = ("density",)

    def __init__(
        self,
        density: list[float],
        scope: Literal["model", "tensor"],
        inclusive: bool = False,
        least: int = 0,
    ) -> None:
        self.scope = scope
        self._density = density
        self.memory = len(density) * ((16 << _BIN_BITS) + 4 * (2 * _FLUSH + _SAMPLE))
        self._inclusive = inclusive
        self._least = least
        self._phase: Literal["sample", "select", "equal"] = "sample"
        self._brackets = [_Bracket() for _ in density]
        self._lock = threading.Lock()
        self._float: type = float

    def start(self, tensor: str, shape: tuple[int, ...], parameters: Any) -> list[_Seen]:
        return [_Seen() for _ in self._density]

    def wants(self, chunk: Chunk) -> bool:
        if self._phase != "sample":
            return True
        stride = self._chunk_stride(chunk)
        return chunk.index % stride == stride // 2

    def _rate(self) -> int:
        return max(1, self.elements // _SAMPLE)

    def _chunk_stride(self, chunk: Chunk) -> int:
        return min(_SAMPLE_CHUNKS, chunk.count, self._rate())

    def add(
        self,
        state: list[_Seen],
        models: torch.Tensor,
        base: torch.Tensor | None,
        chunk: Chunk,
        stats: Mapping[str, Any],
    ) -> None:
        import numpy as np
        import torch

        narrow = models.dtype == torch.float32
        self._float = np.float32 if narrow else np.float64
        for delta, seen, bracket in zip(models, state, self._brackets, strict=True):
            # Magnitudes are ordered like their bit patterns read as integers.
            bits = delta.abs().cpu().numpy().view(np.int32 if narrow else np.int64)
            if self._phase == "sample":
                stride = max(1, self._rate() // self._chunk_stride(chunk))
                taken = bits[crc32(chunk.tensor.encode()) % stride :: stride].copy()
                with self._lock:
                    bracket.sample.append(taken)
                continue
            if self._phase == "equal":
                seen.equal.append(int(np.count_nonzero(bits == bracket.guess)))
                continue
            seen.above += int(np.count_nonzero(bits >= bracket.high))
            others = bits != bracket.guess
            seen.equal.append(len(bits) - int(np.count_nonzero(others)))
            if bracket.high - bracket.low == 1:
                continue
            # What lies below the bracket wraps around to large offsets and drops out with the rest.
            offsets = (bits - bracket.low).view(np.uint32 if narrow else np.uint64)
            inside = offsets < bracket.high - bracket.low
            # Differences of half-precision numbers tie in droves: the guess is only counted.
            inside &= others
            picked = offsets[inside]
            with self._lock:
                bracket.take(picked)

    def finish(self, states: Mapping[str, list[_Seen]]) -> Any:
        if self._phase == "sample":
            for bracket, density in zip(self._brackets, self._density, strict=True):
                _from_sample(bracket, density)
            self._phase = "select"
            return AGAIN
        if self._phase == "select":
            unsure, missed = False, False
            for i, bracket in enumerate(self._brackets):
                guess = bracket.guess
                missed |= not self._locate(bracket, self._keep(i), [s[i] for s in states.values()])
                unsure |= bracket.guess != guess
            if missed:
                return AGAIN
            if unsure:
                self._phase = "equal"
                return AGAIN
        return [self._cut(i, states) for i in range(len(self._density))]

    def _keep(self, expert: int) -> int:
        if self._density[expert] >= 1:
            return self.elements
        return max(self._least, int(self._density[expert] * self.elements) + self._inclusive)

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
        bracket.narrow(low, low + 1)  # should another expert need one more look
        return True

    def _cut(self, expert: int, states: Mapping[str, list[_Seen]]) -> Cut | None:
        import numpy as np

        keep = self._keep(expert)
        if keep >= self.elements:
            return None
        if keep <= 0:
            return Cut(float("inf"), 0, {})
        before: dict[str, np.ndarray] = {}
        running = 0
        for tensor, state in states.items():
            equal = np.asarray(state[expert].equal, dtype=np.int64)
            before[tensor] = running + np.cumsum(equal) - equal
            running += int(equal.sum())
        bracket = self._brackets[expert]
        pattern = np.int32 if self._float is np.float32 else np.int64
        magnitude = float(np.asarray(bracket.guess, pattern).view(self._float))
        equals = self.elements if self._inclusive else keep - bracket.above
        return Cut(magnitude, equals, before)


def _above_all(pattern: npt.DTypeLike) -> int:
    """An integer no bit pattern reaches, not even that of a NaN: else they are sought for ever."""
    import numpy as np

    return int(np.iinfo(pattern).max) + 1


def _from_sample(bracket: _Bracket, density: float) -> None:
    """Bracket the cut with a sample: six standard deviations of its rank, and 0.4 %."""
    import numpy as np

    sample = np.sort(np.concatenate(bracket.sample)) if bracket.sample else np.zeros(0, np.int32)
    bracket.sample = []
    top, n = _above_all(sample.dtype), len(sample)
    rank = density * n
    slack = 6 * (rank * (1 - density)) ** 0.5 + 2 + 0.004 * n
    lowest, highest = n - 1 - int(rank + slack), n - 1 - int(rank - slack)
    low = int(sample[lowest]) if 0 <= lowest < n else 0
    high = int(sample[highest]) + 1 if 0 <= highest < n else top
    bracket.guess = int(sample[min(n - 1, max(0, n - int(rank)))]) if n else 0
    bracket.narrow(low, max(high, low + 1))


def trim(deltas: torch.Tensor, cuts: list[Cut | None], chunk: Chunk) -> torch.Tensor:
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
        keep_above = cut.magnitude
        if quota:
            # hardshrink keeps what is above its bound, and the cut itself is to stay.
            bound = torch.tensor(cut.magnitude, dtype=row.dtype)
            keep_above = float(torch.nextafter(bound, torch.zeros_like(bound)))
            if _splits(cut, chunk):
                at_cut = (row.abs() == cut.magnitude).nonzero()[:, 0]
                row[at_cut[quota:]] = 0
        torch.hardshrink(row, keep_above, out=row)
    return deltas


def _splits(cut: Cut, chunk: Chunk) -> bool:
    """Whether the quota can run out inside this chunk."""
    before = cut.before[chunk.tensor]
    following = chunk.index + 1
    return following >= len(before) or int(before[following]) > cut.equals
