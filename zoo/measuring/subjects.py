"""Opens versions and directories as subjects of evaluations and measurements."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from zoo.engine.inputs import Input
from zoo.engine.opener import Opener
from zoo.networks.loading import load
from zoo.storage.register import architecture_of
from zoo.subject import Subject

if TYPE_CHECKING:
    from zoo.registry import Registry


def subjects(
    registry: Registry, refs: Iterable[str], stack: ExitStack, *, bases: bool = True
) -> list[Subject]:
    """The models that references or paths name, each with its base where it has one.

    Args:
        stack: closes their files.
        bases: False leaves the bases out, whose bytes then need not be there.
    Raises:
        NotFound, AmbiguousReference
    """
    opener = Opener(registry, stack, min(16, os.cpu_count() or 1))

    def opened(ref: str) -> Subject:
        own = _subject(registry, opener.open(ref))
        if bases and own.version is not None and own.version.base is not None:
            base = opener.version(registry.catalog.get(own.version.base, removed=True))
            return replace(own, base=_subject(registry, base))
        return own

    return [opened(ref) for ref in refs]


def _subject(registry: Registry, found: Input) -> Subject:
    model = found.model
    config = model.checkpoint.opened.config or {}
    name = found.version.architecture if found.version else architecture_of(config)
    architecture = registry.plugins.architecture(name, config)
    make = model.module
    if architecture is not None and not model.checkpoint.opened.weight_files:
        # A pickle, which architectures do not read: it is loaded by way of a safetensors file.
        make = partial(load, model.label, registry=registry)
    return Subject(
        label=model.label,
        digest=model.digest,
        checkpoint=model.checkpoint,
        config=config,
        architecture=architecture,
        version=found.version,
        make=make,
        known=list(registry.plugins.architectures),
    )
