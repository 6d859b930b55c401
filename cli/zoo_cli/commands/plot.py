"""`zoo plot`: pictures of what is measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from zoo_cli.arguments import (
    check_chosen,
    complete_reference,
    references_argument,
    sample_options,
    selection_options,
)
from zoo_cli.output import Column, json_option, say, show_json, show_table
from zoo_cli.session import Session, pass_session

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zoo.plots.computed import Examples
    from zoo.records import Version
    from zoo.registry import Registry

F = TypeVar("F", bound=Callable[..., Any])


def picture_options(command: F) -> F:
    """`--out`, `--title` and `--json`."""
    command = click.option("--title", metavar="TEXT", default="", help="Above the picture.")(
        command
    )
    command = click.option(
        "--out",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Picture to write: .svg or .png.",
    )(command)
    return json_option(command)


def task_option(command: F) -> F:
    return click.option(
        "--task",
        "tasks",
        metavar="NAME",
        multiple=True,
        help="Task; repeatable, for the mean over several. The models' own by default.",
    )(command)


def run_options(command: F) -> F:
    """Which examples models are run on."""
    command = click.option(
        "--split", metavar="NAME", default="test", show_default=True, help="Split of the task."
    )(command)
    return sample_options(command)


def plane_options(low: float, high: float, points: int, quantity: str) -> Callable[[F], F]:
    """The coefficients, what is measured at each, and with whose head."""

    def decorated(command: F) -> F:
        for option in (
            click.option(
                "--own-heads", is_flag=True, help="For each task the head of its own expert."
            ),
            click.option(
                "--quantity",
                type=click.Choice(["loss", "error", "accuracy"]),
                default=quantity,
                show_default=True,
                help="What is measured.",
            ),
            click.option(
                "--points",
                type=click.IntRange(min=2, max=201),
                metavar="N",
                default=points,
                show_default=True,
                help="Coefficients on a side.",
            ),
            click.option(
                "--range",
                "reach",
                type=(float, float),
                metavar="LOW HIGH",
                default=(low, high),
                show_default=True,
                help="Of the coefficients.",
            ),
        ):
            command = option(command)
        return command

    return decorated


@click.group("plot", invoke_without_command=True)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Draw what is measured, as SVG or PNG.

    Lines and surfaces run the models; matrices and comparisons draw what is recorded. With
    --json the numbers drawn are printed; --out may be left out then. Without the name of a
    picture, the pictures are listed.

    \b
        zoo plot barrier seed1 seed2 --out barrier.svg
        zoo plot surface even odd --out surface.svg
        zoo plot matrix --metric cka --where "kind = 'expert'" --out cka.svg
        zoo plot methods --where "kind = 'merge'" --out methods.svg
        zoo plot coefficient even odd --out lambda.svg
    """
    if ctx.invoked_subcommand is not None:
        return
    group = ctx.command
    assert isinstance(group, click.Group)
    rows = [(name, one.get_short_help_str(100)) for name, one in sorted(group.commands.items())]
    if as_json:
        show_json([{"picture": name, "shows": shows} for name, shows in rows])
    else:
        show_table([Column("picture", style="bold"), Column("shows")], rows)


@command.command("barrier")
@click.argument("refs", metavar="REF REF [REF]...", nargs=-1, shell_complete=complete_reference)
@click.option("--task", metavar="NAME", help="Task; the models' own by default.")
@click.option(
    "--points",
    type=click.IntRange(min=3, max=1001),
    metavar="N",
    default=21,
    show_default=True,
    help="Models on each line, both ends among them.",
)
@run_options
@picture_options
@pass_session
def barrier_command(
    session: Session,
    /,
    refs: tuple[str, ...],
    task: str | None,
    points: int,
    out: Path | None,
    title: str,
    as_json: bool,
    **sampling: Any,
) -> None:
    """Loss and error along the line between each two models.

    The barrier is the largest rise above the chord that joins the two ends. Models without one lie
    in one basin, and average well.

    \b
        zoo plot barrier digits-seed1 digits-seed2 --out barrier.svg
    """
    if len(refs) < 2:
        raise click.UsageError("Name two models or more.")
    _check(out, as_json)
    from zoo.plots.computed import lines_between

    with session.open() as registry:
        lines = lines_between(
            refs, _examples(session, registry, sampling), task=task, points=points
        )

    def draw() -> Figure:
        from zoo.plots.barrier import barrier

        return barrier(lines, title=title)

    _give({"lines": [line.as_dict() for line in lines]}, draw, out, as_json)


