"""The tasks a registry knows: those of plugins, and those declared in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import InvalidTask, NotFound, RegistryError, did_you_mean

if TYPE_CHECKING:
    from zoo.records import TaskRecord
    from zoo.registry import Registry
    from zoo.task import Task


def task_named(registry: Registry, name: str) -> Task:
    """The task of a name: a plugin's, else one declared in the registry, else one that a plugin
    makes on demand (`zoo_resolve_task`). A registry gives the same task each time, so that its data
    is read once.

    Raises:
        NotFound: none of them; suggests the nearest names.
        InvalidTask: its declaration is wrong.
    """
    if name in registry.plugins.tasks:
        return registry.plugins.tasks[name]
    record = _records(registry).get(name)
    if record is not None:
        return _of_record(registry, record)
    made: Task | None = registry.plugins.ask("zoo_resolve_task", name=name)
    if made is None:
        known = sorted({*registry.plugins.tasks, *_records(registry)})
        raise NotFound(
            f"There is no task `{name}`.",
            "No plugin offers it, and none of that name was declared.",
            f"{did_you_mean(name, known)} Declare one with `zoo tasks add FILE`.".strip(),
            task=name,
        )
    return made


def tasks(registry: Registry) -> list[Task]:
    """All tasks of plugins and those declared, names ascending."""
    declared = [_of_record(registry, record) for record in _records(registry).values()]
    return sorted([*registry.plugins.tasks.values(), *declared], key=lambda task: task.name)


def add_task(
    registry: Registry, written: str | Path | Mapping[str, Any], *, replace: bool = False
) -> Task:
    """Declare a task: read all its data once, and keep the declaration with the data's digests.

    Args:
        written: path of a YAML file, or its content; see `zoo.tasks.declaration`.
        replace: whether it may take the place of another declaration, or of the same one whose
            data has changed.
    Raises:
        NotFound: there is no such file.
        InvalidTask: the declaration or its data is wrong.
        InvalidName: the name cannot be part of a metric's split.
        RegistryError: the name is a plugin's, or is taken and `replace` is False.
    """
    from zoo.tasks.declaration import completed, declared, read_declaration

    declaration = read_declaration(written)
    name = declaration.get("name")
    if not isinstance(name, str):
        raise InvalidTask("The declaration has no `name`.", how="Write `name: my-task`.")
    if name in registry.plugins.tasks:
        raise RegistryError(
            f"The task `{name}` is already there, from plugin "
            f"`{registry.plugins.provider('tasks', name)}`.",
            how="Choose another name.",
            task=name,
        )
    _refuse_circles(registry, name, declaration)

    def other(wanted: str) -> Task:
        return task_named(registry, wanted)

    whole = completed(declaration, other)
    task = declared(whole, other)
    digests = {split: task.digest(split) for split in task.splits}
    registry.catalog.add_task(name, whole, digests, replace=replace)
    return task_named(registry, name)


def remove_task(registry: Registry, name: str) -> None:
    """Forget a declared task; what was measured on it stays.

    Raises:
        NotFound: none has this name.
        RegistryError: a plugin offers it, or another task is derived from it.
    """
    if name in registry.plugins.tasks:
        raise RegistryError(
            f"The task `{name}` comes from plugin `{registry.plugins.provider('tasks', name)}`.",
            how="Remove the plugin.",
            task=name,
        )
    children = [r.name for r in _records(registry).values() if r.declaration.get("from") == name]
    if children:
        raise RegistryError(
            f"The task `{name}` is what `{'`, `'.join(children)}` derive from.",
            how="Remove those first.",
            task=name,
            children=children,
        )
    registry.catalog.remove_task(name)


def _records(registry: Registry) -> dict[str, TaskRecord]:
    return {} if registry.is_absent else {r.name: r for r in registry.catalog.tasks()}


def _of_record(registry: Registry, record: TaskRecord) -> Task:
    from zoo.digest import json_digest
    from zoo.tasks.declaration import declared

    key = json_digest([record.name, record.declaration, record.digests])
    known = registry.tasks_in_use
    if key not in known:
        known[key] = declared(
            record.declaration, lambda name: task_named(registry, name), record.digests
        )
    return known[key]


def _refuse_circles(registry: Registry, name: str, declaration: Mapping[str, Any]) -> None:
    records = _records(registry)
    chain = [name]
    while (source := declaration.get("from")) is not None:
        if source == name:
            raise InvalidTask(
                f"Task `{name}` would be derived from itself: {' from '.join([*chain, name])}.",
                task=name,
            )
        if source not in records:
            return
        chain.append(source)
        declaration = records[source].declaration
