"""Vectors written as sums of a few others: orthogonal matching pursuit over rows of a matrix.

    x ~ sum_i c_i a_i        k atoms, taken one after the other: the one whose direction is nearest
                             to what is left of x; then all coefficients by least squares

Rows are read where they are, some at a time: memory does not grow with the matrix. Which atom is
nearest is asked in bfloat16 for all of them, and again in float64 for the best few; where others
could be nearer by the error of bfloat16, in float32 for all. All else is float64, and sums are made
by halves, so that the result does not depend on the machine.

Source: Pati, Rezaiifar and Krishnaprasad 1993; solved by an incremental Cholesky factor as in
Rubinstein, Zibulevsky and Elad 2008. Departs: pursues many vectors at a time; a vector that is
reached to one part in a million takes no further atoms.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from itertools import repeat
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.checkpoint import Checkpoint
from zoo.dtypes import DTYPES, torch_dtype
from zoo.engine.single_thread import single_threaded_torch

if TYPE_CHECKING:
    import torch

Numbers = np.ndarray[Any, np.dtype[np.int64]]

_HELD = 128 << 20
"""Bytes of atoms kept for the vectors that are pursued together."""
_CHUNK = 8 << 20
"""Bytes of atoms, as float32, that are compared at a time; and of float64 intermediates."""
_GROUP, _GROUPS = 8, 8
"""Atoms of which only the nearest is remembered; groups of these that are looked at again."""
_REACHED = 1e-12
"""Squared length of what is left, as a part of the vector's, that counts as nothing."""
_DEPENDENT = 1e-10
"""Squared length of an atom's part outside the others' span, of its own, that counts as nothing."""


class Matrix:
    """Rows of a tensor in a checkpoint, whatever its further axes are."""

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        self._checkpoint, self._name = checkpoint, name
        info = checkpoint.tensors[name]
        self.width = prod(info.shape[1:])
        self.dtype = torch_dtype(info.dtype)
        self.row_bytes = self.width * DTYPES[info.dtype].bits // 8

    def rows(self, numbers: Numbers) -> torch.Tensor:
        """Some rows, in the tensor's own type: shape (n, width). Neighbours are read together."""
        import torch

        if not len(numbers) or not self.row_bytes:
            return torch.empty(len(numbers), self.width, dtype=self.dtype)
        data = bytearray(len(numbers) * self.row_bytes)
        view = memoryview(data)
        breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
        ends = [*breaks.tolist(), len(numbers)]
        first = 0
        for end in ends:
            part = view[first * self.row_bytes : end * self.row_bytes]
            self._checkpoint.read_into(self._name, int(numbers[first]) * self.row_bytes, part)
            first = end
        return torch.frombuffer(data, dtype=self.dtype).view(len(numbers), self.width)


@dataclass(frozen=True)
class Sums:
    """Vectors as sums of atoms."""

    atoms: torch.Tensor
    """Shape (n, k), integers: positions in the list of atoms; -1 for none."""
    coefficients: torch.Tensor
    """Shape (n, k), float64; 0 where there is no atom."""

    def over(self, matrix: Matrix, rows: Numbers, first: int, last: int) -> torch.Tensor:
        """The same sums of other rows.

        Args:
            rows: the row that stands for each atom.
            first: the first of the vectors wanted; `last` is the one after them.
        Returns:
            Shape (last - first, width of `matrix`), float64.
        """
        import torch

        chosen = self.atoms[first:last].clamp(min=0).numpy()
        numbers = rows[chosen]
        unique, places = np.unique(numbers, return_inverse=True)
        table = matrix.rows(unique)
        found = torch.empty(last - first, matrix.width, dtype=torch.float64)
        step = _block(chosen.shape[1] * matrix.width * 8)
        where = torch.from_numpy(places.reshape(chosen.shape))
        for at in range(0, last - first, step):
            part = slice(at, at + step)
            weights = self.coefficients[first:last][part].unsqueeze(-1)
            found[part] = summed(table[where[part]].to(torch.float64) * weights, 1)
        return found


