"""BANG: WiSE-FT of a fine-tune that was trained not to be over-confident."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from zoo import Fraction, Method, hookimpl, method
from zoo.errors import InvalidRecipe

if TYPE_CHECKING:
    import torch

    from zoo import Version

_log = logging.getLogger("zoo")
_BALANCING = ("label_smoothing", "mixup")
"""Tags that say, by a number above 0, how the training kept confidence down."""


def _endpoint(p: Any, experts: int) -> int | None:
    return {0.0: -1, 1.0: 0}.get(p.alpha)


@method("bang", version="1.0.0", max_experts=1, shortcut=_endpoint)
def bang(
    deltas: torch.Tensor,
    *,
    alpha: Annotated[Fraction, "position: 0 is the base, 1 the expert, dimensionless"] = 0.5,
    require_balanced_training: Annotated[
        bool, "refuse an expert without tag `label_smoothing` or `mixup` above 0; else warn"
    ] = False,
) -> torch.Tensor:
    """Average a base with a fine-tune trained by label smoothing or Mixup.

        merged = (1 - alpha) * base + alpha * expert

    When: as `wise_ft`, whose arithmetic this is. A plain fine-tune is over-confident on data unlike
    its training set, so its mistakes outweigh the base; label smoothing or Mixup in training
    balances the two. Tag the expert `label_smoothing=0.1` or `mixup=0.2`, or whatever it was: a
    merge of one that has neither warns that the result is plain WiSE-FT.

    Args:
        deltas: shape (1, n), overwritten.
    Returns:
        The merged delta, shape (n,).
    Cost: one pass.
    Source: Lin et al. 2024, arXiv:2309.17230.
    """
    return deltas[0].mul_(alpha)


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(bang)


@hookimpl
def zoo_before_merge(recipe: Mapping[str, Any], experts: Sequence[Version | None]) -> None:
    """Tell when nothing says that the expert was trained as the method asks."""
    if recipe["method"] != bang.name or all(map(_is_balanced, experts)):
        return
    what = "Nothing says that the expert was trained with label smoothing or Mixup."
    why = "Without either, BANG is plain WiSE-FT."
    if recipe["parameters"]["require_balanced_training"] is not False:
        raise InvalidRecipe(what, why, "Tag it: `zoo annotate REF --tag label_smoothing=0.1`.")
    _log.warning("%s %s", what, why)


def _is_balanced(expert: Version | None) -> bool:
    tags = expert.tags if expert is not None else {}
    return any(_above_zero(tags.get(tag, "0")) for tag in _BALANCING)


def _above_zero(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False
