"""`zoo path`: where a version's files are."""

from __future__ import annotations

import click

from zoo_cli.arguments import reference_argument
from zoo_cli.output import json_option, show_json
from zoo_cli.session import Session, pass_session


@click.command("path")
@reference_argument("ref")
@json_option
@pass_session
def command(session: Session, ref: str, as_json: bool) -> None:
    """Print the directory of a version.

    It is ready for `from_pretrained`. Its files are links into the store: read them, and copy
    with `zoo export` to change them.
    """
    with session.open() as registry:
        path = str(registry.path(ref))
    if as_json:
        show_json({"path": path})
    else:
        click.echo(path)
