"""`zoo export`: copy a version out of the store."""

from __future__ import annotations

import click

from zoo_cli.arguments import complete_reference, reference_argument
from zoo_cli.output import json_option, show_json
from zoo_cli.session import Session, pass_session


@click.command("export")
@reference_argument("ref")
@click.argument("directory", type=click.Path(file_okay=False))
@click.option("--task", metavar="NAME", help="Write the model of this task, a plain one.")
@click.option(
    "--base",
    metavar="REF",
    shell_complete=complete_reference,
    help="Where the task's base is, if the registry does not have it.",
)
@json_option
@pass_session
def command(
    session: Session, ref: str, directory: str, task: str | None, base: str | None, as_json: bool
) -> None:
    """Copy a version's files out of the store.

    DIRECTORY gets plain files that owe nothing to the store. With --task, the model is put
    together from the version, what it keeps for that task, and its base; REF may then be a
    directory that `zoo merge --out` wrote, too. `zoo show` lists the tasks.
    """
    if base is not None and task is None:
        raise click.UsageError("--base goes with --task.")
    with session.open(create=False, lazy=task is not None) as registry:
        path = str(registry.export(ref, directory, task=task, base=base))
    if as_json:
        show_json({"path": path})
    else:
        click.echo(path)
