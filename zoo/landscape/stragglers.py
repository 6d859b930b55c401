"""Layers that do not interpolate between a base and a model that was fine-tuned from it.

    from the base     theta_0, but layer l at (1 - a) theta_0 + a theta_1
    from the tuned    theta_1, but layer l at (1 - a) theta_1 + a theta_0

A layer's barrier is how far its accuracy dips below the straight line between the ends, at most.

Source: Abdollahpoorrostam 2024, arXiv:2410.16476 (the claim that few layers decide); Adilova et al.
2024, arXiv:2307.06966 (interpolating single layers). The definitions are ours, since the first
paper's code is not public.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch.func import functional_call

from zoo.errors import IncompatibleModels
from zoo.landscape.examples import Examples
from zoo.landscape.objective import Objective, Point, Precision, scored
from zoo.landscape.sharpness import Norm, Rise, one_step, rise, scale_of

if TYPE_CHECKING:
    from zoo.sample import Sample
    from zoo.subject import Subject

State = Mapping[str, torch.Tensor]
_SHOWN = 6
_ROUNDING = 1e-9
"""A barrier of less is a straight line, as a computer adds."""


class Between:
    """Networks between a base and a tuned model, each layer where it is asked to be.

    Floating tensors are interpolated, running statistics too; all others are the tuned model's. A
    tensor that has two names counts once.

    Raises:
        IncompatibleModels: there is no base, or it has other tensors.
    """

    def __init__(self, model: Subject, sample: Sample, precision: Precision = "float32") -> None:
        if model.base is None:
            raise IncompatibleModels(
                f"`{model.label}` has no base.",
                "Layers are moved from the base to the model and back.",
                "Register it with its base: `zoo register ... --base REF`.",
            )
        dtype = getattr(torch, precision)
        self._sample = sample
        self._dtype = dtype
        self._module = model.module(sample.device, dtype)
        self._examples = Examples(sample, dtype)
        self.tuned = _state(self._module)
        self.base = _state(model.base.module(sample.device, dtype))
        _check(model, self.tuned, self.base)

    @property
    def names(self) -> list[str]:
        """Floating tensors, in the order of the module."""
        return [n for n, t in self.tuned.items() if t.is_floating_point()]

    def changed(self, layer: Sequence[str]) -> bool:
        """Whether fine-tuning changed any tensor of a layer."""
        return any(not torch.equal(self.base[n], self.tuned[n]) for n in layer)

    def at(self, inside: float, layer: Sequence[str] | None = None, outside: float = 1.0) -> Point:
        """Loss and error of `mixed`. Cost: one pass, forward."""
        state = self.mixed(inside, layer, outside)

        def forward(x: torch.Tensor) -> torch.Tensor:
            outputs: torch.Tensor = functional_call(self._module, state, (x,))
            return outputs

        return scored(forward, self._examples, self._sample)

    def objective(self, place: float) -> Objective:
        """The objective on the straight line, which holds until the next one is made."""
        self._module.load_state_dict(self.mixed(place), strict=False)
        return Objective(self._module, self._examples, self._sample, self._dtype)

    def mixed(
        self, inside: float, layer: Sequence[str] | None = None, outside: float = 1.0
    ) -> dict[str, torch.Tensor]:
        """The tensors, those of `layer` (all where it is None) at `inside` and the others at
        `outside`: 0 is the base, 1 the tuned model."""
        own = self.tuned.keys() if layer is None else set(layer)

        def of(name: str, place: float) -> torch.Tensor:
            zero, one = self.base[name], self.tuned[name]
            if place == 1 or not one.is_floating_point():
                return one
            return zero if place == 0 else zero.lerp(one, place)

        return {n: of(n, inside if n in own else outside) for n in self.tuned}


def curve(
    between: Between, layer: Sequence[str], points: int, ends: tuple[Point, Point]
) -> tuple[list[Point], list[Point]]:
    """The scores as a layer moves: from the base to the tuned model with all else at the base, and
    from the tuned model back with all else there.

    Args:
        points: places on the way, ends included, equally spaced.
        ends: scores of the base and of the tuned model.
    Cost: 2 (points - 1) passes, forward; none where fine-tuning left the layer alone.
    """
    if not between.changed(layer):
        return [ends[0]] * points, [ends[1]] * points
    steps = [k / (points - 1) for k in range(1, points)]
    there = [between.at(a, layer, 0.0) for a in steps]
    back = [between.at(1 - a, layer, 1.0) for a in steps]
    return [ends[0], *there], [ends[1], *back]


def barrier(heights: Sequence[float]) -> float:
    """The most that a curve rises above the straight line between its ends; never negative, and
    not a number where one of the heights is none.

    Args:
        heights: loss or error at equally spaced places, ends included, three or more.
    """
    if not all(map(math.isfinite, heights)):
        return math.nan
    first, last = heights[0], heights[-1]
    steps = len(heights) - 1
    inside = enumerate(heights[1:-1], 1)  # at the ends it is zero, and rounding is not asked
    return max(0.0, *(h - (first + (last - first) * k / steps) for k, h in inside))


def stragglers(barriers: Mapping[str, float], threshold: float | None) -> list[str]:
    """Layers whose barrier is above the threshold, or above mean + 2 standard deviations of all."""
    values = list(barriers.values())
    if not values:
        return []
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
    cut = mean + 2 * spread if threshold is None else min(threshold, mean + 2 * spread)
    return [layer for layer, value in barriers.items() if value > max(cut, _ROUNDING)]


def layer_rise(
    loss: Objective,
    here: Point,
    layer: Sequence[str] | None,
    rho: float,
    norm: Norm,
    adaptive: bool,
) -> Rise:
    """Rise of the loss after one step uphill within one layer, or in all where it is None.

    Args:
        here: with its gradient.
    Cost: one pass, forward.
    """
    assert here.gradient is not None
    mask = None
    if layer is not None:
        own = set(layer)
        parts = [torch.full((s.numel(),), n in own) for n, s in loss.shapes.items()]
        mask = torch.cat(parts).to(loss.start.device)
    scale = scale_of(loss, adaptive, mask)
    return rise(loss, here, one_step(here.gradient, scale, rho, norm))


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's correlation, from -1 to 1, ties at their mean rank; None where one is constant."""
    if not all(math.isfinite(v) for v in (*a, *b)):
        return None
    x, y = (torch.tensor(_ranks(v), dtype=torch.float64) for v in (a, b))
    x, y = x - x.mean(), y - y.mean()
    size = float(x.norm() * y.norm())
    return float(x @ y) / size if size > 0 else None


