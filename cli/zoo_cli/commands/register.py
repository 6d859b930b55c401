"""`zoo register`: take a checkpoint in."""

from __future__ import annotations

from typing import Any

import click

from zoo_cli.arguments import (
    about_options,
    complete_reference,
    metric_option,
    tag_option,
    threads_option,
)
from zoo_cli.output import json_option
from zoo_cli.session import Session, pass_session
from zoo_cli.versions import show_version


@click.command("register")
@click.argument("source")
@click.option("--name", required=True, help="Entry to add a version to; made when new.")
@click.option(
    "--kind",
    type=click.Choice(["base", "expert", "merge", "adapter"]),
    default="expert",
    show_default=True,
    help="What the version is.",
)
@click.option(
    "--base",
    metavar="REF",
    shell_complete=complete_reference,
    help="Version it was fine-tuned from.",
)
@about_options
@click.option("--license", metavar="ID", help="SPDX identifier: `MIT`.")
@tag_option
@metric_option
@click.option(
    "--link-mode",
    type=click.Choice(["clone", "copy", "hardlink", "symlink"]),
    help="How bytes get into the store: clone (falls back to copy) from a path, hardlink from the "
    "hub's cache.",
)
@threads_option
@json_option
@pass_session
def command(
    session: Session,
    /,
    source: str,
    name: str,
    tags: tuple[tuple[str, str], ...],
    metrics: tuple[tuple[str, float], ...],
    as_json: bool,
    **about: Any,
) -> None:
    """Take a checkpoint into the registry as a new version.

    SOURCE is a file or a directory: safetensors, sharded or not, a Hugging Face directory, or
    a torch file that holds tensors only; or `hf://org/model@revision`, a model on a hub, whose
    headers are looked at before anything is downloaded. The source stays as it is.
    """
    with session.open(create=True) as registry:
        version = registry.register(
            source,
            name=name,
            tags=dict(tags),
            metrics=dict(metrics),
            progress=session.progress,
            **about,
        )
    show_version(version, as_json)
