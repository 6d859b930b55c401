"""`zoo register`: take a checkpoint in."""

from __future__ import annotations

from typing import Any

import click

from zoo_cli.arguments import (
    about_options,
    complete_path,
    complete_reference,
    metric_option,
    tag_option,
    threads_option,
)
from zoo_cli.output import json_option
from zoo_cli.session import Session, pass_session
from zoo_cli.versions import show_version


@click.command("register")
@click.argument("source", shell_complete=complete_path)
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
    type=click.Choice(["clone", "copy", "hardlink", "symlink", "share"]),
    help="How bytes get into the store.  [default: clone, which copies where blocks cannot be "
    "shared; share from the hub's cache: hardlink where that can be, else clone]",
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

    SOURCE is a file or a directory: safetensors, a Hugging Face directory, a pipeline of
    diffusers, an adapter, a GGUF file, or a torch file that holds tensors only; or
    `hf://org/model@revision`, a model on a hub, whose headers are looked at before anything is
    downloaded. The source stays as it is.

    \b
        zoo register ./qwen-math --name qwen-math --base qwen --metric accuracy=0.61
        zoo register hf://Qwen/Qwen2.5-0.5B --name qwen --kind base
        zoo register ./math-lora --name math-lora --base qwen
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
