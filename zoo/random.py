"""Counter-based randomness: a number depends on what it is for, never on when it was drawn.

The generator is Philox 4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"),
keyed by sha256 of (seed, tensor name, parent digest); element i of a tensor uses the i-th 64-bit
word of the stream. So the same element gets the same number for any chunk size, thread
count or order of reading.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_WORDS_PER_BLOCK = 4


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
        import numpy as np
        import torch

        text = f"{self._seed}\0{self._tensor}\0{self._digests[expert]}"
        key = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], dtype="<u8")
        block, skip = divmod(self._start, _WORDS_PER_BLOCK)
        words = np.random.Philox(key=key, counter=block).random_raw(self._count + skip)[skip:]
        drawn = (words >> 40).astype(np.float32) * np.float32(2**-24)
        return torch.from_numpy(drawn).to(self._device)