@command.command("surface")
@click.argument("first", metavar="REF", shell_complete=complete_reference)
@click.argument("second", metavar="REF", shell_complete=complete_reference)
@click.option(
    "--mark",
    "merges",
    metavar="REF",
    multiple=True,
    shell_complete=complete_reference,
    help="Merge to mark where it lies in the plane; repeatable. The mean by default.",
)
@task_option
@plane_options(-0.25, 1.25, 13, "loss")
@run_options
@picture_options
@pass_session
def surface_command(
    session: Session,
    /,
    first: str,
    second: str,
    merges: tuple[str, ...],
    tasks: tuple[str, ...],
    reach: tuple[float, float],
    points: int,
    quantity: Any,
    own_heads: bool,
    out: Path | None,
    title: str,
    as_json: bool,
    **sampling: Any,
) -> None:
    """Loss over the plane of two experts' task vectors.

    Every point is the base plus so much of the one delta and so much of the other; the loss is the
    mean over both tasks. A merge that lies outside the plane is marked at its nearest point.

    \b
        zoo plot surface digits-even digits-odd --mark digits-ties --out surface.svg
    """
    _check(out, as_json)
    from zoo.plots.computed import surface_of

    with session.open() as registry:
        found = surface_of(
            first,
            second,
            _examples(session, registry, sampling),
            tasks=tasks,
            merges=merges,
            low=reach[0],
            high=reach[1],
            points=points,
            quantity=quantity,
            own_heads=own_heads,
        )

    def draw() -> Figure:
        from zoo.plots.loss_surface import loss_surface

        return loss_surface(found, title=title)

    _give(found.as_dict(), draw, out, as_json)


@command.command("matrix")
@references_argument
@click.option(
    "--metric",
    metavar="NAME",
    required=True,
    help="Recorded metric of pairs: `cka`, `task_vector_cosine`, `barrier`.",
)
@click.option(
    "--split", metavar="NAME", help="Which of its values: a task, or a part of the model."
)
@selection_options
@picture_options
@pass_session
def matrix_command(
    session: Session,
    /,
    refs: tuple[str, ...],
    metric: str,
    split: str | None,
    out: Path | None,
    title: str,
    as_json: bool,
    **selecting: Any,
) -> None:
    """A recorded metric of each two models, as a matrix.

    \b
        zoo measure --where "kind = 'expert'" --metric cka
        zoo plot matrix --metric cka --where "kind = 'expert'" --out cka.svg
    """
    _check(out, as_json)
    from zoo.plots.recorded import matrix_of

    with session.open() as registry:
        found = matrix_of(registry, _versions(registry, refs, selecting), metric, split)

    def draw() -> Figure:
        from zoo.plots.matrix import matrix

        return matrix(found, title=title)

    _give(found.as_dict(), draw, out, as_json)


@command.command("methods")
@references_argument
@click.option(
    "--metric", metavar="NAME", default="accuracy", show_default=True, help="Recorded score."
)
@task_option
@selection_options
@picture_options
@pass_session
def methods_command(
    session: Session,
    /,
    refs: tuple[str, ...],
    metric: str,
    tasks: tuple[str, ...],
    out: Path | None,
    title: str,
    as_json: bool,
    **selecting: Any,
) -> None:
    """The scores of merges, a bar for the best of each method.

    Upright lines show the base and the experts, each expert on its own task.

    \b
        zoo plot methods --where "kind = 'merge'" --metric accuracy --out methods.svg
    """
    _check(out, as_json)
    from zoo.plots.recorded import comparison_of

    with session.open() as registry:
        found = comparison_of(registry, _versions(registry, refs, selecting), metric, tasks)

    def draw() -> Figure:
        from zoo.plots.comparison import comparison

        return comparison(found, title=title)

    _give(found.as_dict(), draw, out, as_json)


