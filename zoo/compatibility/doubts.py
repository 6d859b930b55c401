"""What a merge lets pass and whoever merges should know: from configurations and small files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zoo.compatibility.configurations import doubts_of_configurations, notes_of_types
from zoo.compatibility.problem import Problem
from zoo.compatibility.terms import doubts_of_licences, licences_of
from zoo.compatibility.tokenizers import doubts_of_tokenizers
from zoo.compatibility.wording import by_value

if TYPE_CHECKING:
    from zoo.engine.inputs import Inputs


def doubts(inputs: Inputs, lock: Mapping[str, Any]) -> list[Problem]:
    """Warnings and notes about models that are to be merged.

    Args:
        lock: what the recipe settles needs no warning: `tokenizer`, `chat_template`, `dtype`.
    """
    every = [*inputs.experts, *([inputs.base] if inputs.base else [])]
    models, donor = [i.model for i in every], inputs.donor
    found = doubts_of_configurations(models, donor.model)
    if lock.get("tokenizer") is None:
        found += doubts_of_tokenizers(every, donor, template=lock.get("chat_template") is not None)
    found += _bases(inputs)
    found += doubts_of_licences(licences_of([*every, donor]))[0]
    origin = inputs.base or inputs.experts[0]
    return [*found, *notes_of_types(models, origin.model, lock.get("dtype"))]


def _bases(inputs: Inputs) -> list[Problem]:
    """Experts that are registered with other bases than each other, or than the one given."""
    declared = {
        e.model.label: f"`{e.version.base}`" for e in inputs.experts if e.version and e.version.base
    }
    given = inputs.base.version.ref if inputs.base and inputs.base.version else None
    other = {label: base for label, base in declared.items() if base != f"`{given}`"}
    why = "what each learned is told as a difference from its own base"
    if given is not None and other and inputs.base:
        return [
            Problem(
                "base",
                "warning",
                f"the base is `{given}`, and as registered it is {by_value(other)}",
                why,
                "Merge experts of one base, or methods without one: `linear`, `slerp`.",
                tuple(other),
            )
        ]
    if given is None and len(set(declared.values())) > 1:
        return [
            Problem(
                "base",
                "warning",
                f"as registered, the base is {by_value(declared)}",
                "weights of models that did not begin alike do not average to anything",
                "Merge experts of one base: `zoo ls --where \"base = 'NAME'\"`.",
                tuple(declared),
            )
        ]
    return []
