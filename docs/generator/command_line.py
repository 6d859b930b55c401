"""The page on the command line: the help of every command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from generator.markdown import fenced

if TYPE_CHECKING:
    import click


def cli() -> str:
    from zoo_cli.main import cli as root

    parts = [
        "# Command line",
        "Data goes to stdout, everything else to stderr. Every command takes `--json`. "
        "Exit codes: [](errors.md).",
    ]
    for path, command in commands(root, ("zoo",)):
        level = "##" if len(path) < 3 else "###"
        parts += [f"{level} {' '.join(path)}", fenced(help_text(path, command))]
    return "\n\n".join(parts)


def commands(
    command: click.Command, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command below one, itself first, depth first; those of plugins left out."""
    import click
    from zoo_cli.main import BUILT_IN

    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path[-1])
        for name in BUILT_IN if len(path) == 1 else command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from commands(child, (*path, name))


def help_text(path: tuple[str, ...], command: click.Command) -> str:
    import click
    from zoo_cli.session import Session

    session = Session()
    session.has_plugin_commands = True  # what is installed here is not part of the reference
    context = None
    for name in path[:-1]:
        context = click.Context(click.Group(name), info_name=name, parent=context)
    context = click.Context(
        command,
        info_name=path[-1],
        parent=context,
        obj=session,
        terminal_width=88,
        max_content_width=88,
    )
    return command.get_help(context)
