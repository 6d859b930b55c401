"""Orthogonal matching pursuit as the textbook has it, in float64, one vector at a time."""

from __future__ import annotations

import numpy as np
import torch

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def wide(tensor: torch.Tensor) -> Array:
    found: Array = tensor.to(torch.float64).numpy()
    return found


def pursue(atoms: Array, vector: Array, k: int) -> tuple[list[int], Array]:
    """The atoms taken, in order, and what each is multiplied by."""
    lengths = np.linalg.norm(atoms, axis=1)
    taken: list[int] = []
    found: Array = np.zeros(0)
    left = vector
    while len(taken) < min(k, len(atoms)):
        if np.linalg.norm(left) <= 1e-6 * np.linalg.norm(vector):
            break
        near = np.abs(atoms @ left) / np.where(lengths > 0, lengths, np.inf)
        near[taken] = -1
        taken.append(int(near.argmax()))
        found = np.asarray(np.linalg.lstsq(atoms[taken].T, vector, rcond=None)[0], np.float64)
        left = vector - found @ atoms[taken]
    return taken, found


def transplanted(atoms: Array, vector: Array, own: Array, k: int) -> Array:
    """The same sum of rows that stand for the atoms elsewhere."""
    taken, found = pursue(atoms, vector, k)
    result: Array = found @ own[taken]
    return result
