"""The `zoo` command: global options, and a group that imports a command when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from zoo_cli.errors import reported
from zoo_cli.session import Session

SECTIONS: dict[str, tuple[str, ...]] = {
    "Register": ("init", "register", "attach", "annotate", "alias", "rm"),
    "Look": ("ls", "show", "query", "path", "export"),
    "Merge": ("methods", "check", "merge", "compress", "extract-lora", "moe", "diff"),
    "Measure": ("tasks", "evaluate", "measure", "leaderboard", "phases", "grow", "advise", "plot"),
    "Audit": ("lineage", "verify", "sign", "fsck", "gc"),
    "Share": ("pull", "push", "export-zoo", "import-zoo", "import-mlflow"),
    "More": ("demo", "plugins", "completion"),
}
"""Built-in commands as `zoo --help` groups them; each lives in `zoo_cli.commands.NAME`."""

BUILT_IN = tuple(name for names in SECTIONS.values() for name in names)


class LazyGroup(click.Group):
    """Imports a built-in command on first use, and loads plugins only when one is missing."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in BUILT_IN:
            module = f"zoo_cli.commands.{cmd_name.replace('-', '_')}"
            command: click.Command = import_module(module).command
            return command
        self._add_plugin_commands(ctx)
        return self.commands.get(cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._add_plugin_commands(ctx)
        return [*BUILT_IN, *sorted(self.commands)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as e:
            from zoo.errors import did_you_mean

            if args and self.get_command(ctx, args[0]) is None:
                near = did_you_mean(args[0], self.list_commands(ctx))
                raise click.UsageError(f"No such command `{args[0]}`. {near}", ctx) from e
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        names = self.list_commands(ctx)
        sections = {**SECTIONS, "From plugins": tuple(n for n in names if n not in BUILT_IN)}
        width = max(len(n) for n in names)
        for title, members in sections.items():
            rows = []
            for name in members:
                command = self.get_command(ctx, name)
                if command is not None:
                    limit = formatter.width - width - 6
                    rows.append((name.ljust(width), command.get_short_help_str(limit)))
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def main(self, *args: Any, **extra: Any) -> Any:
        with plain_warnings():
            return super().main(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with reported(ctx):
            return super().invoke(ctx)

    def _add_plugin_commands(self, ctx: click.Context) -> None:
        """Let each plugin add its commands, once per run; one that fails is left out."""
        session = ctx.ensure_object(Session)
        if session.has_plugin_commands:
            return
        session.has_plugin_commands = True
        # `--help` and completion come here before the group itself has run.
        session.plugins_dirs = ctx.params.get("plugins_dirs") or ()
        # A second run in one process may have other plugins.
        self.commands.clear()
        plugins = session.plugins
        hook = "zoo_register_commands"
        for name in list(plugins.implementing(hook)):
            offered = click.Group()
            try:
                plugins.call_one(name, hook, cli=offered)
                self._refuse_taken(offered)
            except (Exception, SystemExit) as e:
                plugins.leave_out(name, plugins.loaded[name].source, e)
                click.secho(f"warning: {plugins.broken[-1]}", err=True, fg="yellow")
            else:
                self.commands.update(offered.commands)

    def _refuse_taken(self, offered: click.Group) -> None:
        from zoo.errors import PluginError

        for name in offered.commands:
            if name in BUILT_IN or name in self.commands:
                raise PluginError(
                    f"The command `{name}` exists already.",
                    "The first one stays.",
                    "Give the command another name.",
                    name=name,
                )


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show warnings as one line each, without the source line that raised them."""
    import warnings

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        click.secho(f"warning: {message}", err=True, fg="yellow")

    with warnings.catch_warnings():
        from zoo.plugins import BrokenPluginWarning

        warnings.simplefilter("always", BrokenPluginWarning)
        warnings.showwarning = show
        yield


def print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"zoo {version('zoo-registry')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--registry",
    metavar="URL",
    envvar="ZOO_REGISTRY",
    default="registry.db",
    show_default=True,
    show_envvar=True,
    help="Registry: a file, or a database URL.",
)
@click.option(
    "--plugins-dir",
    "plugins_dirs",
    metavar="DIR",
    multiple=True,
    is_eager=True,
    envvar="ZOO_PLUGINS_DIR",
    show_envvar=True,
    type=click.Path(),
    help="Directory of drop-in plugins. May be given several times.",
)
@click.option("-v", "--verbose", count=True, help="Show tracebacks; twice, SQL statements too.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=print_version,
    help="Show the version and exit.",
)
@click.pass_context
def cli(ctx: click.Context, registry: str, plugins_dirs: tuple[str, ...], verbose: int) -> None:
    """A registry of neural-network checkpoints that merges them.

    Register models, select them by their metadata, merge them, and prove where a merge came
    from. Every command takes --json.
    """
    session = ctx.ensure_object(Session)
    session.registry_url = registry
    session.plugins_dirs = plugins_dirs
    session.verbose = verbose
    if verbose > 1:
        import logging

        logging.basicConfig(format="%(message)s")
        logging.getLogger("sqlalchemy.engine").setLevel(logging.INFO)


def main() -> None:
    """The console script."""
    cli(prog_name="zoo")
