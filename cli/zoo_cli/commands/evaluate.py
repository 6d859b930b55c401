"""`zoo evaluate`: score models on tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from zoo_cli.arguments import (
    check_chosen,
    complete_reference,
    references_argument,
    sample_options,
    selection_options,
)
from zoo_cli.output import Column, json_option, say, say_errors, show_json, show_table
from zoo_cli.session import Session, pass_session
from zoo_cli.units import number

if TYPE_CHECKING:
    from zoo.measuring.evaluation import Evaluated


@click.command("evaluate")
@references_argument
@selection_options
@click.option(
    "--task",
    "tasks",
    metavar="NAME",
    multiple=True,
    help="Task to score on; repeatable. Each version's own by default.",
)
@click.option(
    "--head-from",
    "heads_from",
    metavar="REF",
    multiple=True,
    shell_complete=complete_reference,
    help="Expert whose head to use, for its own task; repeatable.",
)
@click.option(
    "--split", metavar="NAME", default="test", show_default=True, help="Split of the tasks."
)
@sample_options
@click.option("--force", is_flag=True, help="Run again what is recorded.")
@json_option
@pass_session
def command(
    session: Session,
    /,
    refs: tuple[str, ...],
    tasks: tuple[str, ...],
    as_json: bool,
    **asked: Any,
) -> None:
    """Score models on tasks, and record the scores.

    Of a task of labels: accuracy, loss, calibration error, and accuracy of each class. What is
    recorded with the same protocol is not run again, so a run that was killed goes on where it
    was. A version that keeps parts for a task is scored as its model of that task. Of a path
    nothing is recorded.

    \b
        zoo evaluate digits-expert
        zoo evaluate --where "kind = 'expert'" --task mnist --task fashion
        zoo evaluate merged --task mnist --head-from mnist-expert
    """
    check_chosen(refs, asked, "Name the models, or select them with --where.")
    from zoo.measuring.evaluation import evaluate

    with session.open(lazy=True) as registry:
        done = evaluate(
            registry,
            refs or None,
            tasks=tasks or None,
            progress=session.counting("examples"),
            **asked,
        )
    if as_json:
        show_json([one.as_dict() for one in done])
    else:
        _show(done)
    failed = [one.error for one in done if one.error is not None]
    if failed:
        say(f"{len(failed)} of {len(done)} evaluations failed.")
        click.get_current_context().exit(failed[0].exit_code)


def _show(done: Sequence[Evaluated]) -> None:
    scored = [one for one in done if one.error is None]
    names = sorted({name for one in scored for name in one.scores()})
    if scored:
        show_table(
            [
                Column("model", style="bold"),
                Column("task"),
                *(Column(name, right=True, spare=int(i > 0)) for i, name in enumerate(names)),
                Column("", style="dim", spare=2),
            ],
            [
                [
                    one.label,
                    one.task if one.split == "test" else f"{one.task}:{one.split}",
                    *(
                        number(scores[name]) if name in (scores := one.scores()) else None
                        for name in names
                    ),
                    _remark(one),
                ]
                for one in scored
            ],
        )
    say_errors(
        [
            (f"{one.label} on {one.task}" if one.task else one.label, one.error)
            for one in done
            if one.error is not None
        ]
    )


def _remark(one: Evaluated) -> str:
    if one.was_known:
        return "recorded before"
    return "" if one.version is not None else "not recorded: a path"
