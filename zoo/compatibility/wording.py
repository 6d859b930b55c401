"""How problems name models, tensors and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MOST_NAMED = 8
"""Tensors a problem lists by name; it counts the rest."""


def listed(names: Sequence[str]) -> str:
    """`2 tensors (`a`, `b`)`: the first by name, and how many there are."""
    shown = ", ".join(f"`{n}`" for n in names[:MOST_NAMED])
    more = len(names) - MOST_NAMED
    return f"{len(names)} tensors ({shown}{f' and {more} more' if more > 0 else ''})"


def together(labels: Sequence[str]) -> str:
    """`` `a`, `b` and `c` ``."""
    named = [f"`{label}`" for label in dict.fromkeys(labels)]
    return " and ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named)


def by_value(values: Mapping[str, Any]) -> str:
    """`` 1 in `a` and `b`, 2 in `c` ``: which models have which value, values as first met."""
    groups: dict[str, list[str]] = {}
    for label, value in values.items():
        groups.setdefault(str(value), []).append(label)
    parts = [f"{value} in {together(labels)}" for value, labels in groups.items()]
    if all(len(labels) == 1 for labels in groups.values()) and len(parts) > 1:
        return " and ".join([", ".join(parts[:-1]), parts[-1]])
    return ", ".join(parts)


def counted(names: Sequence[str]) -> str:
    """`the tensor `a``, or how many there are and the first by name."""
    return f"the tensor `{names[0]}`" if len(names) == 1 else listed(names)
