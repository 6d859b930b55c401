"""DARE: drop most entries of each delta at random, rescale the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from zoo import Chunk, Fraction, Mergekit, Method, PerExpert, Statistic, hookimpl, method
from zoo.stages.consensus import Elect, Merge, consensus, contradiction, trivial
from zoo.stages.drop import drop
from zoo.stages.mergekit_names import TASK_VECTORS
from zoo.stages.rescale import L1, recall

if TYPE_CHECKING:
    import torch

    from zoo.random import Random


def _statistics(p: Any, experts: int) -> Sequence[Statistic]:
    if p.rescale != "l1":
        return []
    return [L1(lambda deltas, chunk, stats, random: drop(deltas, p.density, random), experts)]


def _trivial(p: Any, experts: int) -> int | None:
    return trivial(p, experts, whole=p.density == [1]) if any(p.density) else -1


@method(
    "dare",
    version="1.0.0",
    needs="statistics",
    statistics=_statistics,
    shortcut=_trivial,
    check=contradiction,
    mergekit=[
        Mergekit("dare_linear", TASK_VECTORS, {"density": 1.0, "rescale": "l1"}),
        Mergekit("dare_ties", TASK_VECTORS, {"density": 1.0, "rescale": "l1", "elect": "mass"}),
    ],
)
def dare(
    deltas: torch.Tensor,
    *,
    density: Annotated[PerExpert[Fraction], "chance of an entry to survive, 1 - drop rate"] = 0.1,
    weight: Annotated[PerExpert[float], "coefficient of each delta, before the election"] = 1.0,
    lambda_: Annotated[float, "scale of the merged delta, dimensionless"] = 1.0,
    rescale: Annotated[
        Literal["probability", "l1", "none"],
        "divide survivors by their chance; or keep each tensor's L1 norm; or leave them",
    ] = "probability",
    elect: Annotated[
        Elect, "only deltas of the sign of their sum, or of most of them, take part; or all do"
    ] = "none",
    merge: Annotated[
        Merge, "sum; or that over the weights of those that take part; or the largest"
    ] = "sum",
    stats: Mapping[str, Any],
    chunk: Chunk,
    random: Random,
) -> torch.Tensor:
    """Drop entries of each delta at random, rescale the rest, add up.

        m_i    = 1 with probability density, else 0, for each entry
        t_i    = m_i * delta_i / density
        merged = base + lambda * sum_i w_i t_i

    When: fine-tuned models whose deltas are small (below about 0.005), of which most entries are
        redundant. Not for continued pre-training, and not where single entries count.
    Args:
        deltas: shape (e, n), overwritten.
    Returns:
        The merged delta, shape (n,).
    Cost: one pass, O(e n) time; two and n / 8 bytes per expert for rescale=l1.
    Source: Yu et al. 2024, arXiv:2311.03099, section 3.
    Departs: the authors follow DARE by all of TIES, trim included; elect=mass is TIES without the
        trim. mergekit's dare_linear and dare_ties are rescale=l1, one factor for a whole tensor.
    """
    densities: list[float] = density  # type: ignore[assignment]
    weights: list[float] = weight  # type: ignore[assignment]
    if rescale == "l1":
        left = recall(deltas, stats["l1"], chunk)
    else:
        left = drop(deltas, densities, random, divide=rescale == "probability")
    return consensus(left, weights, by=elect, merge=merge).mul_(lambda_)


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(dare)
