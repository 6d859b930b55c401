"""`zoo rm`: remove a version, leaving a tombstone."""

from __future__ import annotations

import click

from zoo_cli.arguments import reference_argument
from zoo_cli.output import json_option, say, show_json
from zoo_cli.session import Session, pass_session


@click.command("rm")
@reference_argument("ref")
@click.option("--reason", default="", metavar="TEXT", help="Why; kept with the tombstone.")
@json_option
@pass_session
def command(session: Session, ref: str, reason: str, as_json: bool) -> None:
    """Remove a version. A tombstone stays, so lineage still names it.

    Its number is never given again. `zoo gc` frees the bytes no other version uses.
    """
    with session.open() as registry:
        version = registry.get(ref)
        registry.remove(version.ref, reason)
    if as_json:
        show_json({"removed": version.ref, "reason": reason})
    else:
        say(f"Removed {version.ref}. `zoo gc` frees its bytes ({version.digest[:19]}).")
