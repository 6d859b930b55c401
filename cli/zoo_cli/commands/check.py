"""`zoo check`: can these models be merged, and what would come of it?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from zoo.errors import IncompatibleModels
from zoo_cli.arguments import base_option, complete_reference
from zoo_cli.output import json_option, show_json
from zoo_cli.session import Session, pass_session

if TYPE_CHECKING:
    from zoo.compatibility import Report


@click.command("check")
@click.argument("refs", metavar="[REF]...", nargs=-1, shell_complete=complete_reference)
@base_option
@click.option("--method", metavar="NAME", help="Method meant; `zoo methods` lists them.")
@click.option(
    "--recipe", type=click.Path(exists=True, dir_okay=False), metavar="FILE", help="Recipe meant."
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

    Only headers and small files are read, of models on the Hub too: nothing is downloaded, and
    nothing written. Every problem is listed at once, each with its remedy: errors, that a merge
    refuses; warnings, that it lets pass and that may spoil the result; notes. Exit code 6 when
    there is an error.

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
    for problem in report.problems:
        click.echo(f"{problem.severity}\t{problem.code}\t{problem}")
