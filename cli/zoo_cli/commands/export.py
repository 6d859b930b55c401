"""`zoo export`: copy a version out of the store."""

from __future__ import annotations

import click

from zoo_cli.arguments import reference_argument
from zoo_cli.output import json_option, show_json
from zoo_cli.session import Session, pass_session


@click.command("export")
@reference_argument("ref")
@click.argument("directory", type=click.Path(file_okay=False))
@json_option
@pass_session
def command(session: Session, ref: str, directory: str, as_json: bool) -> None:
    """Copy a version's files out of the store.

    DIRECTORY gets plain files that owe nothing to the store.
    """
    with session.open() as registry:
        path = str(registry.export(ref, directory))
    if as_json:
        show_json({"path": path})
    else:
        click.echo(path)
