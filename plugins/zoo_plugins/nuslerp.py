"""Spherical interpolation with weights, on whole tensors, rows or columns, or on deltas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from zoo import Chunk, Mergekit, Method, PerExpert, Statistic, hookimpl, method
from zoo.stages.gram import Coefficients, Products, combine
from zoo.stages.sphere import NEARLY_OPPOSITE

if TYPE_CHECKING:
    import numpy as np
    import torch

    from zoo.contract import Unit

_BALANCED = 1e-6
"""mergekit's sum of weights below which the middle is taken."""
_LEAST_NORM = 1e-7
"""mergekit's norm below which a vector is divided by this instead."""
_COLLINEAR = 1e-7
"""1 - |cos| below which the arc is taken as a line: the rounding of float32 inputs."""


def _position(weights: Sequence[float]) -> float:
    first, second = weights
    total = first + second
    return 0.5 if abs(total) < _BALANCED else second / total


def _arc(sums: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
    """The factors of pairs of vectors, from (<a, b>, |a|^2, |b|^2) of each; shape (3, ...)."""
    import numpy as np

    dot, aa, bb = sums
    sizes = np.maximum(np.sqrt(aa), _LEAST_NORM) * np.maximum(np.sqrt(bb), _LEAST_NORM)
    cosine = np.clip(dot / sizes, -1, 1)
    line = 1 - abs(cosine) < _COLLINEAR
    theta = np.where(line, np.pi / 2, np.arccos(cosine))
    sine = np.sin(theta)
    return (
        np.where(line, 1 - t, np.sin((1 - t) * theta) / sine),
        np.where(line, t, np.sin(t * theta) / sine),
    )


def _of_tensor(products: Products, weights: Sequence[float]) -> np.ndarray | None:
    import numpy as np

    (aa, dot), (_, bb) = products.gram
    if not products.exact and dot < 0 and dot * dot > (1 - NEARLY_OPPOSITE) * aa * bb:
        return None
    return np.array(_arc(np.array([dot, aa, bb]), _position(weights)))


class _Columns(Statistic):
    """Factors of the columns, from sums of (<a, b>, |a|^2, |b|^2) over the first axis."""

    name = "columns"
    scope = "tensor"

    def __init__(self, weights: Sequence[float]) -> None:
        self._position = _position(weights)

    def start(self, tensor: str, shape: tuple[int, ...], parameters: Any) -> list[torch.Tensor]:
        return []

    def wants(self, chunk: Chunk) -> bool:
        return len(chunk.shape) > 1

    def add(
        self,
        state: list[torch.Tensor],
        models: torch.Tensor,
        base: torch.Tensor | None,
        chunk: Chunk,
        stats: Mapping[str, Any],
    ) -> None:
        if base is not None:
            models.sub_(base)
        sums = _sums(models.view(2, -1, chunk.row), 0)
        state[:] = [state[0] + sums] if state else [sums]

    def finish(self, states: Mapping[str, list[torch.Tensor]]) -> Any:
        (state,) = states.values()
        return _arc(state[0].cpu().numpy(), self._position) if state else None


def _sums(pair: torch.Tensor, axis: int) -> torch.Tensor:
    """<a, b>, |a|^2 and |b|^2 along an axis of both, float64; from (2, r, k) to (3, r or k)."""
    import torch

    a, b = pair.double()
    return torch.stack([(a * b).sum(axis), a.square().sum(axis), b.square().sum(axis)])


def _statistics(p: Any, experts: int) -> Sequence[Statistic]:
    if p.vectors == "flat":
        return [Coefficients(lambda products: _of_tensor(products, p.weight), relative=True)]
    return [_Columns(p.weight)] if p.vectors == "columns" else []


def _unit(p: Any) -> Unit:
    return "element" if p.vectors == "flat" else "row"


def _endpoint(p: Any, experts: int) -> int | None:
    return {0.0: 0, 1.0: 1}.get(_position(p.weight))


_SWITCHES = ("nuslerp_flatten", "nuslerp_row_wise")
"""mergekit's; the second counts only where the first is false."""


def _one_switch(theirs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Its two switches are one here: `vectors` is `flat` where `nuslerp_flatten` is true or not
    given; else `columns` where `nuslerp_row_wise` is true, and `rows` where it is not."""
    flatten, row_wise = theirs.get(_SWITCHES[0], True), theirs.get(_SWITCHES[1], False)
    if not isinstance(flatten, bool) or not isinstance(row_wise, bool):
        return theirs  # to be refused for what they say
    others = {k: v for k, v in theirs.items() if k not in _SWITCHES}
    if len(others) == len(theirs):
        return theirs
    return others | {_SWITCHES[0]: "flat" if flatten else "columns" if row_wise else "rows"}


@method(
    "nuslerp",
    version="1.0.0",
    needs="statistics",
    unit=_unit,
    statistics=_statistics,
    min_experts=2,
    max_experts=2,
    replay="platform",
    tolerance=1e-6,
    shortcut=_endpoint,
    mergekit=[
        Mergekit(
            "nuslerp",
            {"weight": "weight", **dict.fromkeys(_SWITCHES, "vectors")},
            rewrite=_one_switch,
        )
    ],
)
def nuslerp(
    experts: torch.Tensor,
    base: torch.Tensor | None,
    *,
    weight: Annotated[PerExpert[float], "share of each of the two experts"],
    vectors: Annotated[
        Literal["flat", "rows", "columns"],
        "what turns as one: a tensor; its vectors along the last axis; those along the first",
    ] = "flat",
    stats: Mapping[str, Any],
    chunk: Chunk,
) -> torch.Tensor:
    """Interpolate two experts, or their deltas, along the arc between them.

        t      = w_2 / (w_1 + w_2)
        theta  = angle between a and b             a, b = experts, or experts minus base
        merged = sin((1-t) theta)/sin(theta) * a + sin(t theta)/sin(theta) * b      (+ base)

    When: as `slerp`; with a base it turns from one delta to the other, which have much larger
    angles than the weights have. Rows turn each neuron on its own.

    Args:
        experts: a and b, shape (2, n), overwritten.
    Returns:
        Shape (n,).
    Cost: two passes over each tensor, the second from cache; one for vectors=rows.
    Source: mergekit's `nuslerp`; it has no paper.
    Departs: a line is taken where 1 - |cos| is below 1e-7, in mergekit where the sine is below
        1e-8, which rounding rarely lets happen. mergekit's guide swaps rows and columns; these
        are as in its code: `nuslerp_row_wise` is `columns`.
    """
    if vectors == "flat":
        return combine(experts, base, stats["coefficients"])
    weights: list[float] = weight  # type: ignore[assignment]
    if base is not None:
        experts.sub_(base)
    if vectors == "columns" and len(chunk.shape) > 1:
        pair = experts.view(2, -1, chunk.row)
        first, second = _like(pair, stats["columns"])
    else:
        pair = experts.view(2, -1, chunk.shape[-1] if chunk.shape else 1)
        arc = _arc(_sums(pair, 1).cpu().numpy(), _position(weights))
        first, second = (factor.unsqueeze(1) for factor in _like(pair, arc))
    merged = pair[0].mul_(first).add_(pair[1].mul_(second)).view(-1)
    return merged if base is None else merged.add_(base)


def _like(pair: torch.Tensor, factors: Sequence[np.ndarray]) -> list[torch.Tensor]:
    import torch

    return [torch.from_numpy(f).to(pair) for f in factors]


@hookimpl
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    register(nuslerp)
