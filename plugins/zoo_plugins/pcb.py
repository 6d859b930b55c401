"""Balance the competition of parameters within and between the experts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations_with_replacement
from math import inf
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval

from zoo import Chunk, Fraction, Method, PerExpert, Statistic, hookimpl, method
from zoo.stages.order import Ranked
from zoo.stages.signs import add_up

if TYPE_CHECKING:
    import torch

Variant = Literal["authors", "vision", "es", "paper"]

_LEAST = 1e-12
"""The authors' floor for the sum of scores."""


def balanced(
    deltas: torch.Tensor, bounds: Sequence[tuple[float, ...]], variant: Variant
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clipped magnitudes, and the scores of the authors' scripts.

    Args:
        deltas: shape (e, n).
        bounds: per expert, the magnitudes clipped to.
    Returns:
        Magnitudes and scores, shape (e, n) each. The scores lack a constant factor, exp(e), which
        would overflow for many experts and cancels when they are rescaled.
    """
    import torch

    clipped = deltas.abs()
    within = torch.zeros_like(deltas)  # magnitude on a scale from 0 to 1
    for row, unit, (low, high) in zip(clipped, within, bounds, strict=True):
        row.clamp_(low, high)
        if high > low:
            torch.sub(row, low, out=unit)
            unit.div_(high - low)
    if variant == "authors":
        between = deltas.mul(add_up(deltas)).tanh_()
    elif variant == "vision":
        between = deltas.mul(add_up(deltas.sign().mul_(within))).tanh_()
    else:
        signed = deltas.sign().mul_(within)
        between = torch.zeros_like(deltas)
        for i, row in enumerate(signed):
            for j, other in enumerate(signed[: i + 1]):
                pair = (row * other).tanh_()
                between[i].add_(pair)
                if j < i:
                    between[j].add_(pair)
    scores = within.square_().sub_(1).mul_(len(deltas)).exp_().mul_(between)
    for row, (low, high) in zip(scores, bounds, strict=True):
        if not high > low:
            row.zero_()  # all magnitudes are one: nothing competes
    return clipped, scores


def rescaled(scores: torch.Tensor, thresholds: Sequence[tuple[float, ...]]) -> torch.Tensor:
    """Scores on a scale from 0 (dropped) to 1 (the best of the expert), in place.

    Args:
        thresholds: per expert, the lowest score that is not dropped, and the highest of all.
    """
    for row, (lowest, highest) in zip(scores, thresholds, strict=True):
        if highest > lowest:
            row.clamp_(lowest, highest).sub_(lowest).div_(highest - lowest)
        else:
            row.zero_()
    return scores


class _Range(Statistic):
    """`stats["range"]`: smallest and largest product of each pair of deltas, itself included."""

    name = "range"
    scope = "model"

    def start(self, tensor: str, shape: tuple[int, ...], parameters: Any) -> dict[Any, Any]:
        return {}

    def add(
        self,
        state: dict[Any, Any],
        models: torch.Tensor,
        base: torch.Tensor | None,
        chunk: Chunk,
        stats: Mapping[str, Any],
    ) -> None:
        for i, j in _pairs(len(models)):
            least, most = (float(x) for x in (models[i] * models[j]).aminmax())
            low, high = state.get((i, j), (inf, -inf))
            state[i, j] = (min(low, least), max(high, most))

    def finish(self, states: Mapping[str, dict[Any, Any]]) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for state in states.values():
            for pair, (least, most) in state.items():
                low, high = found.get(pair, (inf, -inf))
                found[pair] = (min(low, least), max(high, most))
        return found


class _Mass(Statistic):
    """`stats["mass"]`: means over the model of what the softmaxes exponentiate.

    The softmax of an entry is its exponential over entries times this mean. The number of entries
    is a factor that all scores have; it cancels, and is left out.
    """

    name = "mass"
    scope = "model"

    def start(self, tensor: str, shape: tuple[int, ...], parameters: Any) -> dict[Any, float]:
        return {}

    def add(
        self,
        state: dict[Any, float],
        models: torch.Tensor,
        base: torch.Tensor | None,
        chunk: Chunk,
        stats: Mapping[str, Any],
    ) -> None:
        for key, values in _exponentials(models, stats["range"]):
            state[key] = state.get(key, 0.0) + float(values.double().sum()) / self.elements

    def finish(self, states: Mapping[str, dict[Any, float]]) -> dict[Any, float]:
        found: dict[Any, float] = {}
        for state in states.values():
            for key, part in state.items():
                found[key] = found.get(key, 0.0) + part
        return found


def _pairs(experts: int) -> list[tuple[int, int]]:
    return list(combinations_with_replacement(range(experts), 2))


def _exponentials(
    deltas: torch.Tensor, ranges: Mapping[Any, tuple[float, float]]
) -> Iterator[tuple[Any, torch.Tensor]]:
    """(expert, exp of its own scaled squares), ((i, j), exp of the scaled products of a pair).

    Both lack a constant factor, which the division by their sum takes out.
    """
    for i, j in _pairs(len(deltas)):
        product = deltas[i] * deltas[j]
        low, high = ranges[i, j]
        product.sub_(low)
        if high > low:
            product.div_(high - low)
        product.sub_(1)
        if i == j:
            yield i, (product * len(deltas)).exp_()
        yield (i, j), product.exp_()


def softmax_scores(deltas: torch.Tensor, stats: Mapping[str, Any]) -> torch.Tensor:
    """The scores of the paper's equations, shape (e, n), but for a factor that all have."""
    import torch

    within, between = torch.empty_like(deltas), torch.zeros_like(deltas)
    for key, values in _exponentials(deltas, stats["range"]):
        values.div_(stats["mass"][key])
        if isinstance(key, int):
            within[key] = values
            continue
        i, j = key
        between[i].add_(values)
        if i != j:
            between[j].add_(values)
    scores = within.mul_(between)
    for i, row in enumerate(scores):
        if stats["range"][i, i][1] == 0:
            row.zero_()  # an expert that is the base does not compete
    return scores


def _magnitudes(
    deltas: torch.Tensor, base: torch.Tensor | None, chunk: Chunk, stats: Mapping[str, Any]
) -> torch.Tensor:
    return deltas.abs()


def _statistics(p: Any, experts: int) -> Sequence[Statistic]:
    def threshold(expert: int, entries: int) -> int:
        return min(int(entries * (1 - p.density[expert])), entries - 1)

    if p.variant == "paper":
        return [
            _Range(),
            _Mass(),
            Ranked(
                "score",
                lambda deltas, base, chunk, stats: softmax_scores(deltas, stats),
                [threshold],
                experts,
                reads=("density", "variant"),
            ),
        ]
    return [
        Ranked(
            "bounds",
            _magnitudes,
            [
                lambda i, n: min(int(n * p.clip), n - 1),
                lambda i, n: max(int(n * (1 - p.clip) - 1), 0),
            ],
            experts,
            reads=("clip",),
        ),
        Ranked(
            "score",
            lambda deltas, base, chunk, stats: balanced(deltas, stats["bounds"], p.variant)[1],
            [threshold, lambda i, n: n - 1],
            experts,
            reads=("density", "variant"),
        ),
    ]


def _nothing_kept(p: Any, experts: int) -> int | None:
    return -1 if p.lambda_ == 0 or not any(p.weight) or not any(p.density) else None


@method(
    "pcb",
    version="1.0.0",
    needs="statistics",
    statistics=_statistics,
    min_experts=2,
    replay="platform",
    tolerance=1e-6,
    shortcut=_nothing_kept,
)
def pcb(
    deltas: torch.Tensor,
    *,
    density: Annotated[PerExpert[Fraction], "fraction of each delta that scores"] = 0.1,
    weight: Annotated[PerExpert[float], "factor of each delta, after the scores"] = 1.0,
    lambda_: Annotated[float, "scale of the merged delta, dimensionless"] = 1.0,
    clip: Annotated[
        float,
        Interval(ge=0, lt=0.5),
        "fraction of the magnitudes clipped at either end; not for variant=paper",
    ] = 1e-4,
    variant: Annotated[
        Variant, "the authors' main, vision or evolution script, or the paper's equations"
    ] = "authors",
    stats: Mapping[str, Any],
) -> torch.Tensor:
    """Score each entry within its expert and against the others, and average by the best scores.

        a_i    = |delta_i| clipped to its order statistics;   u_i = minmax(a_i)
        b_i    = exp(e u_i^2) * tanh(delta_i * sum_j delta_j)
        s_i    = minmax of b_i clipped to its best density * D entries
        merged = base + lambda * sum_i s_i w_i sign(delta_i) a_i / sum_i s_i

    In place of delta_i * sum_j delta_j, variant=vision has delta_i * sum_j sign(delta_j) u_j, and
    variant=es the sum over j of tanh(sign(delta_i) u_i sign(delta_j) u_j). variant=paper:

        b_i    = softmax(e minmax(delta_i^2)) * sum_j softmax(minmax(delta_i delta_j))
        merged = base + lambda * sum_i b_i w_i delta_i / sum_i b_i, over the b_i that are kept

    When: experts of different tasks that task_arithmetic or ties leave behind. The scores of all
    variants but `paper` depend on the size of the weights; e is the number of experts.

    Args:
        deltas: shape (e, n).
    Returns:
        The merged delta, shape (n,).
    Cost: five passes, one or two of them sampled; the order statistics are exact. variant=paper
        computes O(e^2 n) products in three of its five.
    Source: Du et al. 2024, arXiv:2410.02396, section 3, and the authors' three scripts.
    Departs: a delta whose magnitudes are all equal (that of the base, for one) is 0/0 in the
        authors' code; here it scores nothing.
    """
    weights: list[float] = weight  # type: ignore[assignment]
    if variant == "paper":
        shares = softmax_scores(deltas, stats)
        for row, (lowest,) in zip(shares, stats["score"], strict=True):
            row.mul_(row >= lowest)
        values, least = deltas, 0.0
    else:
        values, scores = balanced(deltas, stats["bounds"], variant)
        shares, least = rescaled(scores, stats["score"]), _LEAST
        values.mul_(deltas.sign())
    total = add_up(shares)
    for value, share, w in zip(values, shares, weights, strict=True):
        value.mul_(share)
        if w != 1:
            value.mul_(w)
    total = total.clamp_min_(least) if least else total.add_(total == 0)
    return add_up(values).div_(total).mul_(lambda_)


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(pcb)
