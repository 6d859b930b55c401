"""Licences of the models that are to be merged: what the result would be under."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from zoo.checkpoint import Checkpoint
from zoo.compatibility.problem import Problem
from zoo.compatibility.wording import by_value
from zoo.licences import Combined, combined

if TYPE_CHECKING:
    from zoo.engine.inputs import Input


def licences_of(inputs: Sequence[Input]) -> dict[str, str | None]:
    """The licence of each model by label: as it is registered, or as its own files say. The base
    that an adapter is applied to is a model of its own."""
    found: dict[str, str | None] = {}
    for one in inputs:
        own = one.version.license if one.version else None
        if one.version is None and one.applied is None:
            own = _declared(one.model.checkpoint)
        found[one.model.label] = own
        if one.applied is not None:
            found |= licences_of([one.applied.base])
    return found


_KNOWN: WeakKeyDictionary[Checkpoint, str | None] = WeakKeyDictionary()
"""What the files of open checkpoints say: looking for it reads the headers again."""


def _declared(checkpoint: Checkpoint) -> str | None:
    """The licence that a model's own files say."""
    from zoo.declared import read_declared

    if checkpoint not in _KNOWN:
        _KNOWN[checkpoint] = read_declared(checkpoint.opened).license
    return _KNOWN[checkpoint]


def doubts_of_licences(licences: Mapping[str, str | None]) -> tuple[list[Problem], Combined]:
    """What stands against sharing a merge of models under these licences.

    Nothing is refused, not even where no derivatives may be shared: such a licence allows to make
    them, and a merge need not leave the machine.
    """
    merged = combined(licences.values())
    said = {label: name or "not known" for label, name in licences.items()}
    if merged.conflicts:
        what, why = f"the licence is {by_value(said)}", merged.reason
        remedy = (
            "Merge it for yourself, or choose models whose licences go together: "
            "`zoo ls --where \"license = 'apache-2.0'\"`. This is no legal advice."
        )
        return [Problem("licences", "warning", what, why, remedy, tuple(licences))], merged
    if merged.license is None and any(licences.values()):
        remedy = (
            "The result is registered without a licence; `--license ID` says one."
            if merged.together
            else "The result is registered without a licence. Say what the models are under: "
            "`zoo annotate REF --license ID`."
        )
        what = f"the licence is {by_value(said)}"
        return [Problem("licences", "note", what, merged.reason, remedy, tuple(licences))], merged
    return [], merged


def licence_lines(licences: Mapping[str, str | None]) -> list[str]:
    """What a card says below its parents' licences: what they ask for, and whether they conflict.

    Nothing where no parent has a licence.
    """
    merged = combined(licences.values())
    if not any(licences.values()):
        return []
    lines = [f"- {duty[0].upper()}{duty[1:]}." for duty in merged.obligations]
    if merged.reason:
        lines.append(f"- No one licence covers it: {merged.reason}.")
    return (
        [
            "",
            "What the licences of the parents ask of whoever shares this model, as zoo reads them "
            "(no legal advice):",
            "",
            *lines,
        ]
        if lines
        else []
    )
