"""`zoo import-zoo`: take what another zoo packed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo_cli.arguments import threads_option
from zoo_cli.output import json_option, say, show_json
from zoo_cli.session import Session, pass_session
from zoo_cli.units import size

if TYPE_CHECKING:
    from zoo.bundle.known import Conflict


@click.command("import-zoo")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--on-conflict",
    "conflict",
    type=click.Choice(["append", "rename"]),
    help="For entries whose names others have here: their versions follow those, or the entries "
    "get other names.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be added, and add nothing.")
@threads_option
@json_option
@pass_session
def command(
    session: Session,
    file: Path,
    conflict: Conflict | None,
    dry_run: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Add what a bundle has and this zoo lacks.

    Every byte, every digest and the audit log of FILE are checked first. Versions that are here
    already stay as they are, so a bundle may be taken in again, or brought back to the zoo it
    came from. Removed versions come as the tombstones they are; lineage, metrics, aliases and
    the other zoo's audit log come along.

    \b
        zoo import-zoo all.zoo --dry-run
        zoo import-zoo theirs.zoo --on-conflict rename
    """
    with session.open(create=not dry_run) as registry:
        report = registry.import_zoo(
            file, conflict=conflict, dry_run=dry_run, threads=threads, progress=session.progress
        )
    if as_json:
        show_json(report.as_dict())
        return
    verb = "Would add" if report.dry_run else "Added"
    say(
        f"{verb} {len(report.added)} versions and {report.objects} objects, {size(report.bytes)}; "
        f"{report.known} versions were here already."
    )
    for was, now in report.added.items():
        if was != now:
            say(f"  {was} is {now} here")
    for sentence in report.kept:
        say(f"  {sentence}")
