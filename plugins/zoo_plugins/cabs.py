"""CABS: sparsify in blocks, and give each position to one expert."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from zoo import Method, PerExpert, hookimpl, method
from zoo.contract import Unit
from zoo.stages.blocks import Tail, share_out
from zoo.stages.signs import add_up, weigh

if TYPE_CHECKING:
    import torch


def _unit(p: Any) -> Unit:
    return int(p.m)


def _trivial(p: Any, experts: int) -> int | None:
    if p.n == 0 or not any(p.weight):
        return -1
    whole = p.n == p.m and (p.m == 1 or p.tail == "proportional")
    return 0 if experts == 1 and whole and p.weight == [1] else None


def _check(p: Any, experts: int) -> str | None:
    if p.n > p.m:
        return f"a block of m={p.m} entries has no n={p.n} largest; set n to at most m"
    if p.dense and (experts != 2 or 2 * p.n < p.m):
        return (
            "dense=true is for two experts and n of at least m / 2, not for "
            f"{experts} with n={p.n}, m={p.m}; leave it out"
        )
    return None


@method("cabs", version="1.0.0", unit=_unit, ordered=True, shortcut=_trivial, check=_check)
def cabs(
    deltas: torch.Tensor,
    *,
    n: Annotated[int, Ge(0), "entries kept of each block"] = 64,
    m: Annotated[int, Ge(1), "entries of a block"] = 256,
    weight: Annotated[PerExpert[float], "coefficient of each delta"] = 1.2,
    tail: Annotated[
        Tail, "an incomplete block is dropped, or keeps its share, n / m of it rounded down"
    ] = "drop",
    dense: Annotated[
        bool, "the second of two experts keeps all that is free, and the m / 2 largest of the rest"
    ] = False,
) -> torch.Tensor:
    """Keep the n largest of every m entries of each delta, none that an earlier expert kept.

        t_i    = in each block of m entries the n of largest |delta_i| among the free ones, else 0
        free   = free without the n positions
        merged = base + sum_i w_i t_i

    When: a few experts, the most important first, that should not write over each other. Tensors of
        fewer than m entries stay the base's unless tail=proportional.
    Args:
        deltas: whole blocks, shape (e, n), overwritten.
    Returns:
        The merged delta, shape (n,).
    Cost: one pass with a sort of every block, O(e n log m) time.
    Source: Yang et al. 2025, arXiv:2503.01874, section 4; dense is the authors' second script.
    Departs: of equal magnitudes the first counts as the largest. Positions of zeros count as used,
        as in the authors' code.
    """
    weights: list[float] = weight  # type: ignore[assignment]
    return add_up(weigh(share_out(deltas, n, m, tail=tail, dense=dense), weights))


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(cabs)
