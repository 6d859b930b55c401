"""`zoo completion`: completion for a shell."""

from __future__ import annotations

import click

from zoo_cli.output import json_option, show_json


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@json_option
@click.pass_context
def command(ctx: click.Context, shell: str, as_json: bool) -> None:
    """Print the completion script for SHELL.

    \b
        zoo completion bash >> ~/.bashrc
        zoo completion fish > ~/.config/fish/completions/zoo.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "click knows the three shells the argument allows"
    script = kind(ctx.find_root().command, {}, "zoo", "_ZOO_COMPLETE").source()
    if as_json:
        show_json({"shell": shell, "script": script})
    else:
        click.echo(script)
