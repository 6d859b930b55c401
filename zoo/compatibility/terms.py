"""Licences of the models that are to be merged: what the result would be under."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zoo.compatibility.problem import Problem
from zoo.compatibility.wording import by_value
from zoo.licences import Combined, combined

if TYPE_CHECKING:
    from zoo.inputs import Input


def licences_of(inputs: Sequence[Input]) -> dict[str, str | None]:
    """The licence of each model by label: as it is registered, or as its own files say."""
    from zoo.declared import read_declared

    return {
        i.model.label: i.version.license
        if i.version
        else read_declared(i.model.checkpoint.opened).license
        for i in inputs
    }


def doubts_of_licences(licences: dict[str, str | None]) -> tuple[list[Problem], Combined]:
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
