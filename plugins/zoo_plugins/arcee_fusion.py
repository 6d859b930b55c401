"""Arcee Fusion: take over only the changes that matter most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt

from zoo import Chunk, Mergekit, Method, Statistic, hookimpl, method
from zoo.stages.order import Ranked

if TYPE_CHECKING:
    import torch


class _Divergence(Statistic):
    """`stats["divergence"]`: chunk number -> divergence of each of its rows."""

    name = "divergence"
    scope = "tensor"

    def __init__(self, eps: float) -> None:
        self._eps = eps

    def start(self, tensor: str, shape: tuple[int, ...], parameters: Any) -> dict[int, Any]:
        return {}

    def add(
        self,
        state: dict[int, torch.Tensor],
        models: torch.Tensor,
        base: torch.Tensor | None,
        chunk: Chunk,
        stats: Mapping[str, Any],
    ) -> None:
        assert base is not None
        length = chunk.shape[-1] if chunk.shape else 1
        state[chunk.index] = _divergence(models[0], base, length, self._eps)

    def finish(self, states: Mapping[str, dict[int, torch.Tensor]]) -> dict[int, torch.Tensor]:
        (state,) = states.values()
        return state


def _scores(
    models: torch.Tensor, base: torch.Tensor | None, chunk: Chunk, stats: Mapping[str, Any]
) -> torch.Tensor:
    """|expert - base| times the divergence of its row; shape (1, n)."""
    assert base is not None
    divergence = stats["divergence"][chunk.index]
    change = (models - base).abs_()
    change.view(len(divergence), -1).mul_(divergence.unsqueeze(1))
    return change


def _divergence(expert: torch.Tensor, base: torch.Tensor, length: int, eps: float) -> torch.Tensor:
    """KL of softmax(expert) from softmax(base), for each row of `length` entries.

    In float64: for rows that nearly agree it is a small difference of large sums. It cannot be
    negative, so what is below zero is rounding.
    """
    import torch

    p = torch.softmax(expert.double().view(-1, length), -1).add_(eps)
    q = torch.softmax(base.double().view(-1, length), -1).add_(eps)
    return q.reciprocal_().mul_(p).log_().mul_(p).sum(-1).clamp_min_(0).to(expert.dtype)


def _statistics(p: Any, experts: int) -> Sequence[Statistic]:
    quartiles = [partial(_rank, share) for share in (0.25, 0.5, 0.75)]
    return [_Divergence(p.eps), Ranked("quartiles", _scores, quartiles, experts, "tensor")]


def _rank(share: float, expert: int, count: int) -> int:
    return int(share * (count - 1))


@method(
    "arcee_fusion",
    version="1.0.0",
    needs="statistics",
    unit="row",
    statistics=_statistics,
    max_experts=1,
    replay="platform",
    tolerance=1e-6,
    mergekit=[Mergekit("arcee_fusion", {})],
)
def arcee_fusion(
    experts: torch.Tensor,
    base: torch.Tensor,
    *,
    iqr_factor: Annotated[
        float, Ge(0), "interquartile ranges above the median from which on a change is taken"
    ] = 1.5,
    eps: Annotated[float, Gt(0), "added to each probability"] = 1e-8,
    stats: Mapping[str, Any],
    chunk: Chunk,
) -> torch.Tensor:
    """Take over from the expert only the changes of outstanding importance.

        p, q   = softmax(expert) + eps, softmax(base) + eps          along the last axis
        S      = |expert - base| * sum(p log(p/q))                   the sum over the row
        merged = expert where S >= median + 1.5 * (Q3 - Q1), else base

    Median and quartiles are over the tensor, the lower ones where ranks fall between entries.

    When: to add the strongest traits of one model to another, at little cost to that. The softmax
    of a row of weights has no meaning of its own; the score is a heuristic, and it favours rows of
    which much changed.

    Args:
        experts: shape (1, n).
        base: shape (n,).
    Returns:
        Shape (n,), each entry the base's or the expert's bit for bit.
    Cost: three passes over each tensor, one more where scores crowd at a quartile; keeps one number
        per row.
    Source: mergekit's `arcee_fusion`; it has no paper.
    Departs: quartiles are exact; mergekit takes them from a random million entries of larger
        tensors. Divergences are summed in float64.
    """
    import torch

    ((low, median, high),) = stats["quartiles"]
    threshold = median + iqr_factor * (high - low)
    (score,) = _scores(experts, base, chunk, stats)
    return torch.where(score >= threshold, experts[0], base)


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(arcee_fusion)
