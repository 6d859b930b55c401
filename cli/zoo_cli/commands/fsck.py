"""`zoo fsck`: is every byte of the store what its name says?"""

from __future__ import annotations

import click

from zoo.errors import StoreError
from zoo_cli.arguments import threads_option
from zoo_cli.output import Column, json_option, say, show_json, show_table
from zoo_cli.session import Session, pass_session
from zoo_cli.units import size


@click.command("fsck")
@threads_option
@json_option
@pass_session
@click.pass_context
def command(ctx: click.Context, session: Session, threads: int | None, as_json: bool) -> None:
    """Check every stored byte, the database and the audit log.

    Damage is told with the versions it touches and what was merged from them; exit code 10.
    """
    with session.open() as registry:
        report = registry.fsck(threads=threads, progress=session.progress)
    if as_json:
        show_json(report.as_dict())
    else:
        for note in report.notes:
            say(f"note: {note}")
        if report.damaged:
            show_table(
                [
                    Column("object", style="bold"),
                    Column("problem"),
                    Column("versions"),
                    Column("descendants"),
                ],
                [
                    [
                        d["object"],
                        d["problem"],
                        ", ".join(d["versions"]),
                        ", ".join(d["descendants"]),
                    ]
                    for d in report.damaged
                ],
            )
            say("To mend an object, register its source or run its merge again.")
        if report.ok:
            say(
                click.style("ok  ", fg="green", bold=True)
                + f"{report.checked_objects} objects, {size(report.checked_bytes)}."
            )
    if not report.ok:
        ctx.exit(StoreError.exit_code)