@command.command("coefficient")
@references_argument
@click.option(
    "--metric",
    metavar="NAME",
    default="accuracy",
    show_default=True,
    help="Recorded score of the merges that --where selects.",
)
@click.option(
    "--parameter",
    metavar="NAME",
    default="lambda",
    show_default=True,
    help="In which the merges that --where selects differ.",
)
@task_option
@plane_options(0.0, 1.0, 11, "accuracy")
@run_options
@selection_options
@picture_options
@pass_session
def coefficient_command(
    session: Session,
    /,
    refs: tuple[str, ...],
    metric: str,
    parameter: str,
    tasks: tuple[str, ...],
    reach: tuple[float, float],
    points: int,
    quantity: Any,
    own_heads: bool,
    out: Path | None,
    title: str,
    as_json: bool,
    where: str | None,
    order_by: str | None,
    limit: int | None,
    **sampling: Any,
) -> None:
    """A score against the coefficient of a merge.

    With --where, of merges that are recorded and differ in one parameter. With references, of the
    experts' summed deltas times the coefficient, which is task arithmetic: the models are made in
    memory and run, and nothing is kept.

    \b
        zoo plot coefficient digits-even digits-odd --out lambda.svg
        zoo plot coefficient --where "kind = 'merge'" --parameter lambda --out lambda.svg
    """
    selecting = {"where": where, "order_by": order_by, "limit": limit}
    check_chosen(refs, selecting, "Name experts, or select merges with --where; one of the two.")
    _check(out, as_json)
    with session.open() as registry:
        if refs:
            from zoo.plots.computed import sweep_of

            found = sweep_of(
                refs,
                _examples(session, registry, sampling),
                tasks=tasks,
                low=reach[0],
                high=reach[1],
                points=points,
                quantity=quantity,
                own_heads=own_heads,
            )
        else:
            from zoo.plots.recorded import sweeps_of

            versions = _versions(registry, refs, selecting)
            found = sweeps_of(registry, versions, metric, parameter, tasks)

    def draw() -> Figure:
        from zoo.plots.coefficients import coefficients

        return coefficients(found, title=title)

    _give(found.as_dict(), draw, out, as_json)


def _check(out: Path | None, as_json: bool) -> None:
    """What can be known to be wrong before anything is run."""
    if out is None:
        if not as_json:
            raise click.UsageError("Say where to write the picture: --out picture.svg")
        return
    from zoo.plots.style import ready

    ready(out)


def _examples(session: Session, registry: Registry, sampling: dict[str, Any]) -> Examples:
    from zoo.plots.computed import Examples

    return Examples(registry, progress=session.counting("examples"), **sampling)


def _versions(
    registry: Registry, refs: tuple[str, ...], selecting: dict[str, Any]
) -> list[Version]:
    from zoo.errors import NotFound

    check_chosen(refs, selecting, "Name the versions, or select them with --where; one of the two.")
    if refs:
        return [registry.get(ref) for ref in refs]
    found = registry.select(selecting["where"], selecting["order_by"], selecting["limit"])
    if not found:
        raise NotFound(
            f"No version fits `{selecting['where'] or 'everything'}`.",
            "There is nothing to draw.",
            "Try the query with `zoo ls --where`.",
        )
    return found


def _give(
    numbers: dict[str, Any], draw: Callable[[], Figure], out: Path | None, as_json: bool
) -> None:
    """Write the picture, if one is asked for; say where, or print the numbers."""
    if out is not None:
        from zoo.plots.style import save

        save(draw(), out)
    if as_json:
        show_json({"picture": None if out is None else str(out), **numbers})
    elif out is not None:
        say(f"Drawn: {out}")
