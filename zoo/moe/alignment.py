"""The permutation of an expert's inner units under which it is most like another.

An expert does the same when the rows of what goes in and the columns of what comes out are permuted
alike. Aligned experts have an average that means something.

    S = sum over the matrices in of  A B^T  +  A_out^T B_out        P maximises  sum_i S[i, P[i]]

Source: Li et al. 2024, arXiv:2310.01334, section 3.1; UNITES-Lab/MC-SMoE,
`mcsmoe/merging/permutation.py`. The assignment is Jonker's and Volgenant's shortest augmenting
paths (1987), O(n^3) time with O(n) steps of O(n) each for every unit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def likeness(
    into: list[tuple[np.ndarray, np.ndarray]], out: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Inner products of the units of two experts, shape (units, units).

    Args:
        into: for each matrix in (gate, up), the first expert's and the second's, shape (units, d).
        out: the matrices out, shape (d, units).
    """
    found: np.ndarray = sum((a @ b.T for a, b in into), out[0].T @ out[1])
    return found


def assignment(gain: np.ndarray) -> list[int]:
    """For each row the column it gets, each column once, so that the sum of gains is largest."""
    import numpy as np

    cost = gain.max() - gain
    n = len(cost)
    rows, columns = np.zeros(n), np.zeros(n)
    taken = np.full(n, -1)
    """Column -> its row."""
    for first in range(n):
        distance = np.full(n, np.inf)
        came = np.full(n, -1)
        done = np.zeros(n, dtype=bool)
        row, column, reached = first, -1, 0.0
        while True:
            through = reached + cost[row] - rows[row] - columns
            better = ~done & (through < distance)
            distance[better], came[better] = through[better], column
            column = int(np.argmin(np.where(done, np.inf, distance)))
            reached = distance[column]
            done[column] = True
            if taken[column] < 0:
                break
            row = taken[column]
        others = done.copy()
        others[column] = False
        rows[first] += reached
        rows[taken[others]] += reached - distance[others]
        columns[others] -= reached - distance[others]
        while True:
            before = came[column]
            taken[column] = first if before < 0 else taken[before]
            if before < 0:
                break
            column = before
    return [int(c) for c in np.argsort(taken)]
