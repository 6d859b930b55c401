"""`zoo ls`: list versions."""

from __future__ import annotations

import click

from zoo_cli.arguments import selection_options
from zoo_cli.output import json_option, say, show_json
from zoo_cli.session import Session, pass_session
from zoo_cli.versions import show_versions


@click.command("ls")
@selection_options
@json_option
@pass_session
def command(
    session: Session, where: str | None, order_by: str | None, limit: int | None, as_json: bool
) -> None:
    """List versions, all of them or those a query selects.

    \b
        zoo ls --where "kind = 'expert' and base = 'qwen' and task in ('math', 'code')"
        zoo ls --where "latest and tag.seed = '1'" --order-by "accuracy desc" --limit 5
    """
    with session.open() as registry:
        versions = registry.select(where=where, order_by=order_by, limit=limit)
    if as_json:
        show_json([v.as_dict() for v in versions])
    elif versions:
        show_versions(versions, asked=f"{where or ''} {order_by or ''}")
    else:
        say("No version matches." if where else "The registry is empty: `zoo register --help`.")
