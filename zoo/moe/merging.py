"""A mixture whose experts were merged into fewer: its tensors, worked out when they are read.

    merged = sum of f_e W_e over the group / sum of f_e        f: how often each expert is used

The rows of the router are averaged alike. With `router: keep` the router stays as it is and every
member of a group becomes the merged expert, as the paper has it: then nothing gets smaller, and
two chosen members of one group add their weights.

Source: Li et al. 2024, arXiv:2310.01334 (M-SMoE), section 3.
Departs: no 1e-7 in the denominator, so that an expert alone in its group keeps its bytes; where no
member of a group is ever used, the plain mean.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo.checkpoint import Checkpoint, TensorInfo
from zoo.dtypes import torch_dtype
from zoo.moe.alignment import assignment, likeness
from zoo.moe.elements import Lazy, Reader, computed, copied, elements
from zoo.moe.grouping import Groups, by_cores, consecutive, cosines
from zoo.moe.mixed import Block, Slab, makes_hidden_units

if TYPE_CHECKING:
    import numpy as np
    import torch

_BLOCK = 1 << 20
"""Elements of each expert that are compared at once."""


class Merging:
    """How the experts of one block are merged.

    Args:
        source: the mixture.
        block: of it.
        usage: of each expert, of any scale.
        groups: given ones, or how many.
        grouping: how experts are grouped where groups are not given.
        align: whether to permute the units of experts to those of the first expert.
        notes: gets the groups under the number of the layer, once they are found.
    """

    def __init__(
        self,
        source: Checkpoint,
        block: Block,
        usage: Sequence[float],
        groups: Groups | int,
        grouping: str,
        align: bool,
        notes: dict[str, Any],
    ) -> None:
        self.source, self.block, self.usage = source, block, usage
        self._asked, self._grouping, self._align = groups, grouping, align
        self._lock = threading.Lock()
        self._notes = notes
        self._found: Groups | None = None
        self._orders: dict[int, list[int]] = {}

    @property
    def groups(self) -> Groups:
        """Members of each group; worked out once."""
        with self._lock:
            if self._found is None:
                self._found = self._grouped()
                self._notes[str(self.block.layer)] = [list(group) for group in self._found]
        return self._found

    def weights(self, members: Sequence[int]) -> list[float]:
        """The part of each member in its group's average; they sum to 1."""
        used = [self.usage[e] for e in members]
        total = sum(used)
        return [u / total for u in used] if total > 0 else [1 / len(used)] * len(used)

    def matrix(self, part: str, members: Sequence[int], start: int, count: int) -> torch.Tensor:
        """Elements of a group's average of one part, float64, shape (count,)."""
        import torch

        found = torch.zeros(count, dtype=torch.float64)
        for e, weight in zip(members, self.weights(members), strict=True):
            if weight:
                align = self._align and len(members) > 1 and e != 0
                run = self._aligned if align else self._plain
                found += weight * run(part, e, start, count)
        return found

    def gate(self, members: Sequence[int]) -> torch.Tensor:
        """A group's row of the router, float64, shape (d,)."""
        import torch

        found = torch.zeros(self.block.width, dtype=torch.float64)
        for e, weight in zip(members, self.weights(members), strict=True):
            found += weight * self._row(e)
        return found

    def _row(self, expert: int) -> torch.Tensor:
        info, d = self.source.tensors[self.block.gate], self.block.width
        return elements(self.source, info, expert * d, d).double()

    def _plain(self, part: str, expert: int, start: int, count: int) -> torch.Tensor:
        """Elements of an expert's matrix, as they are."""
        slab = self.block.parts[part][expert]
        info = self.source.tensors[slab.name]
        return elements(self.source, info, slab.start + start, count).double()

    def _aligned(self, part: str, expert: int, start: int, count: int) -> torch.Tensor:
        """Elements of an expert's matrix, its units in the order of the first expert's."""
        import torch

        slab = self.block.parts[part][expert]
        order = torch.tensor(self._order(expert))
        top, skip = divmod(start, slab.columns)
        stop = -(-(start + count) // slab.columns)
        if makes_hidden_units(part):
            n = len(order)  # `gate_up_proj` has two matrices, one above the other
            rows = [(r // n) * n + int(order[r % n]) for r in range(top, stop)]
            width = slab.columns
            found = torch.cat([self._plain(part, expert, r * width, width) for r in rows])
        else:
            many = (stop - top) * slab.columns
            whole = self._plain(part, expert, top * slab.columns, many)
            found = whole.reshape(-1, slab.columns)[:, order].reshape(-1)
        return found[skip : skip + count]

    def _order(self, expert: int) -> list[int]:
        """Unit of an expert for each unit of the first; worked out once."""
        with self._lock:
            if expert not in self._orders:
                into, out = [], None
                for part in sorted(self.block.parts):
                    a, b = (self._whole(self.block.parts[part][e]) for e in (0, expert))
                    if not makes_hidden_units(part):
                        out = (a, b)
                    elif part == "gate_up_proj":
                        half = len(a) // 2
                        into += [(a[:half], b[:half]), (a[half:], b[half:])]
                    else:
                        into.append((a, b))
                assert out is not None
                self._orders[expert] = assignment(likeness(into, out))
        return self._orders[expert]

    def _whole(self, slab: Slab) -> np.ndarray:
        info = self.source.tensors[slab.name]
        flat = elements(self.source, info, slab.start, slab.rows * slab.columns)
        found: np.ndarray = flat.float().numpy().reshape(slab.rows, slab.columns)
        return found

    def _grouped(self) -> Groups:
        if not isinstance(self._asked, int):
            return self._asked
        if self._grouping == "consecutive":
            return consecutive(self.block.experts, self._asked)
        gram = self._router_gram() if self._grouping == "router" else self._weights_gram()
        return by_cores(cosines(gram), self.usage, self._asked)

    def _router_gram(self) -> np.ndarray:
        import torch

        rows = torch.stack([self._row(e) for e in range(self.block.experts)])
        found: np.ndarray = (rows @ rows.T).numpy()
        return found

    def _weights_gram(self) -> np.ndarray:
        """Inner products of all weights of the experts, float64; a block of each at a time."""
        import torch

        total = torch.zeros(self.block.experts, self.block.experts, dtype=torch.float64)
        for part in sorted(self.block.parts):
            slabs = self.block.parts[part]
            size = slabs[0].rows * slabs[0].columns
            step = max(1, _BLOCK // len(slabs))
            for start in range(0, size, step):
                count = min(step, size - start)
                runs = torch.stack(
                    [
                        elements(self.source, self.source.tensors[s.name], s.start + start, count)
                        for s in slabs
                    ]
                ).double()
                total += runs @ runs.T
        found: np.ndarray = total.numpy()
        return found


def merged(source: Checkpoint, merges: Sequence[Merging], count: int | None, origin: str) -> Lazy:
    """The mixture with its experts merged.

    Args:
        merges: of all blocks.
        count: groups in each block; None keeps the router, and an expert for each of its rows.
    """
    found: dict[str, tuple[TensorInfo, Reader]] = {}
    replaced = set()
    for merging in merges:
        block = merging.block
        replaced |= {s.name for slabs in block.parts.values() for s in slabs}
        for part in block.parts:
            experts = block.experts if count is None else count
            if block.fused:
                name = block.tensor(part, 0)
                old = source.tensors[name]
                info = TensorInfo(name, old.dtype, (experts, *old.shape[1:]))
                found[name] = (info, _fused(merging, part, info, count is None))
                continue
            for i in range(experts):
                name = block.tensor(part, i)
                slab = block.parts[part][0]
                dtype = source.tensors[slab.name].dtype
                info = TensorInfo(name, dtype, (slab.rows, slab.columns))
                found[name] = (info, _separate(merging, part, i, info, count is None))
        if count is not None:
            replaced.add(block.gate)
            dtype = source.tensors[block.gate].dtype
            info = TensorInfo(block.gate, dtype, (count, block.width))
            found[block.gate] = (info, _router(merging, info))
    for name, info in source.tensors.items():
        if name not in replaced:
            found[name] = (info, copied(source, name))
    return Lazy(origin, found)


def _members(merging: Merging, index: int, kept: bool) -> tuple[int, ...]:
    """The experts that make expert `index` of the result."""
    if not kept:
        return merging.groups[index]
    return next(group for group in merging.groups if index in group)


def _separate(merging: Merging, part: str, index: int, info: TensorInfo, kept: bool) -> Reader:
    """Bytes of one expert's matrix; its own where it is alone in its group."""

    def read(start: int, buffer: memoryview) -> None:
        members = _members(merging, index, kept)
        slab = merging.block.parts[part][members[0]]
        same = merging.source.tensors[slab.name].dtype == info.dtype
        if len(members) == 1 and same:
            merging.source.read_into(slab.name, start, buffer)
            return
        make = computed(info.dtype, lambda first, n: merging.matrix(part, members, first, n))
        make(start, buffer)

    return read


def _fused(merging: Merging, part: str, info: TensorInfo, kept: bool) -> Reader:
    """Bytes of the matrices of all experts, one after the other."""
    size = info.shape[1] * info.shape[2]

    def make(start: int, count: int) -> torch.Tensor:
        import torch

        runs = []
        while count:
            index, first = divmod(start, size)
            n = min(size - first, count)
            run = merging.matrix(part, _members(merging, index, kept), first, n)
            runs.append(run.to(torch_dtype(info.dtype)))
            start, count = start + n, count - n
        return torch.cat(runs)

    return computed(info.dtype, make)


def _router(merging: Merging, info: TensorInfo) -> Reader:
    def make(start: int, count: int) -> torch.Tensor:
        import torch

        rows = torch.cat([merging.gate(members) for members in merging.groups])
        return rows[start : start + count]

    return computed(info.dtype, make)


def config_for(config: Mapping[str, Any], experts: int, per_token: int) -> dict[str, Any]:
    """The configuration of a mixture with so many experts, and so many for a token."""
    from zoo.moe.mixed import COUNTS

    changed = {k: experts for k in COUNTS if k in config}
    return {**config, **changed, "num_experts_per_tok": per_token}
