"""The options of a method or metric as one pydantic class, derived from its signature.

Plugin authors write plain annotations; nothing heavy is imported until the class is needed:

    density: PerExpert[Fraction] = 0.2
    lambda_: Annotated[float, "scale of the merged delta, dimensionless"] = 1.0

A trailing underscore is dropped, so that `lambda_` is written `lambda` by users. A string in the
annotation is the help text; `annotated_types` bounds are enforced.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_origin

from annotated_types import Interval

from zoo.contract import INJECTED, Method

if TYPE_CHECKING:
    from pydantic import BaseModel

    from zoo.metrics import Metric

T = TypeVar("T")


class Each:
    """Marks a parameter that has one value per expert; a single value stands for all."""


PerExpert = Annotated[T | list[T], Each]
"""The type of a parameter with one value per expert; a single value stands for all."""
Fraction = Annotated[float, Interval(ge=0, le=1)]
"""A number from 0 to 1."""


def parameters_of(method: Method | Metric) -> type[BaseModel]:
    """The parameter class of a method or metric: unknown keys forbidden, values bounded, finite."""
    from typing import get_type_hints

    from pydantic import ConfigDict, Field, create_model

    options = [
        p
        for p in method.signature.parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.name not in INJECTED
    ]
    # Only these: `experts: Tensor` names a class that the plugin imports for type checkers alone.
    written = SimpleNamespace(__annotations__={p.name: p.annotation for p in options})
    hints = get_type_hints(written, method.function.__globals__, include_extras=True)
    fields: dict[str, Any] = {}
    for p in options:
        default = ... if p.default is p.empty else p.default
        public = p.name.rstrip("_")
        help_text = next((m for m in _metadata(hints[p.name]) if isinstance(m, str)), "")
        fields[p.name] = (
            hints[p.name],
            Field(default, alias=public, description=help_text),
        )
    name = "".join(part.title() for part in method.name.split("_")) + "Parameters"
    return create_model(
        name,
        __config__=ConfigDict(
            extra="forbid",
            frozen=True,
            populate_by_name=True,
            allow_inf_nan=False,
            validate_default=True,
        ),
        **fields,
    )


def per_expert(method: Method) -> frozenset[str]:
    """Public names of the parameters that have one value per expert."""
    return frozenset(
        field.alias or name
        for name, field in method.parameters.model_fields.items()
        if Each in field.metadata
    )


def _metadata(hint: Any) -> list[Any]:
    """All metadata of an annotation, outer first, through nested `Annotated` and unions."""
    found: list[Any] = []
    if get_origin(hint) is Annotated:
        found.extend(hint.__metadata__)
        found.extend(_metadata(hint.__origin__))
    else:
        for arg in get_args(hint):
            found.extend(_metadata(arg))
    return found
