"""`zoo advise`: which experts merge well together, how, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from zoo_cli.arguments import check_chosen, references_argument, selection_options
from zoo_cli.output import Column, json_option, on_terminal, say, show_json, show_table
from zoo_cli.session import Session, pass_session

if TYPE_CHECKING:
    from zoo.advice.advise import Advice


@click.command("advise")
@references_argument
@selection_options
@click.option(
    "--task",
    "tasks",
    metavar="NAME",
    multiple=True,
    help="Advise on sets with one expert for each task; repeatable.",
)
@click.option(
    "--most",
    type=click.IntRange(min=1),
    metavar="N",
    default=10,
    show_default=True,
    help="Sets to show.",
)
@json_option
@pass_session
def command(
    session: Session,
    /,
    refs: tuple[str, ...],
    tasks: tuple[str, ...],
    most: int,
    as_json: bool,
    **selecting: Any,
) -> None:
    """Say which experts should merge well, how, and why.

    It ranks pairs and larger sets, each with a method, its parameters and the reasons, from what
    is recorded: barriers, how task vectors lie to each other, CKA, phases and accuracy. Nothing
    is run. What nobody measured counts as unknown, and the command that measures it is told. The
    promise ranks; it is no forecast of accuracy.

    \b
        zoo measure --where "base = 'qwen'" --metric task_vector --metric task_vectors
        zoo advise --where "base = 'qwen'"
        zoo advise --where "accuracy > 0.9" --task math --task code
    """
    from zoo.advice.records import advise_on

    check_chosen(refs, selecting, "Name the experts, or select them with --where; one of the two.")
    with session.open() as registry:
        found, missing = advise_on(registry, refs, **selecting, tasks=tasks, most=most)
    if as_json:
        show_json({"sets": [one.as_dict() for one in found], "measure": missing})
    else:
        _show(found, missing)


def _show(found: Sequence[Advice], missing: Sequence[str]) -> None:
    show_table(
        [
            Column("promise", right=True),
            Column("experts", style="bold"),
            Column("verdict"),
            Column("method"),
            Column("parameters"),
            Column("unknown", style="dim", spare=1),
        ],
        [
            [
                f"{one.promise:.2f}",
                ", ".join(one.experts),
                one.verdict,
                one.method,
                " ".join(f"{k}={v}" for k, v in one.parameters.items()),
                ", ".join(one.missing),
            ]
            for one in found
        ],
    )
    for one in found[: 3 if on_terminal() else 1]:
        say("\n" + click.style(", ".join(one.experts), bold=True))
        for reason in one.reasons:
            say(f"  {reason}")
        if (merge := one.merge_command()) is not None:
            say(f"  {merge}")
    if missing:
        say("\nNot all is measured. This would:")
        for line in missing:
            say(f"  {line}")
