"""`zoo pull`: bring a model from a hub."""

from __future__ import annotations

from typing import Any

import click

from zoo.errors import NotFound
from zoo_cli.arguments import about_options, complete_reference, tag_option, threads_option
from zoo_cli.output import json_option, say, show_json
from zoo_cli.session import Session, pass_session
from zoo_cli.versions import show_version


@click.command("pull")
@click.argument("source", shell_complete=complete_reference)
@click.option(
    "--name",
    metavar="NAME",
    help="Entry to add a version to.  [default: as the model, or the version, is called]",
)
@click.option(
    "--kind",
    type=click.Choice(["base", "expert", "merge", "adapter"]),
    help="What the version is.  [default: by the parents its files name]",
)
@click.option(
    "--base",
    metavar="REF",
    shell_complete=complete_reference,
    help="Version it was fine-tuned from.  [default: the model its card names, if that was pulled]",
)
@about_options
@click.option("--license", metavar="ID", help="SPDX identifier.  [default: as its card says]")
@tag_option
@threads_option
@json_option
@pass_session
def command(
    session: Session,
    /,
    source: str,
    tags: tuple[tuple[str, str], ...],
    as_json: bool,
    **about: Any,
) -> None:
    """Bring a model from a hub as a new version.

    SOURCE is `hf://org/model`, with a branch, tag or commit as `hf://org/model@revision`; or a
    version that was pulled before, whose branch may have moved. A commit that is there already
    makes no new version. The bytes lie in the hub's cache and in the store at once, as one file
    where both are on one file system.

    \b
        zoo pull hf://Qwen/Qwen2.5-0.5B --name qwen
        zoo pull qwen
    """
    with session.open(create=True) as registry:
        try:
            pulled = registry.pull(source, tags=dict(tags), progress=session.progress, **about)
        except NotFound as e:
            if "://" in source or "name" not in e.facts:
                raise
            raise NotFound(
                e.what,
                "Without `hf://` it is a version that was pulled before.",
                f"`zoo pull hf://{source}`, if a hub has it. {e.how}".rstrip(),
            ) from None
    if as_json:
        show_json({**pulled.version.as_dict(), "fresh": pulled.fresh})
        return
    if not pulled.fresh:
        say(f"{pulled.version.ref} is that commit already; nothing was downloaded")
    show_version(pulled.version, as_json)
