"""`zoo init`: make an empty registry and its store."""

from __future__ import annotations

import click

from zoo_cli.output import json_option, show_fields, show_json
from zoo_cli.session import Session, pass_session


@click.command("init")
@click.option(
    "--store",
    type=click.Path(),
    metavar="DIR",
    help="Where the bytes live; by default `registry.store` beside `registry.db`. "
    "A database server needs it named.",
)
@json_option
@pass_session
def command(session: Session, store: str | None, as_json: bool) -> None:
    """Make an empty registry and its store.

    A registry that exists already is left as it is. `zoo register` makes one when there is
    none, so this is needed only to choose the store's place.
    """
    with session.open(create=True, store=store) as registry:
        made = {"registry": str(registry.catalog.url), "store": str(registry.catalog.store_root)}
    if as_json:
        show_json(made)
    else:
        show_fields(list(made.items()))
