"""Names, shapes and types of the tensors of models that are to be merged, against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from zoo.compatibility.problem import Problem
from zoo.compatibility.wording import listed
from zoo.dtypes import DTYPES
from zoo.quantization import quantization_of
from zoo.vocabulary import remedy

if TYPE_CHECKING:
    from zoo.checkpoint import TensorInfo
    from zoo.planned import Model, Place


def differences(
    models: Sequence[Model],
    experts: int,
    excluded: set[str],
    places: Mapping[str, Place] | None = None,
) -> list[Problem]:
    """What is excluded may have another shape in each model, or be in some only: heads do."""
    problems: list[Problem] = []

    def owes(number: int, name: str) -> bool:
        """Whether a model must have a tensor; views of slices need not have all."""
        return places is None or number >= experts or number < len(places[name].names)

    def compared(model: Model) -> dict[str, TensorInfo]:
        return {n: t for n, t in model.checkpoint.tensors.items() if n not in excluded}

    first, *others = models
    reference = compared(first)
    for number, other in enumerate(others, 1):
        tensors = compared(other)
        for names, have, lack, position in (
            (sorted(set(reference) - set(tensors)), first, other, number),
            (sorted(set(tensors) - set(reference)), other, first, 0),
        ):
            if names := [n for n in names if owes(position, n)]:
                of_base = len(models) > experts and have is models[-1]
                allow = ": `missing: base` in the recipe allows it" if of_base else ""
                problems.append(
                    Problem(
                        "names",
                        "error",
                        f"`{lack.label}` lacks {listed(names)}, which `{have.label}` has{allow}",
                    )
                )
        for name in sorted(set(reference) & set(tensors)):
            a, b = reference[name], tensors[name]
            if a.shape != b.shape:
                problems.append(
                    Problem(
                        "shapes",
                        "error",
                        f"tensor `{name}` is {list(a.shape)} in `{first.label}` and "
                        f"{list(b.shape)} in `{other.label}`{remedy(name, a.shape, b.shape)}",
                    )
                )
            elif DTYPES[a.dtype].merges != DTYPES[b.dtype].merges:
                problems.append(
                    Problem(
                        "types",
                        "error",
                        f"tensor `{name}` is {a.dtype} in `{first.label}` and {b.dtype} in "
                        f"`{other.label}`: one merges, the other does not",
                    )
                )
    for model in models:
        found_in = quantization_of(model.checkpoint.opened.config, model.checkpoint.tensors)
        if found_in is not None:
            problems.append(
                Problem(
                    "quantized",
                    "error",
                    f"`{model.label}` stores {listed(found_in.tensors)} as codes of "
                    f"{found_in.kind}, which arithmetic is not defined on",
                    remedy=found_in.remedy or "Dequantize it first.",
                    models=(model.label,),
                    tensors=found_in.tensors,
                )
            )
    return problems
