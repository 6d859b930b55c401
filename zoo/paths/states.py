"""The weights of two models as points that can be mixed, and put into a module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from zoo.errors import IncompatibleModels

if TYPE_CHECKING:
    import torch

    from zoo.subject import Subject

    State = Mapping[str, torch.Tensor]

_SHOWN = 6


def mixed(states: Sequence[State], weights: Sequence[float]) -> dict[str, torch.Tensor]:
    """sum_i w_i * state_i, tensor by tensor, in float32 or the tensor's wider type.

    Tensors of whole numbers (counters) are those of the first state.

    Args:
        states: one or more, with equal names and shapes.
        weights: one for each; where all but one are 0, and that one is 1, the result is
            that state.
    """
    import torch

    found = {}
    for name, first in states[0].items():
        if not first.is_floating_point():
            found[name] = first.clone()
            continue
        wide = torch.promote_types(first.dtype, torch.float32)
        total = torch.zeros_like(first, dtype=wide)
        for state, weight in zip(states, weights, strict=True):
            if weight:
                total.add_(state[name].to(wide), alpha=weight)
        found[name] = total.to(first.dtype)
    return found


def opened_ends(
    models: Sequence[Subject], device: str
) -> tuple[torch.nn.Module, list[dict[str, torch.Tensor]]]:
    """A module to put mixed weights into, and the weights of each model.

    Raises:
        IncompatibleModels: their tensors differ in name or shape; lists those that do.
        PluginError: one cannot be run.
    Memory: one model more than there are models.
    """
    module = models[0].module(device)
    states = [{name: t.detach().clone() for name, t in module.state_dict().items()}]
    for model in models[1:]:
        state = dict(model.module(device).state_dict())
        _check_alike(models[0].label, states[0], model.label, state)
        states.append(state)
    return module, states


def _check_alike(first: str, a: State, second: str, b: State) -> None:
    shapes = [{name: tuple(t.shape) for name, t in state.items()} for state in (a, b)]
    problems = [
        f"`{name}` is {' and '.join(str(s.get(name, 'missing')) for s in shapes)}"
        for name in sorted(shapes[0].keys() | shapes[1].keys())
        if shapes[0].get(name) != shapes[1].get(name)
    ]
    if problems:
        more = len(problems) - _SHOWN
        raise IncompatibleModels(
            f"`{first}` and `{second}` lie on no common path:",
            "; ".join(problems[:_SHOWN]) + (f"; and {more} more." if more > 0 else "."),
            "Choose models of one architecture and size.",
            problems=problems,
        )
