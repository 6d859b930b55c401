"""`zoo extract-lora`: make an adapter of the difference of two models."""

from __future__ import annotations

from typing import Any

import click

from zoo_cli.arguments import reference_argument, tag_option, threads_option
from zoo_cli.output import json_option, say, show_json
from zoo_cli.session import Session, pass_session
from zoo_cli.versions import show_version


@click.command("extract-lora")
@reference_argument("model")
@reference_argument("base")
@click.option("--rank", type=click.IntRange(min=1), metavar="N", help="Rank of each product.")
@click.option(
    "--energy",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="SHARE",
    help="Share of the squared singular values to keep; with --rank, no more than that.",
)
@click.option(
    "--alpha",
    type=click.FloatRange(0, min_open=True),
    metavar="X",
    help="`lora_alpha` to write; the largest rank by default.",
)
@click.option("--include", multiple=True, metavar="GLOB", help="Tensors to take; repeatable.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Tensors to leave; repeatable.")
@click.option("--embeddings", is_flag=True, help="Factor embeddings too; else they go in whole.")
@click.option(
    "--modules-to-save",
    type=click.Choice(["changed", "none"]),
    default="changed",
    show_default=True,
    help="Bring along what has no factors, such as norms and biases, where it changed.",
)
@click.option("--as", "name", metavar="NAME", help="Entry to store the adapter under.")
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Directory to write it to; without --as, nothing is stored in the registry.",
)
@threads_option
@tag_option
@json_option
@pass_session
def command(
    session: Session,
    /,
    model: str,
    base: str,
    name: str | None,
    out: str | None,
    tags: tuple[tuple[str, str], ...],
    as_json: bool,
    **asked: Any,
) -> None:
    """Make a PEFT adapter of the difference of MODEL and BASE.

    Each difference becomes the best product of its rank. The relative error, and the tensor that is
    worst off, are shown, and kept with the version.

    \b
        zoo extract-lora mathcode qwen --rank 32 --as mathcode-lora
        zoo extract-lora ./tuned ./base --energy 0.99 --out ./adapter
    """
    if asked["rank"] is None and asked["energy"] is None:
        raise click.UsageError("Give --rank N or --energy SHARE.")
    if not (name or out):
        raise click.UsageError("Name the result with --as NAME, or write it to --out DIR.")
    told: dict[str, Any] = {}
    with session.open(create=bool(name), lazy=not name) as registry:
        version = registry.extract_lora(
            model,
            base,
            name=name,
            out=out,
            tags=dict(tags),
            progress=session.progress,
            told=told.update,
            **asked,
        )
    if version is not None:
        show_version(version, as_json)
    elif as_json:
        show_json({"out": out, "notes": told})
    else:
        click.echo(out)
    found = told.get("extract_lora")
    if found:
        worst = found["worst"]
        say(
            f"relative error {found['relative_error']:.2%}; worst `{worst['tensor']}`, "
            f"{worst['relative_error']:.2%}"
        )