def pursued(
    matrix: Matrix, wanted: Numbers, atoms: Numbers, k: int, *, threads: int | None = None
) -> Sums:
    """Each wanted row as a sum of at most k of the atoms.

    Args:
        wanted: rows of `matrix`, n of them.
        atoms: rows of `matrix` that may be summed, ascending. Of equal ones the first is taken.
        k: atoms for each row.
        threads: of this process; the result does not depend on it. None takes all cores.
    Cost: O(n k m d) for m atoms of width d; memory O(n k), and some hundred MiB.
    """
    import torch

    k = min(k, len(atoms))
    chosen = torch.full((len(wanted), k), -1, dtype=torch.int64)
    coefficients = torch.zeros(len(wanted), k, dtype=torch.float64)
    workers = threads or len(os.sched_getaffinity(0))
    with single_threaded_torch(), ThreadPoolExecutor(workers) as pool:
        dictionary = _Dictionary(matrix, atoms, pool)
        together = max(64, min(1024, _HELD // max(1, k * matrix.row_bytes)))
        for first in range(0, len(wanted), together):
            last = min(first + together, len(wanted))
            group = _Group(dictionary, matrix.rows(wanted[first:last]), k)
            group.run(pool)
            chosen[first:last], coefficients[first:last] = group.chosen, group.coefficients
    return Sums(chosen, coefficients)


def summed(values: torch.Tensor, dim: int) -> torch.Tensor:
    """The sum over an axis, by halves: the same on every machine."""
    import torch

    while (n := values.shape[dim]) > 1:
        half = n // 2
        both = values.narrow(dim, 0, half) + values.narrow(dim, half, half)
        odd = values.narrow(dim, 2 * half, n - 2 * half)
        values = torch.cat([both, odd], dim) if n % 2 else both
    return values.sum(dim)


class _Dictionary:
    """The atoms, as directions."""

    def __init__(self, matrix: Matrix, atoms: Numbers, pool: ThreadPoolExecutor) -> None:
        import torch

        self.matrix, self.atoms = matrix, atoms
        step = max(256, _CHUNK // max(1, 4 * matrix.width) // 256 * 256)
        self.chunks = [(i, min(i + step, len(atoms))) for i in range(0, len(atoms), step)]
        self.scales = torch.zeros(len(atoms), 1)
        keys: list[bytes] = []
        for found in pool.map(lambda c: self._measured(*c), self.chunks):
            keys += found
        seen: set[bytes] = set()
        for i, key in enumerate(keys):
            if key in seen:  # equal rows: one of them will do, and always the same
                self.scales[i] = 0.0
            seen.add(key)

    def _measured(self, first: int, last: int) -> list[bytes]:
        import torch

        rows = self.matrix.rows(self.atoms[first:last])
        norms = torch.linalg.vector_norm(rows.to(torch.float32), dim=1, keepdim=True)
        fine = norms.isfinite() & (norms > 0)
        self.scales[first:last] = torch.where(fine, 1 / norms, 0.0)
        raw = rows.contiguous().view(torch.uint8).numpy()
        return [blake2b(row, digest_size=16).digest() for row in raw]

    @property
    def best(self) -> int:
        """What is remembered of each chunk."""
        return max(2, -(-2 * _GROUPS // len(self.chunks)))

    def roughly(self, directions: torch.Tensor, chunk: tuple[int, int]) -> torch.Tensor:
        """Groups of a chunk with the atoms nearest to each direction, in bfloat16.

        Returns:
            Shape (n, best + 1, 2): (nearness, group), the nearest first. The last is nearer than
            all that are left out.
        """
        import torch

        first, last = chunk
        rows, scales = self.matrix.rows(self.atoms[first:last]), self.scales[first:last]
        if rows.dtype == torch.bfloat16:
            units = rows * scales.to(torch.bfloat16)
        else:
            units = rows.to(torch.float32).mul_(scales).to(torch.bfloat16)
        if rest := -len(units) % _GROUP:
            units = torch.cat([units, units.new_zeros(rest, units.shape[1])])
        # Atoms of a group lie a stride apart, where torch finds their maximum sooner.
        units = units.view(-1, _GROUP, units.shape[1]).transpose(0, 1).flatten(0, 1)
        found = torch.full((len(directions), self.best + 1, 2), -1.0)
        for at in range(0, len(directions), 256):
            near = torch.mm(directions[at : at + 256], units.T).abs_()
            best = near.view(len(near), _GROUP, -1).amax(1).to(torch.float32)
            _remember(best, found[at : at + 256], first // _GROUP)
        return found

    def nearly(self, directions: torch.Tensor, chunk: tuple[int, int]) -> torch.Tensor:
        """Atoms of a chunk nearest to each direction, in float32: (nearness, atom)."""
        import torch

        first, last = chunk
        units = self.matrix.rows(self.atoms[first:last]).to(torch.float32)
        near = torch.mm(directions, units.mul_(self.scales[first:last]).T).abs_()
        found = torch.full((len(directions), self.best, 2), -1.0)
        _remember(near, found, first)
        return found


def _remember(near: torch.Tensor, found: torch.Tensor, first: int) -> None:
    """Write the largest of each row of `near`, and their places, to `found`; spoils `near`."""
    import torch

    for i in range(min(found.shape[1], near.shape[1])):
        value, where = near.max(1)
        found[:, i, 0], found[:, i, 1] = value, (first + where).to(torch.float32)
        near.scatter_(1, where.unsqueeze(1), -1.0)


class _Group:
    """Vectors that are pursued together."""

    def __init__(self, dictionary: _Dictionary, vectors: torch.Tensor, k: int) -> None:
        import torch

        n, d = vectors.shape
        self._dictionary, self._k = dictionary, k
        self._x = vectors.to(torch.float64)
        self._left = self._x.clone()
        self._length = summed(self._x * self._x, 1)
        self._live = self._length > 0
        self._rows = torch.zeros(n, k, d, dtype=vectors.dtype)
        self._factor = torch.zeros(n, k, k, dtype=torch.float64)  # Cholesky, of the atoms' products
        self._along = torch.zeros(n, k, dtype=torch.float64)  # the vectors in the factor's terms
        self.chosen = torch.full((n, k), -1, dtype=torch.int64)
        self.coefficients = torch.zeros(n, k, dtype=torch.float64)

    def run(self, pool: ThreadPoolExecutor) -> None:
        n = len(self._x)
        step = _block(self._k * self._x.shape[1] * 8)
        blocks = [slice(i, min(i + step, n)) for i in range(0, n, step)]
        for t in range(self._k):
            if not self._live.any():
                return
            atoms = self._next(pool, blocks, t)
            list(pool.map(self._grow, blocks, [atoms[b] for b in blocks], repeat(t)))

    def _next(self, pool: ThreadPoolExecutor, blocks: Sequence[slice], t: int) -> torch.Tensor:
        """The atom nearest to what is left of each vector; -1 where none is."""
        import torch

        dictionary = self._dictionary
        lengths = torch.linalg.vector_norm(self._left, dim=1, keepdim=True).clamp(min=1e-300)
        directions = (self._left / lengths).to(torch.float32)
        rough = directions.to(torch.bfloat16)
        found = list(pool.map(lambda c: dictionary.roughly(rough, c), dictionary.chunks))
        near = torch.cat([f[:, :-1] for f in found], 1)
        beyond = torch.stack([f[:, -1, 0] for f in found]).amax(0)
        best = near[:, :, 0].topk(min(_GROUPS + 1, near.shape[1]), dim=1)
        if best.values.shape[1] > _GROUPS:
            beyond = torch.maximum(beyond, best.values[:, -1])
        groups = near[:, :, 1].gather(1, best.indices[:, :_GROUPS]).to(torch.int64)
        places = (groups.clamp(min=0).unsqueeze(2) * _GROUP + torch.arange(_GROUP)).flatten(1)
        places[groups.repeat_interleave(_GROUP, 1) < 0] = len(dictionary.atoms)
        chosen = list(pool.map(self._chosen, map(_numbers, blocks), [places[b] for b in blocks]))
        atoms, nearness = torch.cat([c[0] for c in chosen]), torch.cat([c[1] for c in chosen])
        nearness /= lengths.squeeze(1)
        error = 2**-8 * nearness + 2**-6 / self._x.shape[1] ** 0.5
        doubtful = (self._live & (beyond >= nearness - error)).nonzero().squeeze(1)
        if len(doubtful):
            some = directions[doubtful]
            near = torch.cat(
                list(pool.map(lambda c: dictionary.nearly(some, c), dictionary.chunks)), 1
            )
            best = near[:, :, 0].topk(min(_GROUPS, near.shape[1]), dim=1)
            places = near[:, :, 1].gather(1, best.indices).to(torch.int64)
            places[places < 0] = len(dictionary.atoms)
            atoms[doubtful] = self._chosen(doubtful, places)[0]
        return atoms

    def _chosen(
        self, vectors: torch.Tensor, places: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of some atoms for each vector the nearest, and the product of its direction and what is
        left; -1 where all are taken, or none.

        Args:
            vectors: numbers of the vectors, n of them.
            places: shape (n, m), atoms; as many as there are atoms means none.
        """
        import torch

        dictionary, none = self._dictionary, len(self._dictionary.atoms)
        usable = places < none
        places = places.clamp(max=none - 1)
        usable &= (places.unsqueeze(2) != self.chosen[vectors].unsqueeze(1)).all(2)
        scales = dictionary.scales[places].squeeze(2)
        usable &= scales > 0
        table = dictionary.matrix.rows(dictionary.atoms[places.numpy().reshape(-1)])
        table = table.view(*places.shape, -1)
        left = self._left[vectors]
        near = torch.einsum("ncd,nd->nc", table.to(torch.float32), left.to(torch.float32)).abs()
        near = torch.where(usable, near * scales, torch.full_like(near, -1.0))
        best = near.topk(min(3, near.shape[1]), dim=1).indices
        rows = table[torch.arange(len(best)).unsqueeze(1), best].to(torch.float64)
        lengths = summed(rows * rows, 2).sqrt()
        exact = summed(rows * left.unsqueeze(1), 2).abs() / lengths.clamp(min=1e-300)
        exact = torch.where(usable.gather(1, best), exact, torch.full_like(exact, -1.0))
        top = exact.amax(1, keepdim=True)
        # Of equally near atoms the first.
        place = torch.where(exact == top, places.gather(1, best), none).amin(1)
        return torch.where(top.squeeze(1) > 0, place, -1), top.squeeze(1)

    def _grow(self, block: slice, atom: torch.Tensor, t: int) -> None:
        """Take one more atom for the vectors of a block."""
        import torch

        live = self._live[block]
        live &= atom >= 0
        dictionary = self._dictionary
        rows = dictionary.matrix.rows(dictionary.atoms[atom.clamp(min=0).numpy()])
        rows = torch.where(live.unsqueeze(1), rows, torch.zeros_like(rows))
        self._rows[block, t] = rows
        wide = rows.to(torch.float64)
        products = summed(self._rows[block, : t + 1].to(torch.float64) * wide.unsqueeze(1), 2)
        own, products = products[:, t].clone(), products[:, :t]
        factor, along = self._factor[block], self._along[block]
        rest, inside, known = own.clone(), products.clone(), summed(self._x[block] * wide, 1)
        for i in range(t):
            part = inside[:, i] / factor[:, i, i]
            inside[:, i + 1 :] -= factor[:, i + 1 : t, i] * part.unsqueeze(1)
            rest -= part * part
            known -= part * along[:, i]
            factor[:, t, i] = part
        live &= rest > _DEPENDENT * own
        factor[:, t, :t] *= live.unsqueeze(1)
        factor[:, t, t] = torch.where(live, rest, torch.ones_like(rest)).sqrt()
        along[:, t] = torch.where(live, known / factor[:, t, t], torch.zeros_like(known))
        self.chosen[block, t] = torch.where(live, atom, torch.full_like(atom, -1))
        self._solve(block, t)
        left = self._left[block]
        live &= summed(left * left, 1) > _REACHED * self._length[block]
        self._live[block] = live

    def _solve(self, block: slice, t: int) -> None:
        """All coefficients anew, and what they leave."""
        import torch

        factor, found = self._factor[block], self._along[block, : t + 1].clone()
        for i in range(t, -1, -1):
            found[:, i] /= factor[:, i, i]
            found[:, :i] -= factor[:, i, :i] * found[:, i : i + 1]
        self.coefficients[block, : t + 1] = found
        parts = self._rows[block, : t + 1].to(torch.float64) * found.unsqueeze(2)
        self._left[block] = self._x[block] - summed(parts, 1)


def _numbers(block: slice) -> torch.Tensor:
    import torch

    return torch.arange(block.start, block.stop)


def _block(row: int) -> int:
    """Rows of float64 intermediates worked on at a time."""
    return max(1, 2 * _CHUNK // max(1, row))
