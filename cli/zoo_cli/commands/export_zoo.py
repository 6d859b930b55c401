"""`zoo export-zoo`: a zoo, or some of it, as one file."""

from __future__ import annotations

from pathlib import Path

import click

from zoo_cli.arguments import references_argument
from zoo_cli.output import json_option, say, show_json
from zoo_cli.session import Session, pass_session
from zoo_cli.units import size


@click.command("export-zoo")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@references_argument
@click.option("--where", metavar="EXPRESSION", help="Pack what this selects, and its ancestors.")
@json_option
@pass_session
def command(
    session: Session, file: Path, refs: tuple[str, ...], where: str | None, as_json: bool
) -> None:
    """Write a zoo to one file: catalog, lineage and bytes.

    All of it, or the versions named or selected with everything they came from. FILE is a plain
    tar archive; the same zoo gives the same bytes. `zoo import-zoo` takes it into another zoo.

    \b
        zoo export-zoo all.zoo
        zoo export-zoo best.zoo upscaler-mean@best
        zoo export-zoo math.zoo --where "task = 'math'"
    """
    if refs and where is not None:
        raise click.UsageError("Name the versions, or select them with --where; not both.")
    with session.open() as registry:
        packed = registry.export_zoo(file, refs=refs, where=where, progress=session.progress)
    if as_json:
        show_json(packed.as_dict())
        return
    what = "the whole zoo" if packed.whole else "with all they came from"
    say(
        f"{packed.path}: {packed.versions} versions, {packed.objects} objects, "
        f"{size(packed.bytes)} ({what})."
    )
