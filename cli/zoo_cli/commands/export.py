"""`zoo export`: copy a version out of the store."""

from __future__ import annotations

import click

from zoo_cli.arguments import complete_reference, reference_argument
from zoo_cli.output import json_option, show_json
from zoo_cli.session import Session, pass_session


@click.command("export")
@reference_argument("ref")
@click.argument("directory", type=click.Path(file_okay=False))
@click.option("--task", metavar="NAME", help="Write the model of this task, a plain one.")
@click.option(
    "--base",
    metavar="REF",
    shell_complete=complete_reference,
    help="Where the task's base is, if the registry does not have it.",
)
@click.option(
    "--format", "format", type=click.Choice(["gguf"]), help="Write one file for llama.cpp instead."
)
@click.option(
    "--dtype",
    type=click.Choice(["f32", "f16", "bf16", "q8_0"], case_sensitive=False),
    help="Type of that file's matrices; by default, the type that most weights have.",
)
@json_option
@pass_session
def command(
    session: Session,
    ref: str,
    directory: str,
    task: str | None,
    base: str | None,
    format: str | None,
    dtype: str | None,
    as_json: bool,
) -> None:
    """Copy a version's files out of the store.

    DIRECTORY gets plain files that owe nothing to the store. With --task, the model is put
    together from the version, what it keeps for that task, and its base; REF may then be a
    directory that `zoo merge --out` wrote, too. `zoo show` lists the tasks.

    With --format gguf, DIRECTORY gets one file, REF.gguf, with the tokenizer in it.

    \b
        zoo export qwen-merged ./out
        zoo export qwen-merged ./gguf --format gguf --dtype q8_0
    """
    if base is not None and task is None:
        raise click.UsageError("--base goes with --task.")
    if dtype is not None and format is None:
        raise click.UsageError("--dtype goes with --format gguf.")
    with session.open(create=False, lazy=task is not None or format is not None) as registry:
        path = str(
            registry.export(
                ref,
                directory,
                task=task,
                base=base,
                format=format,
                dtype=dtype,
                progress=session.progress,
            )
        )
    if as_json:
        show_json({"path": path})
    else:
        click.echo(path)
