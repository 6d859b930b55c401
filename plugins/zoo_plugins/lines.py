"""Scale a merged delta more, the deeper the layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from zoo import Chunk, Fraction, Method, PerExpert, Statistic, hookimpl, method
from zoo.stages.signs import add_up
from zoo_plugins.task_arithmetic import task_arithmetic
from zoo_plugins.ties import ties

if TYPE_CHECKING:
    import torch


def scale(alpha: float, beta: float, chunk: Chunk) -> float:
    """The factor of a tensor's delta, dimensionless: a ramp over the blocks of its stack."""
    if chunk.layer is None or chunk.layers < 2:
        return alpha
    return alpha + beta * chunk.layer / (chunk.layers - 1)


def automatic_alpha(summed: float, merged: float, experts: int) -> float:
    """alpha that gives the merged delta the size of the mean delta.

    Args:
        summed: L1 norm of the sum of the deltas.
        merged: L1 norm of the merged delta.
    """
    return summed / merged / experts if merged else 0.0


class _Alpha(Statistic):
    """`stats["alpha"]`, from L1 norms of the whole model."""

    name = "alpha"
    scope = "model"

    def __init__(self, experts: int) -> None:
        self._experts = experts

    def start(self, tensor: str, shape: tuple[int, ...], parameters: Any) -> list[Any]:
        return [parameters, 0.0, 0.0]

    def add(
        self,
        state: list[Any],
        models: torch.Tensor,
        base: torch.Tensor | None,
        chunk: Chunk,
        stats: Mapping[str, Any],
    ) -> None:
        p = state[0]
        state[1] += float(add_up(models).abs_().double().sum())
        merged = _merged(models, p.merge, p.weight, p.density, stats, chunk)
        state[2] += float(merged.abs_().double().sum())

    def finish(self, states: Mapping[str, list[Any]]) -> float:
        summed, merged = (sum(state[i] for state in states.values()) for i in (1, 2))
        return automatic_alpha(summed, merged, self._experts)


def _merged(
    deltas: torch.Tensor,
    merge: str,
    weight: Any,
    density: Any,
    stats: Mapping[str, Any],
    chunk: Chunk,
) -> torch.Tensor:
    """The delta of the method that is improved; `deltas` is overwritten."""
    if merge == "ties":
        merged = ties.function(deltas, density=density, weight=weight, stats=stats, chunk=chunk)
    else:
        merged = task_arithmetic.function(deltas, weight=weight)
    return merged  # type: ignore[no-any-return]


def _plain_sum(p: Any) -> bool:
    return p.merge == "task_arithmetic" and all(w == 1 for w in p.weight)


def _statistics(p: Any, experts: int) -> Sequence[Statistic]:
    found: list[Statistic] = []
    if p.merge == "ties":
        assert ties.statistics is not None
        own = ties.parameters(density=p.density, weight=p.weight)  # the rest as ties has it
        found += ties.statistics(own, experts)
    if p.alpha == "auto" and not _plain_sum(p):
        found.append(_Alpha(experts))
    return found


def _trivial(p: Any, experts: int) -> int | None:
    if (p.alpha == 0 and p.beta == 0) or not any(p.weight):
        return -1
    if p.merge == "ties" and not any(p.density):
        return -1
    whole = experts == 1 and _plain_sum(p) and p.alpha in (1, "auto") and p.beta == 0
    return 0 if whole else None


@method(
    "lines",
    version="1.0.0",
    needs="statistics",
    statistics=_statistics,
    replay="platform",
    tolerance=1e-6,
    shortcut=_trivial,
)
def lines(
    deltas: torch.Tensor,
    *,
    beta: Annotated[float, "what the deepest layer's scale has beyond alpha, dimensionless"],
    alpha: Annotated[
        float | Literal["auto"], "scale of the first layer and of all that is outside layers"
    ] = "auto",
    merge: Annotated[
        Literal["task_arithmetic", "ties"], "the method whose merged delta is scaled"
    ] = "task_arithmetic",
    weight: Annotated[PerExpert[float], "coefficient of each delta in that method"] = 1.0,
    density: Annotated[PerExpert[Fraction], "fraction of each delta kept; merge=ties"] = 0.2,
    stats: Mapping[str, Any],
    chunk: Chunk,
) -> torch.Tensor:
    """Scale a merged delta more, the deeper the layer: shallow layers stay near the base.

        scale  = alpha + beta * layer / (layers - 1)      in layer 0 .. layers - 1
        scale  = alpha                                    outside layers, or where there is one
        merged = base + scale * merged_delta
        alpha=auto: |sum_i delta_i|_1 / |merged_delta|_1 / experts

    When: on top of task_arithmetic or ties, where their result forgets what the base could do; or
    on one expert, with alpha = g and beta = 1 - g, to win back what its tuning lost. Not for
    networks without a stack of layers: there it only scales.

    Args:
        deltas: shape (e, n), overwritten.
    Returns:
        The merged delta, shape (n,).
    Cost: that of the method it scales; alpha=auto one pass more, but for an unweighted sum, where
        it is 1/e.
    Source: Wang et al. 2025, arXiv:2410.17146, section 4.
    Departs: a layer is the number after `layers`, `blocks`, `h` or `stages` in a name, and each
        stack (encoder, decoder, tower) has its own ramp; the authors take the first number that
        fits anywhere in the name.
    """
    merged = _merged(deltas, merge, weight, density, stats, chunk)
    first = stats.get("alpha", 1 / len(deltas)) if alpha == "auto" else alpha
    return merged.mul_(scale(first, beta, chunk))


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(lines)
