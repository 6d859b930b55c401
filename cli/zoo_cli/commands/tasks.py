"""`zoo tasks`: declare tasks, list them, look at one, forget one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from zoo_cli.output import Column, json_option, say, show_fields, show_json, show_table, title
from zoo_cli.session import Session, pass_session

if TYPE_CHECKING:
    from zoo.registry import Registry
    from zoo.task import Task


@click.group("tasks", invoke_without_command=True)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Declare tasks, list them, look at one, forget one.

    A task is a named data set with a score. Plugins bring some; others are declared in a file:

    \b
        zoo tasks add fashion.yaml
        zoo evaluate --where "task = 'fashion'"

    Alone, it lists them, as `zoo tasks ls` does.
    """
    if ctx.invoked_subcommand is None:
        _list(ctx.ensure_object(Session), as_json)


@command.command("add")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option(
    "--replace", is_flag=True, help="Take the place of a declaration, or of data that has changed."
)
@json_option
@pass_session
def add(session: Session, file: str, replace: bool, as_json: bool) -> None:
    """Declare the task that FILE describes, in YAML.

    Its data is read once; its digests are kept, so that data that changes later is noticed.

    \b
        name: fashion
        format: npz
        path: fashion_mnist.npz
        splits:
          train: {inputs: x_train, targets: y_train}
          test: {inputs: x_test, targets: y_test}
    """
    with session.open(create=True) as registry:
        task = registry.add_task(file, replace=replace)
        found = _as_dict(registry, task)
    if as_json:
        show_json(found)
        return
    sizes = ", ".join(f"{s['size']} {s['split']}" for s in found["splits"])
    say(f"Declared {task.name}: {sizes}; {len(task.labels)} labels.")


@command.command("ls")
@json_option
@pass_session
def ls(session: Session, as_json: bool) -> None:
    """List the tasks of plugins and those declared. No data is read."""
    _list(session, as_json)


@command.command("show")
@click.argument("name")
@json_option
@pass_session
def show(session: Session, name: str, as_json: bool) -> None:
    """Show the task NAME: its splits with sizes and digests, its labels, its declaration.

    Reads its data, and tells what is wrong with it.
    """
    import yaml

    with session.open(lazy=True) as registry:
        found = _as_dict(registry, registry.task(name))
    if as_json:
        show_json(found)
        return
    title(found["name"], found["from"])
    splits = [
        f"{s['split']}  " + (s["problem"] or f"{s['size']} examples  {s['digest']}")
        for s in found["splits"]
    ]
    declaration = found["declaration"]
    written = declaration and yaml.safe_dump(
        declaration, allow_unicode=True, default_flow_style=None
    )
    labels = ", ".join(label if label.isprintable() else ascii(label) for label in found["labels"])
    show_fields(
        [
            ("splits", "\n".join(splits)),
            ("labels", labels),
            ("license", found["license"]),
            ("declaration", written and written.rstrip()),
        ]
    )


@command.command("rm")
@click.argument("name")
@json_option
@pass_session
def rm(session: Session, name: str, as_json: bool) -> None:
    """Forget the declared task NAME. What was measured on it stays."""
    with session.open() as registry:
        registry.remove_task(name)
    if as_json:
        show_json({"removed": name})
    else:
        say(f"Forgot task {name}.")


def _list(session: Session, as_json: bool) -> None:
    with session.open(lazy=True) as registry:
        rows = [_summary(registry, task) for task in registry.tasks()]
    if as_json:
        show_json(rows)
        return
    show_table(
        [
            Column("task", style="bold", whole=True),
            Column("labels", right=True),
            Column("splits"),
            Column("license"),
            Column("from", style="dim"),
        ],
        [
            [
                row["name"],
                str(len(row["labels"])) if row["labels"] else None,
                ", ".join(row["splits"]),
                row["license"],
                row["from"],
            ]
            for row in rows
        ],
    )


def _summary(registry: Registry, task: Task) -> dict[str, Any]:
    return {
        "name": task.name,
        "labels": list(task.labels),
        "splits": list(task.splits),
        "license": task.license,
        "from": _origin(registry, task.name),
    }


def _origin(registry: Registry, name: str) -> str:
    if name in registry.plugins.tasks:
        return f"plugin {registry.plugins.provider('tasks', name)}"
    record = None if registry.is_absent else registry.catalog.task(name)
    if record is None:
        return "a plugin, on demand"
    source = record.declaration.get("from")
    return f"declared, from {source}" if source else "declared"


def _as_dict(registry: Registry, task: Task) -> dict[str, Any]:
    record = None if registry.is_absent else registry.catalog.task(task.name)
    return {
        **_summary(registry, task),
        "splits": [_split(task, split) for split in task.splits],
        "declaration": dict(record.declaration) if record else None,
    }


def _split(task: Task, split: str) -> dict[str, Any]:
    from zoo.errors import ZooError

    try:
        found = {"size": task.size(split), "digest": task.digest(split), "problem": None}
    except ZooError as e:
        found = {"size": None, "digest": None, "problem": str(e)}
    return {"split": split, **found}
