"""The licence of a merge, from those of its parents.

    the same for all                  that licence
    all permissive                    the one that asks for most; the notices of all are kept
    one that is not permissive        that one; the notices of the others are kept
    several that are not              the one that all others allow to be passed on under; else none

None is said where a parent's licence is not known, where no derivatives may be shared, where one
licence wants the whole for itself and another adds terms, and where the terms of several apply.
No legal advice: see `zoo.licences`.

Sources: https://www.gnu.org/licenses/license-list.html for GNU licences,
https://creativecommons.org/share-your-work/licensing-considerations/compatible-licenses and
https://wiki.creativecommons.org/wiki/Wiki/cc_license_compatibility for Creative Commons, EUPL 1.2's
appendix, MPL 2.0 section 3.3.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

from zoo.licences.table import Licence, known


@dataclass(frozen=True, slots=True)
class Combined:
    """What a merge is under, as far as that can be said."""

    license: str | None
    """As the parents write it; None where there is no one licence."""
    obligations: tuple[str, ...] = ()
    """What whoever shares the result has to do, one clause each."""
    conflicts: tuple[str, ...] = ()
    """Why the result may not be shared, one sentence each, without a full stop."""
    unknown: tuple[str, ...] = ()
    """Licences that nothing is known of: their ids, and `none` for a parent without one."""
    together: tuple[str, ...] = ()
    """Licences whose terms apply all at once, where no single one covers the result."""

    @property
    def reason(self) -> str:
        """Why there is no licence; empty where there is one."""
        if self.license is not None:
            return ""
        if self.conflicts:
            return "; ".join(self.conflicts)
        if self.unknown:
            said = [f"`{u}`" for u in self.unknown if u != NONE]
            parts = [f"what {' and '.join(said)} asks for is not known"] if said else []
            if NONE in self.unknown:
                parts.append("not all parents have a licence")
            return ", and ".join(parts)
        return f"the terms of {' and '.join(f'`{i}`' for i in self.together)} apply together"


NONE = "none"

_GPL_3 = ("gpl-3.0", "gpl-3.0-only", "gpl-3.0-or-later")
_AGPL_3 = ("agpl-3.0", "agpl-3.0-only", "agpl-3.0-or-later")
_INTO: dict[str, tuple[str, ...]] = {
    # What is under the first may be passed on, in a larger work, under one of the others.
    "lgpl-2.1-or-later": ("lgpl-3.0", "lgpl-3.0-only", "lgpl-3.0-or-later", *_GPL_3, *_AGPL_3),
    "lgpl-2.1": ("gpl-2.0", "gpl-2.0-only", "gpl-2.0-or-later", *_GPL_3, *_AGPL_3),
    "lgpl-2.1-only": ("gpl-2.0", "gpl-2.0-only", "gpl-2.0-or-later", *_GPL_3, *_AGPL_3),
    "lgpl-3.0": (*_GPL_3, *_AGPL_3),
    "lgpl-3.0-only": (*_GPL_3, *_AGPL_3),
    "lgpl-3.0-or-later": (*_GPL_3, *_AGPL_3),
    "gpl-2.0-or-later": (*_GPL_3, *_AGPL_3),
    "gpl-3.0": _AGPL_3,
    "gpl-3.0-only": _AGPL_3,
    "gpl-3.0-or-later": ("gpl-3.0", "gpl-3.0-only", *_AGPL_3),
    "agpl-3.0-or-later": ("agpl-3.0", "agpl-3.0-only"),
    "mpl-2.0": ("lgpl-2.1", "lgpl-3.0", "gpl-2.0", *_GPL_3, *_AGPL_3),
    "eupl-1.2": ("gpl-2.0", "gpl-3.0", "agpl-3.0", "lgpl-2.1", "lgpl-3.0", "mpl-2.0", "cecill-2.1"),
    "cc-by-sa-4.0": _GPL_3,
    "cc-by-sa-3.0": ("cc-by-sa-4.0",),
    "cc-by-sa-2.5": ("cc-by-sa-3.0", "cc-by-sa-4.0"),
    "cc-by-sa-2.0": ("cc-by-sa-2.5", "cc-by-sa-3.0", "cc-by-sa-4.0"),
    "cc-by-nc-4.0": ("cc-by-nc-sa-4.0",),
    "cc-by-nc-3.0": ("cc-by-nc-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"),
    "cc-by-nc-2.0": ("cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"),
    "cc-by-nc-sa-3.0": ("cc-by-nc-sa-4.0",),
    "cc-by-nc-sa-2.0": ("cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"),
}
_REFUSED = {
    # A permissive licence with a term that a copyleft one does not allow to be added.
    ("apache-2.0", "gpl-2.0"),
    ("apache-2.0", "gpl-2.0-only"),
    ("apache-2.0", "lgpl-2.1-only"),
}


def combined(licences: Iterable[str | None]) -> Combined:
    """The licence of a merge of models under these; conservative, and no legal advice.

    Args:
        licences: of all parents, as cards name them; None for a parent without one.
    """
    given = list(dict.fromkeys(licences))
    if not given:
        return Combined(None, unknown=(NONE,))
    spelt = {_key(name): name for name in reversed(given) if name is not None}
    found = {key: licence for key in sorted(spelt) if (licence := known(spelt[key])) is not None}
    strange = [spelt[key] for key in sorted(spelt.keys() - found.keys())]
    unknown = (*strange, *((NONE,) if None in given else ()))
    obligations = _obligations(list(found.values()))
    conflicts = [
        f"`{spelt[key]}` allows nothing made from it to be shared"
        for key, one in found.items()
        if one.no_derivatives
    ]
    if unknown:
        # Of one licence that all have, nothing need be known to say that it is theirs.
        own = strange[0] if len(given) == 1 and strange else None
        if own is not None and own.lower() not in ("other", "unknown"):
            return Combined(own, obligations, tuple(conflicts), unknown)
        return Combined(None, obligations, (*conflicts, *_clashes(found, spelt)), unknown)
    conflicts += _clashes(found, spelt)
    if conflicts:
        return Combined(None, obligations, tuple(conflicts))
    chosen = _chosen(found)
    if chosen is not None:
        return Combined(spelt[chosen], _obligations(list(found.values()), found[chosen]))
    bound = tuple(spelt[key] for key, one in found.items() if not one.permissive)
    return Combined(None, obligations, together=bound)


def _key(name: str) -> str:
    """One key for all spellings of a licence."""
    licence = known(name)
    return licence.id if licence else name.strip().lower()


def _chosen(found: dict[str, Licence]) -> str | None:
    """The one licence that all others may be passed on under."""
    bound = [key for key, one in found.items() if not one.permissive]
    if not bound:
        return max(found, key=lambda key: (found[key].rank, key))
    for key in bound:
        if all(key in _INTO.get(other, ()) for other in bound if other != key):
            return key
    return None


def _clashes(found: dict[str, Licence], spelt: dict[str, str]) -> list[str]:
    """Pairs of licences that cannot both be kept."""
    told = []
    for a, b in combinations(found, 2):
        if b in _INTO.get(a, ()) or a in _INTO.get(b, ()):
            continue
        for one, other in ((a, b), (b, a)):
            if not found[one].same_terms:
                continue
            if found[other].permissive and (other, one) not in _REFUSED:
                continue
            told.append(
                f"`{spelt[one]}` wants the whole under its own terms, and `{spelt[other]}` adds "
                "others"
            )
            break
    return told


def _obligations(licences: list[Licence], chosen: Licence | None = None) -> tuple[str, ...]:
    """What all these licences ask for, each thing once; of sharing alike, only the chosen."""
    told: list[str] = []

    def tell(those: list[Licence], what: str) -> None:
        if those:
            named = [f"`{one.id}`" for one in those]
            all_but_last = ", ".join(named[:-1])
            told.append(
                what.format(f"{all_but_last} and {named[-1]}" if all_but_last else named[0])
            )

    tell([o for o in licences if o.attribution], "keep the notices and the text of {}")
    tell([o for o in licences if o.non_commercial], "no commercial use, says {}")
    tell([o for o in licences if o.use_restrictions], "pass on the terms of use of {}")
    tell(
        [o for o in licences if o.same_terms and chosen in (o, None)],
        "share under {}, with no terms added",
    )
    tell([o for o in licences if o.no_derivatives], "do not share it, says {}")
    for name in dict.fromkeys(o.name_required for o in licences if o.name_required):
        theirs = [o for o in licences if o.name_required == name]
        tell(theirs, f"begin its name with `{name}`, says {{}}")
    return tuple(told)
