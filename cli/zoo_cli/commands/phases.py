"""`zoo phases`: label versions with the phase of their configuration, and draw the map."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo_cli.arguments import yaml_pair
from zoo_cli.output import Column, json_option, say, show_json, show_table
from zoo_cli.session import Session, pass_session
from zoo_cli.units import moment, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo.phases.assignment import Assigned, Assignment

where_option = click.option(
    "--where",
    metavar="EXPRESSION",
    help="SQL expression over columns, tags and metrics: \"task = 'digits'\"; all by default.",
)


@click.group("phases", invoke_without_command=True)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Label versions with phases, and draw their map.

    A phase is I, II, III, IV-A or IV-B: is the train loss high, does a barrier lie between seeds,
    are their outputs alike.

    \b
        zoo phases assign --where "task = 'digits'" --set loss=0.2
        zoo phases plot --x grow.batch --y grow.width --out map.svg

    Alone, it lists the rules, as `zoo phases show` does.
    """
    if ctx.invoked_subcommand is None:
        _list(ctx.ensure_object(Session), None, as_json)


@command.command("assign")
@where_option
@click.option(
    "--rule",
    metavar="NAME",
    default="default",
    show_default=True,
    help="Thresholds to use: the newest of the name, or NAME@N.",
)
@click.option(
    "--set",
    "thresholds",
    type=yaml_pair,
    metavar="K=V",
    multiple=True,
    help="Threshold to change: loss=0.2, connectivity=1, cka=0.6, cka=midpoint, loss=median; "
    "repeatable.",
)
@click.option(
    "--cell",
    "keys",
    metavar="KEY",
    multiple=True,
    help="Tag in which members of a cell agree; repeatable. All `grow.*` but the seed by default.",
)
@click.option("--dry-run", is_flag=True, help="Only look; write nothing.")
@click.option("--force", is_flag=True, help="Replace labels that somebody asserted, too.")
@json_option
@pass_session
def assign(
    session: Session,
    where: str | None,
    rule: str,
    thresholds: tuple[tuple[str, Any], ...],
    keys: tuple[str, ...],
    dry_run: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Label versions by a stored rule.

    Versions that differ only in their seed are a cell, and get one label. It needs their loss on
    the split `train`, and mode connectivity and CKA of their pairs. Changed thresholds are stored
    under the rule's next number; a version says by which rule it was labelled.

    \b
        zoo evaluate --where "task = 'digits'" --split train
        zoo measure --where "task = 'digits'" --metric mode_connectivity --metric cka \\
            --within grow.width --within grow.batch
        zoo phases assign --where "task = 'digits'" --dry-run
    """
    from zoo.phases.assignment import advice

    with session.open() as registry:
        found = registry.assign_phases(
            where=where,
            rule=rule,
            thresholds=dict(thresholds),
            keys=keys,
            dry_run=dry_run,
            force=force,
        )
    if as_json:
        show_json(found.as_dict())
    else:
        _show(found, dry_run)
        for line in advice(found.cells, where, keys):
            say(f"To label more: {line}")


def _show(found: Assignment, dry_run: bool) -> None:
    from zoo.phases.cells import telling

    keys = telling([one.cell for one in found.cells])
    show_table(
        [
            Column("phase", style="bold", whole=True),
            Column("sure", right=True, whole=True),
            Column("cell"),
            Column("task", spare=4),
            Column("seeds", right=True, spare=3),
            Column("train loss", right=True),
            Column("connectivity", right=True, spare=1),
            Column("CKA", right=True, spare=1),
            Column("log trace", right=True, spare=2),
            Column("why", style="dim", spare=5),
        ],
        [_row(one, keys) for one in found.cells],
    )
    limits = ", ".join(f"{name} {value:g}" for name, value in found.thresholds.as_dict().items())
    say(f"Rule {found.rule}: {limits}")
    if found.without:
        shown = ", ".join(found.without[:4]) + (", ..." if len(found.without) > 4 else "")
        say(f"{len(found.without)} versions have none of the cells' tags, and no label: {shown}")
    kept = [ref for one in found.cells for ref in one.asserted]
    if kept:
        shown = ", ".join(kept[:4]) + (", ..." if len(kept) > 4 else "")
        say(f"{len(kept)} keep the label that was asserted: {shown}; --force replaces it.")
    for note in found.notes:
        say(f"Note: {note}.")
    if dry_run:
        say("Nothing was written: --dry-run.")


def _row(one: Assigned, keys: Sequence[str]) -> list[str | None]:
    m = one.read.measures
    values = (m.train_loss, m.connectivity, m.cka, m.log_trace)
    return [
        one.label.phase,
        f"{one.label.confidence:.0%}",
        one.cell.name(keys),
        one.cell.task,
        str(m.members),
        *(None if value is None else f"{value:.3g}" for value in values),
        "; ".join((*one.label.why, *one.read.notes)),
    ]


@command.command("show")
@click.argument("rule", metavar="[RULE]", required=False)
@json_option
@pass_session
def show(session: Session, rule: str | None, as_json: bool) -> None:
    """List rules, their thresholds, and how many versions each labelled.

    \b
        zoo phases show
        zoo phases show default@2
    """
    _list(session, rule, as_json)


def _list(session: Session, rule: str | None, as_json: bool) -> None:
    from zoo.errors import NotFound, did_you_mean

    with session.open() as registry:
        rules = registry.catalog.phase_rules()
        labelled = Counter((v.phase_rule, v.phase) for v in registry.select("phase is not null"))
    if rule is not None:
        known = [r.ref for r in rules]
        rules = [r for r in rules if rule in (r.ref, r.name)]
        if not rules:
            raise NotFound(
                f"There is no rule of phases `{rule}`.", how=did_you_mean(rule, known), rule=rule
            )
    counts = {
        r.ref: {
            str(phase): n for (ref, phase), n in sorted(labelled.items(), key=str) if ref == r.ref
        }
        for r in rules
    }
    if as_json:
        show_json(
            [
                {
                    "rule": r.ref,
                    "thresholds": dict(r.thresholds),
                    "created_at": r.created_at,
                    "versions": counts[r.ref],
                }
                for r in rules
            ]
        )
        return
    show_table(
        [
            Column("rule", style="bold", whole=True),
            Column("thresholds"),
            Column("versions"),
            Column("created", style="dim", whole=True, spare=1),
        ],
        [
            [
                r.ref,
                ", ".join(f"{name} {number(value)}" for name, value in r.thresholds.items()),
                ", ".join(f"{phase}: {n}" for phase, n in counts[r.ref].items()),
                moment(r.created_at),
            ]
            for r in rules
        ],
    )
    if not rules:
        say("No rule was stored yet; `zoo phases assign` stores one.")


@command.command("plot")
@where_option
@click.option("--x", metavar="TAG", required=True, help="Axis to the right: grow.batch.")
@click.option("--y", metavar="TAG", required=True, help="Axis upwards: grow.width.")
@click.option(
    "--color",
    metavar="METRIC",
    help="Of versions (accuracy, loss/digits) or of pairs (cka); the loss on `train` by default.",
)
@click.option("--log", is_flag=True, help="Colour by the natural logarithm.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="File to write: .svg or .png.",
)
@click.option("--title", metavar="TEXT", default="", help="Above the picture.")
@json_option
@pass_session
def plot(
    session: Session,
    where: str | None,
    x: str,
    y: str,
    color: str | None,
    log: bool,
    out: Path,
    title: str,
    as_json: bool,
) -> None:
    """Draw the phase diagram: temperature by load, coloured by a metric.

    Each cell is a configuration, coloured by the mean over its seeds, or over pairs of them, and
    bears its phase. Thick lines lie between phases; `?` is a cell without a label.

    \b
        zoo phases plot --x grow.batch --y grow.width --color hessian_trace --log \\
            --out map.svg
    """
    from zoo.phases.map import phase_map
    from zoo.plots.phase_diagram import phase_diagram
    from zoo.plots.style import check_path, save

    check_path(out)
    with session.open() as registry:
        data = phase_map(registry, x=x, y=y, colour=color, where=where, log=log)
    save(phase_diagram(data, title=title), out)
    if as_json:
        show_json({"out": str(out), **data.as_dict()})
    else:
        say(f"{out}: {len(data.values)} cells, {len(data.phases)} with a phase")
