"""Model Stock: how far to go from the base to the mean, from the angle between experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from zoo import Chunk, Mergekit, Method, Statistic, hookimpl, method
from zoo.stages.gram import Coefficients, Products, combine

if TYPE_CHECKING:
    import numpy as np
    import torch

    from zoo.contract import Unit

_SINGULAR = 1e-6
"""Size of 1 + (N-1) c that is rounding of float32 deltas: the ratio has its pole at zero."""
_NEAR_POLE = 1e-2
"""The same, where the rounding of float32 products begins to show."""


def _statistics(p: Any, experts: int) -> Sequence[Statistic]:
    if p.scope == "row":
        return []
    return [Coefficients(lambda products: _shares(products, p))]


def _unit(p: Any) -> Unit:
    return "row" if p.scope == "row" else "element"


def _shares(products: Products, p: Any) -> np.ndarray | None:
    import numpy as np

    count = len(products.gram)
    cosine = _cosine(products.gram, p.angle, p.floor)
    if not products.exact and abs(1 + (count - 1) * cosine) < _NEAR_POLE:
        return None
    return np.full(count, _ratio(cosine, count, p.on_negative) / count)


def _cosine(gram: np.ndarray, angle: str, floor: float) -> np.ndarray:
    """The cosine that stands for all pairs; from inner products (..., e, e) to (...)."""
    import numpy as np

    first, second = np.triu_indices(gram.shape[-1], 1)
    norms = np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1))
    sizes = np.maximum(norms[..., first] * norms[..., second], floor)
    dots = gram[..., first, second]
    pairs = np.clip(np.divide(dots, sizes, out=np.zeros_like(dots), where=sizes > 0), -1, 1)
    if angle == "mean_angle":
        return np.asarray(np.cos(np.arccos(pairs).mean(-1)))
    return np.asarray(pairs.mean(-1))


def _ratio(cosine: np.ndarray, count: int, on_negative: str) -> np.ndarray:
    """Position between base (0) and mean (1), by the shell of equal norms and angles."""
    import numpy as np

    below = 1 + (count - 1) * cosine
    t = np.divide(count * cosine, below, out=np.zeros_like(below), where=abs(below) > _SINGULAR)
    return np.asarray(np.clip(t, 0, 1) if on_negative == "clamp" else t)


@method(
    "model_stock",
    version="1.0.0",
    needs="statistics",
    unit=_unit,
    statistics=_statistics,
    min_experts=2,
    replay="platform",
    tolerance=1e-6,
    mergekit=[
        Mergekit(
            "model_stock",
            {"filter_wise": ("scope", {True: "row", False: "tensor"})},
            {"floor": 1e-6},
        )
    ],
)
def model_stock(
    deltas: torch.Tensor,
    *,
    scope: Annotated[Literal["tensor", "row"], "one ratio per tensor, or per row of it"] = (
        "tensor"
    ),
    angle: Annotated[
        Literal["mean_cosine", "mean_angle"],
        "of more than two experts: the mean of the cosines, or the cosine of the mean angle",
    ] = "mean_cosine",
    on_negative: Annotated[
        Literal["keep", "clamp"], "go beyond the base where experts disagree, or stop there"
    ] = "keep",
    floor: Annotated[
        float, Ge(0), "least product of norms that a cosine is divided by; mergekit's is 1e-6"
    ] = 0.0,
    stats: Mapping[str, Any],
    chunk: Chunk,
) -> torch.Tensor:
    """Go from the base to the mean of the experts, as far as their angle says.

        c      = mean over pairs of <d_i, d_j> / (|d_i| |d_j|)       d_i = expert_i - base
        t      = N c / (1 + (N-1) c)
        merged = base + t * mean_i d_i

    When: for a few fine-tunes of one task that differ in seed or setting; two are often as good as
    a soup of many. Not for different tasks: their deltas are nearly orthogonal, and orthogonal
    deltas give back the base.

    Args:
        deltas: shape (e, n), overwritten.
    Returns:
        The merged delta, shape (n,).
    Cost: two passes over each tensor, the second from cache; one for scope=row.
    Source: Jang et al. 2024, arXiv:2403.19522; for N > 2, where the paper has one
        angle, the mean of mergekit (`mean_cosine`) or of FusionBench (`mean_angle`).
    Departs: a zero delta has cosine 0 with all others. At the pole, c = -1/(N-1), the result is the
        base. mergekit's `floor` shrinks small deltas towards the base; it is off by default. A row
        is all that follows the first axis, in mergekit the last axis: they differ for
        convolutions.
    """
    if scope == "tensor":
        return combine(deltas, None, stats["coefficients"])
    rows = deltas.view(len(deltas), -1, chunk.row)
    t = _row_ratios(rows, angle, floor, on_negative)
    mean = rows[0]
    for row in rows[1:]:
        mean.add_(row)
    return mean.mul_(t.unsqueeze(1)).view(-1)


def _row_ratios(rows: torch.Tensor, angle: str, floor: float, on_negative: str) -> torch.Tensor:
    """Ratio over number of experts, for each row; from (e, r, k) to (r,)."""
    import torch

    wide = rows.double().transpose(0, 1)
    gram = torch.bmm(wide, wide.transpose(1, 2)).cpu().numpy()
    t = _ratio(_cosine(gram, angle, floor), len(rows), on_negative) / len(rows)
    return torch.from_numpy(t).to(rows)


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(model_stock)
