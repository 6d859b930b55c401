"""Normal and uniform numbers for routers and noise, by zoo's counter-based generator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.random import Random

if TYPE_CHECKING:
    import numpy as np


def normal(seed: int, tensor: str, key: str, start: int, count: int) -> np.ndarray:
    """Elements of a tensor of N(0, 1) numbers, float64, shape (count,).

    Box and Muller's transform of two uniform numbers each; with their 24 bits, none is farther
    than 5.8 from zero.

    Args:
        tensor: what they are for; with `key`, what the numbers follow from.
        start: the first element, in C order.
    """
    import numpy as np

    drawn = Random(seed, tensor, [key], 2 * start, 2 * count).uniform(0).numpy()
    pairs = drawn.astype(np.float64).reshape(-1, 2)
    radius = np.sqrt(-2 * np.log(1 - pairs[:, 0]))
    found: np.ndarray = radius * np.cos(2 * np.pi * pairs[:, 1])
    return found


def uniform(seed: int, tensor: str, key: str, count: int, bound: float) -> np.ndarray:
    """Numbers from -bound up to bound, float64, shape (count,)."""
    import numpy as np

    drawn = Random(seed, tensor, [key], 0, count).uniform(0).numpy()
    found: np.ndarray = (2 * drawn.astype(np.float64) - 1) * bound
    return found


def keys(digests: list[str]) -> list[str]:
    """A key for each expert: reordered experts take their numbers along, and copies of one differ.

    The first of several equal digests has the digest, the others their count after it.
    """
    return [
        d if not (before := digests[:i].count(d)) else f"{d}/{before}"
        for i, d in enumerate(digests)
    ]
