"""Which entries of a multi-task vector belong to which task (TALL masks).

Source: Wang et al. 2024, arXiv:2405.07813, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from zoo.contract import Chunk, Statistic
from zoo.stages.magnitude import Magnitudes, trim
from zoo.stages.signs import Majority, add_up, elect, fuse

if TYPE_CHECKING:
    import torch

MultiTaskVector = Literal["sum", "ties_sum"]


class _Unweighted(Majority):
    """The majority of all signs, for methods whose deltas have no weights."""

    def start(self, tensor: str, shape: tuple[int, ...], parameters: Any) -> list[Any]:
        return [_Ones(len(parameters.density)), 0]


class _Ones:
    def __init__(self, experts: int) -> None:
        self.weight = [1.0] * experts


def vector_statistics(p: Any, experts: int) -> Sequence[Statistic]:
    """What `multi_task_vector` needs to know of the whole model; `p` has both its parameters."""
    if p.multi_task_vector_ == "sum":
        return []
    keep = [[partial(_kept, density)] for density in p.density]
    return [Magnitudes(keep, "model"), _Unweighted()]


def _kept(density: float, n: int) -> int:
    return n if density >= 1 else int(density * n)


def multi_task_vector(
    deltas: torch.Tensor, kind: MultiTaskVector, stats: Mapping[str, Any], chunk: Chunk
) -> torch.Tensor:
    """All deltas in one, shape (n,): their sum, or the sum of those that TIES lets through.

    Args:
        deltas: shape (e, n), left as they are: masks are made of the whole deltas.
    """
    if kind == "sum":
        return add_up(deltas)
    kept = trim(deltas.clone(), [cut for (cut,) in stats["cut"]], chunk)
    sign = elect(add_up(kept), stats["majority"])
    return fuse(kept, sign, [1.0] * len(kept), "sum")


def is_expert(p: Any, experts: int) -> bool:
    """Whether the multi-task vector is the one expert's own delta."""
    return experts == 1 and (p.multi_task_vector_ == "sum" or p.density == [1])


def belongs(delta: torch.Tensor, total: torch.Tensor, limit: float, out: torch.Tensor) -> None:
    """Set `out` where an entry of the multi-task vector serves this task.

        |delta| > limit * |total - delta|

    Args:
        delta: shape (n,), overwritten.
        total: the multi-task vector, shape (n,).
        out: shape (n,), boolean or of the type of `delta`.
    """
    import torch

    others = (total - delta).abs_().mul_(limit)
    torch.gt(delta.abs_(), others, out=out)
