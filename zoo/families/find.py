"""From a configuration and names to a family."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from zoo.families.family import Family
from zoo.families.inferred import inferred
from zoo.families.known import known


def family_of(config: Mapping[str, Any] | None, names: Collection[str]) -> Family | None:
    """The family of a model: by the data where it is known there, else from what it has.

    Args:
        config: its `config.json`.
        names: of its tensors.
    Returns:
        None where nothing can be said: there are no names, and the configuration is not known.
    """
    return (known(config, names) if config else None) or inferred(config, names)
