"""Counter-based randomness: a number depends on what it is for, never on when it was drawn.

The generator is Philox 4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"),
keyed by sha256 of (seed, tensor name, parent digest). So the same element gets the same number
for any chunk size, thread count or order of reading.

Two streams, both part of the format:

    uniform     element i has the i-th 64-bit word; its upper 24 bits are a number in [0, 1)
    keeps       element i has the i-th 16-bit word of a stream of its own, low half first;
                it is kept if (word + uniform) / 2^16 < chance

The second costs a quarter of the first: only where the word alone does not decide, at one element
in 65,536, is its uniform number needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

_WORDS_PER_BLOCK = 4
_LANES = 1 << 16


class Random:
    """Randomness for one chunk of one tensor, one stream per expert.

    Args:
        seed: the recipe's seed.
        tensor: tensor name.
        digests: weights digest of each expert: reordered experts take their numbers along.
        start: first element of the chunk, in C order.
        count: elements in the chunk.
        device: where the numbers are wanted; they are the same ones everywhere.
    """

    def __init__(
        self,
        seed: int,
        tensor: str,
        digests: Sequence[str],
        start: int,
        count: int,
        device: str = "cpu",
    ) -> None:
        self._seed = seed
        self._tensor = tensor
        self._digests = digests
        self._start = start
        self._count = count
        self._device = device

    def uniform(self, expert: int) -> torch.Tensor:
        """Uniform float32 in [0, 1) with 24 bits, shape (n,): keep when it is below p."""
        import torch

        return torch.from_numpy(self._uniform(expert, 0, self._count)).to(self._device)

    def keeps(self, expert: int, chance: float | np.ndarray) -> torch.Tensor:
        """1 with the given chance, else 0; uint8, to be multiplied with; shape (n,).

        Args:
            chance: one for all, from 0 to 1; or shape (n,), each below 1. Dimensionless.
        """
        import numpy as np
        import torch

        block, skip = divmod(self._start, 4 * _WORDS_PER_BLOCK)
        words = self._words(expert, "keeps", block, -(-(self._count + skip) // 4))
        lanes = words.astype("<u8", copy=False).view("<u2")[skip : skip + self._count]
        if isinstance(chance, float) and chance >= 1:
            return torch.ones(self._count, dtype=torch.uint8, device=self._device)
        scaled = np.asarray(np.multiply(chance, _LANES))  # exact
        whole = scaled.astype(np.uint16)
        kept = lanes < whole
        for i in np.flatnonzero(lanes == whole):
            rest = scaled[i] - whole[i] if scaled.ndim else scaled - whole
            kept[i] = self._uniform(expert, int(i), 1)[0] < rest
        return torch.from_numpy(kept.view(np.uint8)).to(self._device)

    def _uniform(self, expert: int, offset: int, count: int) -> np.ndarray:
        import numpy as np

        block, skip = divmod(self._start + offset, _WORDS_PER_BLOCK)
        words = self._words(expert, "", block, count + skip)[skip:]
        return (words >> 40).astype(np.float32) * np.float32(2**-24)

    def _words(self, expert: int, stream: str, block: int, count: int) -> np.ndarray:
        import numpy as np

        text = f"{self._seed}\0{self._tensor}\0{self._digests[expert]}"
        text += f"\0{stream}" if stream else ""
        key = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], dtype="<u8")
        return np.random.Philox(key=key, counter=block).random_raw(count)
