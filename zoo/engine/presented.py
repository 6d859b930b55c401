"""What planner and engine are shown of the models a lock names.

Slices are stacked, then sizes are made to fit where the lock allows it. Vocabularies were aligned
before (`zoo.tokenizers.vocabulary`), model by model, so that a slice of a model has the result's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.compatibility.doubts import doubts
from zoo.compatibility.problem import Problem
from zoo.engine.fitting import fitted
from zoo.engine.plan import Model, Place, refuse
from zoo.engine.stacking import stack

if TYPE_CHECKING:
    from zoo.engine.inputs import Inputs


@dataclass(frozen=True, slots=True)
class Presented:
    """Models as they are merged."""

    experts: tuple[Model, ...]
    base: Model | None
    places: Mapping[str, Place] | None
    """How each tensor of a result of slices comes about."""
    config: Mapping[str, Any] | None
    """The result's configuration, but for types and tokens."""
    notes: tuple[str, ...] = ()
    doubts: tuple[Problem, ...] = ()
    """What may spoil the result although everything fits; told in the notes too."""


def presented(inputs: Inputs, lock: Mapping[str, Any]) -> Presented:
    """The inputs, stacked and fitted.

    Raises:
        IncompatibleModels: slices that do not fit each other or their models.
    """
    experts = [e.model for e in inputs.experts]
    base = inputs.base.model if inputs.base else None
    places = None
    notes: list[str] = []
    if lock["slices"]:
        made = stack(lock, [*experts, *([base] if base else [])], inputs.donor.model)
        refuse(made.problems)
        experts, base, places = made.experts, made.base, made.places
        notes += made.notes
    given = inputs.donor.model if places is None else base or experts[0]
    fit = fitted(lock, experts, base, given.checkpoint.opened.config, places)
    doubtful = tuple(doubts(inputs, lock))
    told = (*notes, *fit.notes, *map(str, doubtful))
    return Presented(tuple(fit.experts), fit.base, places, fit.config, told, doubtful)
