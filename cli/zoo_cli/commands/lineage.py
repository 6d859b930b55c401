"""`zoo lineage`: where a version came from, or what came of it."""

from __future__ import annotations

import click

from zoo_cli.arguments import reference_argument
from zoo_cli.output import json_option, show_json
from zoo_cli.session import Session, pass_session

EXPORTED = ("openlineage", "cyclonedx", "spdx")
"""Formats of other tools; the names in `zoo.lineage_exports`, which would be slow to import."""


@click.command("lineage")
@reference_argument("ref")
@click.option(
    "--format",
    "form",
    type=click.Choice(["tree", "json", "mermaid", "dot", *EXPORTED]),
    default="tree",
    show_default=True,
    help="`tree` for people; `mermaid` and `dot` for pictures; the others for other tools.",
)
@click.option("--descendants", is_flag=True, help="What was made of it, instead of its origin.")
@click.option(
    "--hash-files",
    is_flag=True,
    help="Hash all weights files first, to know parents declared by the sha256 of a file.",
)
@json_option
@pass_session
def command(
    session: Session, ref: str, form: str, descendants: bool, hash_files: bool, as_json: bool
) -> None:
    """Show the ancestors of a version, or its descendants.

    Removed versions are still there, and marked. So are parents that a model's own card,
    configuration or metadata names: those are declared, not proved.

    `openlineage` gives events, one a line; `cyclonedx` a machine-learning bill of materials,
    version 1.6; `spdx` the AI and build profiles, version 3.0.1. The last two hash the files of
    every model in it.

    \b
        zoo lineage qwen-mathcode
        zoo lineage qwen --descendants
        zoo lineage qwen-mathcode --format cyclonedx > qwen-mathcode.cdx.json
    """
    with session.open() as registry:
        if form in EXPORTED and not as_json:
            click.echo(registry.export_lineage(ref, form, descendants=descendants), nl=False)
            return
        lineage = registry.lineage(ref, descendants=descendants, hash_files=hash_files)
    if as_json or form == "json":
        show_json(lineage.as_dict())
    elif form == "mermaid":
        click.echo(lineage.as_mermaid())
    elif form == "dot":
        click.echo(lineage.as_dot())
    else:
        click.echo(lineage.as_tree())