def repaired(
    base: State, tuned: State, layers: Sequence[Sequence[str]], keep: float
) -> dict[str, torch.Tensor]:
    """The tuned model with only the largest changes of some layers kept.

    Of each layer's delta, tuned - base, the floor(keep * n) entries of largest magnitude stay; the
    others go back to the base. Of equal ones the first stay.

    Args:
        keep: share, from 0 to 1; 1 gives the tuned model as it is.
    """
    found = dict(tuned)
    for layer in layers:
        size = torch.cat([(tuned[n] - base[n]).abs().reshape(-1).double() for n in layer])
        kept = torch.zeros(size.numel(), dtype=torch.bool, device=size.device)
        kept[size.argsort(descending=True, stable=True)[: int(keep * size.numel())]] = True
        parts = torch.split(kept, [tuned[n].numel() for n in layer])
        for name, part in zip(layer, parts, strict=True):
            found[name] = torch.where(part.view_as(tuned[name]), tuned[name], base[name])
    return found


def _state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers, tied ones once, in the order of the module."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: t.detach().clone() for name, t in named}


def _check(model: Subject, tuned: State, base: State) -> None:
    problems = [f"`{n}` is in one of them only" for n in sorted(tuned.keys() ^ base.keys())]
    problems += [
        f"`{n}` is {tuple(tuned[n].shape)} and {tuple(base[n].shape)}"
        for n in tuned
        if n in base and tuned[n].shape != base[n].shape
    ]
    if problems:
        assert model.base is not None
        more = len(problems) - _SHOWN
        raise IncompatibleModels(
            f"`{model.label}` and its base `{model.base.label}` have different tensors:",
            "; ".join(problems[:_SHOWN]) + (f"; and {more} more." if more > 0 else "."),
            problems=problems,
        )


def _ranks(values: Sequence[float]) -> list[float]:
    return [sum(w < v for w in values) + sum(w == v for w in values) / 2 for v in values]
