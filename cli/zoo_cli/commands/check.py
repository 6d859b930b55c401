"""`zoo check`: can these models be merged, and what would come of it?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from zoo.errors import IncompatibleModels
from zoo_cli.arguments import base_option, complete_method, complete_reference
from zoo_cli.output import Column, json_option, on_terminal, say, show_json, show_table
from zoo_cli.session import Session, pass_session

if TYPE_CHECKING:
    from zoo.compatibility import Problem, Report

_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


@click.command("check")
@click.argument("refs", metavar="[REF]...", nargs=-1, shell_complete=complete_reference)
@base_option
@click.option(
    "--method",
    metavar="NAME",
    shell_complete=complete_method,
    help="Method meant; `zoo methods` lists them.",
)
@click.option(
    "--recipe",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Recipe meant; its models are checked.",
)
@click.option(
    "--where", metavar="EXPRESSION", help="Select the models by a query, in place of REFs."
)
@json_option
@pass_session
@click.pass_context
def command(
    ctx: click.Context,
    session: Session,
    refs: tuple[str, ...],
    base: str | None,
    method: str | None,
    recipe: str | None,
    where: str | None,
    as_json: bool,
) -> None:
    """Find what keeps models from being merged.

    REF is a version, a path, or a model on a hub. Headers and small files are read, and a few rows
    of models on this machine: nothing is downloaded, and nothing written. All problems are listed
    at once, each with its remedy: errors, which a merge refuses; warnings, which it lets pass and
    which may spoil the result; notes. Exit code 6 when there is an error.

    \b
        zoo check math code --base qwen --method ties
        zoo check hf://org/model ./my-finetune
        zoo check --recipe recipe.yaml
    """
    if not refs and where is None and recipe is None:
        raise click.UsageError("Name the models, select them with --where, or give a --recipe.")
    with session.open(lazy=True) as registry:
        report = registry.check(refs, base=base, method=method, recipe=recipe, where=where)
    if as_json:
        show_json(report.as_dict())
    else:
        _show(report)
    if not report.ok:
        ctx.exit(IncompatibleModels.exit_code)


def _show(report: Report) -> None:
    """What was found: blocks to read on a terminal, a line for each problem in a pipe."""
    if on_terminal():
        for problem in report.problems:
            _show_block(problem)
    elif report.problems:
        columns = ("severity", "code", "what", "why", "remedy")
        rows = [[p.severity, p.code, p.what, p.why, p.remedy] for p in report.problems]
        show_table([Column(title) for title in columns], rows)
    counts = [
        f"{n} {word}{'s' if n > 1 else ''}"
        for word in ("error", "warning", "note")
        if (n := len(report.of(word)))
    ]
    found = ", ".join(counts) or "nothing was found"
    many = f"{len(report.models)} models" if len(report.models) != 1 else "one model"
    sign = ("ok  ", "green") if report.ok else ("no  ", "red")
    verdict = f"{many} can be merged" if report.ok else f"{many} cannot be merged as they are"
    say(click.style(sign[0], fg=sign[1], bold=True) + f"{verdict}: {found}.")
    if report.license or report.obligations:
        duties = "; ".join(report.obligations)
        say(
            f"    licence of the result: {report.license or 'none'}"
            + (f" ({duties})" if duties else "")
        )


def _show_block(problem: Problem) -> None:
    severity = click.style(f"{problem.severity}: ", fg=_COLOURS[problem.severity], bold=True)
    click.echo(severity + problem.what)
    for label, text in (("why", problem.why), ("how", problem.remedy)):
        if text:
            click.echo(click.style(f"  {label}: ", bold=True) + text)
