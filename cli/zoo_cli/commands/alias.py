"""`zoo alias`: point a movable name at a version."""

from __future__ import annotations

import click

from zoo_cli.arguments import reference_argument
from zoo_cli.output import json_option, say, show_json
from zoo_cli.session import Session, pass_session


@click.command("alias")
@reference_argument("ref")
@click.argument("alias")
@click.option("--delete", is_flag=True, help="Take the alias away from the entry instead.")
@json_option
@pass_session
def command(session: Session, ref: str, alias: str, delete: bool, as_json: bool) -> None:
    """Let ALIAS name the version REF, as in `name@ALIAS`.

    An alias belongs to one entry and may be moved; where it pointed before stays on record.
    """
    with session.open() as registry:
        version = registry.get(ref)
        if delete:
            registry.unalias(version.name, alias)
        else:
            registry.alias(version.ref, alias)
    full = f"{version.name}@{alias}"
    if as_json:
        show_json({"alias": full, "version": None if delete else version.ref})
    else:
        say(f"{full} is no more." if delete else f"{full} is now {version.ref}.")
