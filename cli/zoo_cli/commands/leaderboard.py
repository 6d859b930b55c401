"""`zoo leaderboard`: versions by tasks in one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from zoo_cli.arguments import (
    check_chosen,
    complete_reference,
    references_argument,
    selection_options,
)
from zoo_cli.output import Column, json_option, on_terminal, say, show_json, show_table
from zoo_cli.session import Session, pass_session

if TYPE_CHECKING:
    from zoo.measuring.leaderboard import Leaderboard

INTERVALS = 2
"""With more tasks than this, a terminal has no room for the interval of each value."""


@click.command("leaderboard")
@references_argument
@selection_options
@click.option(
    "--task",
    "tasks",
    metavar="NAME",
    multiple=True,
    help="Task to show; repeatable. All with values by default.",
)
@click.option(
    "--metric", metavar="NAME", default="accuracy", show_default=True, help="What to compare."
)
@click.option(
    "--by",
    type=click.Choice(["score", "normalized"]),
    default="score",
    show_default=True,
    help="What ranks: the mean of the values, or of their ratios to the experts'.",
)
@click.option(
    "--expert",
    "experts",
    metavar="REF",
    multiple=True,
    shell_complete=complete_reference,
    help="Version to divide by on its own task; repeatable. The best of each task by default.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="P",
    default=0.95,
    show_default=True,
    help="Of the intervals.",
)
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
    """Compare versions on tasks, from what is recorded.

    Each value with its confidence interval; the mean over the tasks; and normalized, the mean of
    the ratios to each task's expert. Run `zoo evaluate` first.

    \b
        zoo leaderboard --where "kind = 'merge'"
        zoo leaderboard --where "base = 'start'" --task mnist --task fashion --by normalized
    """
    check_chosen(refs, asked, "Name the versions, or select them with --where.")
    from zoo.measuring.leaderboard import leaderboard

    with session.open() as registry:
        board = leaderboard(registry, refs or None, tasks=tasks or None, **asked)
    if as_json:
        show_json(board.as_dict())
        return
    _show(board)
    divided = any(row.normalized is not None for row in board.rows)
    for task, expert in board.experts.items() if divided else ():
        say(click.style(f"{task} is divided by {expert}", dim=True))
    for remark in board.remarks:
        say(remark)


def _show(board: Leaderboard) -> None:
    show_table(
        [
            Column("rank", right=True),
            Column("version", style="bold"),
            Column(f"mean {board.metric}", right=True),
            Column(f"{board.confidence * 100:g} %", right=True, style="dim", spare=2),
            Column("normalized", right=True),
            *(Column(task, right=True, spare=3 + i) for i, task in enumerate(board.tasks)),
        ],
        [
            [
                _text(row.rank, "d"),
                row.version,
                _text(row.mean),
                _interval(row.low, row.high),
                _text(row.normalized),
                *(_cell(board, row.cells.get(task)) for task in board.tasks),
            ]
            for row in board.rows
        ],
    )


def _cell(board: Leaderboard, cell: Any) -> str:
    if cell is None:
        return ""
    crowded = len(board.tasks) > INTERVALS and on_terminal()
    interval = "" if crowded else _interval(cell.low, cell.high)
    return _text(cell.value) + (f" ({interval})" if interval else "")


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.3f}-{high:.3f}"


def _text(value: float | None, form: str = ".4f") -> str:
    return "" if value is None else format(value, form)
