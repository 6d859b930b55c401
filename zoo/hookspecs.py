"""Every hook zoo calls, in the order they fire. The map for plugin authors.

    zoo_register_*              called once at start; add things with the callback
    zoo_before_*, zoo_after_*   observe; return values are ignored
    zoo_resolve_*               first answer wins; None means "not mine"

An implementation may leave out arguments it does not use. One that raises is named: after the
deed (`zoo_after_*`) with a warning, and the deed stands; elsewhere with an error, and nothing is
done. A `ZooError` from `zoo_before_*` or `zoo_resolve_*` is a refusal, and passes as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click

    from zoo.architecture import Architecture
    from zoo.checkpoint import Format
    from zoo.contract import Method
    from zoo.metrics import Metric
    from zoo.records import Version
    from zoo.source import RemoteSource
    from zoo.task import Task
    from zoo.transform import Transform

hookspec = pluggy.HookspecMarker("zoo")
hookimpl = pluggy.HookimplMarker("zoo")


# Registration: once, when the plugin manager is built. Keep these cheap; import torch later.


@hookspec
def zoo_register_formats(register: Callable[[Format], None]) -> None:
    """Offer checkpoint formats. They are asked in order of registration, bundled last."""


@hookspec
def zoo_register_methods(register: Callable[[Method], None]) -> None:
    """Offer merge methods. Two methods of one name: both plugins are named, the first stays."""


@hookspec
def zoo_register_metrics(register: Callable[[Metric], None]) -> None:
    """Offer metrics, of one version or of a set of versions."""


@hookspec
def zoo_register_architectures(register: Callable[[Architecture], None]) -> None:
    """Offer architectures: from a version's directory to a runnable module."""


@hookspec
def zoo_register_tasks(register: Callable[[Task], None]) -> None:
    """Offer tasks: named data sets with a score."""


@hookspec
def zoo_register_transforms(register: Callable[[Transform], None]) -> None:
    """Offer transforms: ways to make a model of another form, such as an adapter, from others."""


@hookspec
def zoo_register_commands(cli: click.Group) -> None:
    """Add commands to `zoo`. Called by the command line only."""


# Use: while a registry works.


@hookspec(firstresult=True)
def zoo_resolve_source(source: str) -> Path | RemoteSource | None:
    """Turn a source that is no local path (a URL, an id) into a local path, before it is read; or
    into a `zoo.source.RemoteSource`, whose headers can be looked at before it is fetched.

    None means "not mine". The path must stay until `register` has returned.
    """


@hookspec(firstresult=True)
def zoo_resolve_task(name: str) -> Task | None:
    """Make a task that no plugin registered and none declared, by its name.

    For plugins that offer more tasks than they can list. None means "not mine".
    """


@hookspec
def zoo_before_register(source: str, name: str) -> None:
    """Called before a source is read. Raise `ZooError` to refuse it."""


@hookspec
def zoo_after_register(version: Version) -> None:
    """Called after a version is committed, for registrations and merges alike."""


@hookspec
def zoo_before_merge(recipe: Mapping[str, Any], experts: Sequence[Version | None]) -> None:
    """Called with the resolved recipe after pre-flight, before anything is written.

    Experts are None where a path is merged without being registered.

    Raise `ZooError` to refuse the merge.
    """


@hookspec
def zoo_after_merge(version: Version | None, recipe: Mapping[str, Any]) -> None:
    """Called after a merge is committed (`version`) or written to `--out` only (None)."""
