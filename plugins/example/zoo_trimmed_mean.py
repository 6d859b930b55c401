"""The trimmed mean: a robust average, and an example of a plugin.

Importing this module imports neither torch nor anything else that is slow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

import zoo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import click
    from torch import Tensor


def too_many(parameters: Any, experts: int) -> str | None:
    """A rule between a parameter and the number of experts, checked before anything is read."""
    trim = parameters.trim
    if 2 * trim < experts:
        return None
    return f"trim={trim} drops {2 * trim} values of each element, and there are {experts} experts"


@zoo.method("trimmed_mean", version="1.0.0", min_experts=3, check=too_many)
def trimmed_mean(
    experts: Tensor,
    *,
    trim: Annotated[int, Ge(0), "values dropped at each end, per element; 0 is the mean"] = 1,
) -> Tensor:
    """Average each element without its lowest and highest values.

        merged = mean of x_(trim+1) ... x_(e-trim),  x_(1) <= ... <= x_(e) the sorted experts

    Args:
        experts: shape (e, n), float32 or float64.
    Returns:
        Shape (n,).
    Cost: O(e log e) per element, and a sorted copy of the chunk.
    Source: Yin et al. 2018, arXiv:1803.01498, definition 2.
    Departs: `trim` counts experts, where the paper's beta is a fraction of them.
    """
    kept = experts.sort(dim=0).values[trim : len(experts) - trim]
    # Row by row: a reduction of torch may sum in an order that depends on the chunk's length.
    total = kept[0].clone()
    for row in kept[1:]:
        total += row
    return total / len(kept)


@zoo.hookimpl
def zoo_register_methods(register: Callable[[zoo.Method], None]) -> None:
    register(trimmed_mean)


@zoo.hookimpl
def zoo_register_commands(cli: click.Group) -> None:
    import click

    @cli.command("trimmed-mean-cost")
    @click.argument("experts", type=click.IntRange(min=1))
    @click.option("--trim", type=click.IntRange(min=0), default=1, show_default=True)
    def cost(experts: int, trim: int) -> None:
        """Tell which share of EXPERTS a trimmed mean would drop."""
        click.echo(f"{min(2 * trim / experts, 1.0):.0%} of the values are dropped")


@zoo.hookimpl
def zoo_before_merge(recipe: Mapping[str, Any]) -> None:
    """Observers take the arguments they need; this one could raise `zoo.ZooError` to refuse."""
