"""Heads put in place of a model's own: a merge keeps none for each task, its experts do."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from zoo.errors import IncompatibleModels, InvalidRecipe, PluginError

if TYPE_CHECKING:
    import torch

    from zoo.registry import Registry
    from zoo.subject import Subject


class Heads:
    """The heads that are put in place of the models' own, by task."""

    def __init__(
        self,
        registry: Registry,
        experts: Sequence[str],
        tasks: Sequence[str] | None,
        stack: ExitStack,
    ) -> None:
        from zoo.measuring.subjects import subjects

        opened = subjects(registry, experts, stack, bases=False)
        self._any = opened[0] if len(opened) == 1 else None
        self._by_task: dict[str, Subject] = {}
        for one in opened if self._any is None else ():
            task = one.version.task if one.version else None
            if task is None or task in self._by_task:
                why = (
                    "It was registered without a task."
                    if task is None
                    else f"`{self._by_task[task].label}` gives the head of `{task}` already."
                )
                raise InvalidRecipe(
                    f"`{one.label}` cannot say which task its head is for.",
                    why,
                    "Of several experts each gives its head to its own task: name one for each.",
                    expert=one.label,
                )
            self._by_task[task] = one
        missing = [t for t in tasks or () if self._by_task and t not in self._by_task]
        if missing:
            raise InvalidRecipe(
                f"None of the experts gives a head for task `{missing[0]}`.",
                f"They are made for {', '.join(f'`{t}`' for t in self._by_task)}.",
                "Name an expert of that task too, or evaluate the task apart.",
                task=missing[0],
            )

    def of(self, task: str) -> Subject | None:
        """The expert that gives the head for a task."""
        return self._any or self._by_task.get(task)


def take_head(module: torch.nn.Module, model: Subject, expert: Subject, device: str) -> None:
    """Put an expert's head in place of a module's own; classes may differ, features may not.

    Args:
        module: of the model; changed in place.

    Raises:
        IncompatibleModels: the two are of different architectures, or the head does not fit.
        PluginError: the architecture does not say what its head is.
    """
    if model.architecture is None or expert.architecture is None:
        (model if model.architecture is None else expert).module()  # says why it cannot be run
    assert model.architecture is not None and expert.architecture is not None
    if model.architecture.name != expert.architecture.name:
        raise IncompatibleModels(
            f"The head of `{expert.label}` is not for `{model.label}`:",
            f"the architectures are `{expert.architecture.name}` and `{model.architecture.name}`.",
            expert=expert.label,
        )
    name = expert.architecture.head(expert.config)
    if name is None:
        raise PluginError(
            f"Architecture `{expert.architecture.name}` does not say what its head is.",
            how="Its method `head` gives the name of the module that makes the outputs.",
            architecture=expert.architecture.name,
        )
    own, other = module.get_submodule(name), expert.module(device).get_submodule(name)
    shapes = [getattr(h.weight, "shape", ())[1:] for h in (own, other)]
    if shapes[0] != shapes[1]:
        raise IncompatibleModels(
            f"The head of `{expert.label}` does not fit `{model.label}`:",
            f"it takes {tuple(shapes[1])} features, and the model has {tuple(shapes[0])}.",
            expert=expert.label,
        )
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, other)
