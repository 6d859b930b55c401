"""`zoo plugins`: list, scaffold and check plugins."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from zoo.errors import NotFound, PluginError, did_you_mean
from zoo_cli.output import Column, json_option, say, show_json, show_table
from zoo_cli.session import Session, pass_session

if TYPE_CHECKING:
    from zoo.contract import Method
    from zoo.plugins import Plugins
    from zoo.testing import Outcome


@click.group("plugins", invoke_without_command=True)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List plugins, make a new one, check one."""
    if ctx.invoked_subcommand is None:
        _list(ctx.ensure_object(Session), as_json)


@command.command("list")
@json_option
@pass_session
def list_(session: Session, as_json: bool) -> None:
    """List the plugins in use, what they offer, and those left out."""
    _list(session, as_json)


@command.command("new")
@click.argument("name")
@click.option(
    "--dir",
    "parent",
    type=click.Path(file_okay=False),
    default=".",
    metavar="DIR",
    help="Where to make it; here by default.",
)
@json_option
@pass_session
def new(session: Session, name: str, parent: str, as_json: bool) -> None:
    """Make a plugin NAME with a method and its tests, ready to install.

    NAME is the method's name: small letters, digits and underscores.
    """
    from zoo.scaffold import write_plugin

    project = write_plugin(name, parent, taken=session.plugins.methods)
    files = [str(p.relative_to(project)) for p in sorted(project.rglob("*")) if p.is_file()]
    if as_json:
        show_json({"path": str(project), "files": files})
        return
    click.echo(str(project))
    say("Next:")
    say(f"  pip install -e {project}")
    say(f"  zoo plugins check {name}")
    say(f"  pytest {project}")


@command.command("check")
@click.argument("name")
@json_option
@pass_session
@click.pass_context
def check(ctx: click.Context, session: Session, name: str, as_json: bool) -> None:
    """Run the conformance kit on every method of the plugin NAME, or on the method NAME.

    Exit code 13 when a check fails.
    """
    from zoo.testing import check_method

    plugins = session.plugins
    results = {m.name: check_method(m) for m in _methods(plugins, name)}
    passed = all(o.status != "failed" for outcomes in results.values() for o in outcomes)
    if as_json:
        show_json(
            {
                "ok": passed,
                "methods": {m: [asdict(o) for o in outcomes] for m, outcomes in results.items()},
            }
        )
    else:
        for method, outcomes in results.items():
            _show_outcomes(plugins.methods[method], outcomes)
        if not results:
            say(f"Plugin `{name}` loads. It offers no method, and only methods are checked.")
    if not passed:
        ctx.exit(PluginError.exit_code)


def _methods(plugins: Plugins, name: str) -> list[Method]:
    """The methods a plugin's name, or a method's, stands for."""
    for broken in plugins.broken:
        if broken.name == name:
            raise PluginError(
                f"The plugin `{name}` from {broken.source} does not load.",
                broken.error,
                plugin=name,
            )
    if name in plugins.loaded:
        return [m for m in plugins.methods.values() if plugins.origin(m.name).plugin == name]
    if name in plugins.methods:
        return [plugins.methods[name]]
    raise NotFound(
        f"There is no plugin and no method `{name}`.",
        how=did_you_mean(name, sorted({*plugins.loaded, *plugins.methods}))
        + " Install it with `pip install`, or name its directory with --plugins-dir.",
        plugin=name,
    )


def _show_outcomes(method: Method, outcomes: list[Outcome]) -> None:
    colours = {"passed": "green", "failed": "red", "skipped": "yellow"}
    click.echo(click.style(f"{method.name} {method.version}", bold=True))
    width = max(len(o.check) for o in outcomes)
    for o in outcomes:
        status = click.style(o.status.ljust(7), fg=colours[o.status])
        click.echo(f"  {status}  {o.check.ljust(width)}  {o.detail}".rstrip())


def _list(session: Session, as_json: bool) -> None:
    plugins = session.plugins
    if as_json:
        show_json(_as_dict(plugins))
        return
    show_table(
        [
            Column("plugin", style="bold", whole=True),
            Column("distribution", whole=True),
            Column("version"),
            Column("offers"),
            Column("hooks", style="dim"),
        ],
        [
            [
                p.origin.plugin,
                p.origin.distribution,
                p.origin.version,
                ", ".join(p.offers),
                ", ".join(h.removeprefix("zoo_") for h in p.hooks),
            ]
            for p in plugins.loaded.values()
        ],
    )


def _as_dict(plugins: Plugins) -> dict[str, Any]:
    return {
        "plugins": [
            {
                "name": p.origin.plugin,
                "distribution": p.origin.distribution,
                "version": p.origin.version,
                "source": p.source,
                "hooks": p.hooks,
                "offers": p.offers,
            }
            for p in plugins.loaded.values()
        ],
        "broken": [asdict(b) for b in plugins.broken],
    }
