"""`zoo attach`: take in what lies beside a version."""

from __future__ import annotations

from typing import Any

import click

from zoo_cli.arguments import complete_path, reference_argument, threads_option
from zoo_cli.output import json_option
from zoo_cli.session import Session, pass_session
from zoo_cli.versions import show_version


@click.command("attach")
@reference_argument("ref")
@click.argument("role")
@click.argument("source", shell_complete=complete_path)
@click.option(
    "--compress",
    type=click.Choice(["none", "rank1"]),
    default="none",
    show_default=True,
    help="Keep each matrix whole, or as its row and column sums.",
)
@click.option(
    "--link-mode",
    type=click.Choice(["clone", "copy", "hardlink", "symlink"]),
    default="clone",
    show_default=True,
    help="How bytes get into the store; clone falls back to copy.",
)
@threads_option
@json_option
@pass_session
def command(
    session: Session, /, ref: str, role: str, source: str, as_json: bool, **options: Any
) -> None:
    """Register SOURCE as the artifact ROLE of the version REF.

    An artifact is what a method needs beside an expert: `ota` needs `exp_avg_sq`, Adam's second
    moments. SOURCE holds tensors named and shaped like the version's own. The artifact is a version
    too, called `NAME.ROLE`; a merge finds it by itself, and uses the newest.
    """
    with session.open() as registry:
        version = registry.attach(ref, role, source, progress=session.progress, **options)
    show_version(version, as_json)
