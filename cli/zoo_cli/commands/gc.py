"""`zoo gc`: free what nothing uses."""

from __future__ import annotations

import click

from zoo_cli.output import json_option, say, show_json
from zoo_cli.session import Session, pass_session
from zoo_cli.units import size


@click.command("gc")
@click.option("--dry-run", is_flag=True, help="Tell what would be freed, and free nothing.")
@click.option(
    "--partial-age",
    "partial_age_days",
    type=click.FloatRange(min=0),
    default=7.0,
    show_default=True,
    metavar="DAYS",
    help="Interrupted merges younger than this are kept, to be resumed.",
)
@json_option
@pass_session
def command(session: Session, dry_run: bool, partial_age_days: float, as_json: bool) -> None:
    """Free the objects no version uses, and old interrupted work.

    Safe while other processes register and merge.
    """
    with session.open() as registry:
        report = registry.gc(dry_run=dry_run, partial_age_days=partial_age_days)
    if as_json:
        show_json({"dry_run": dry_run, **report.as_dict()})
        return
    verb = "Would free" if dry_run else "Freed"
    say(f"{verb} {size(report.removed_bytes)}; {report.kept_objects} objects stay.")
