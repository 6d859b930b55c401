"""`zoo measure`: loss-landscape and similarity metrics of versions, pairs and sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from zoo_cli.arguments import (
    check_chosen,
    references_argument,
    sample_options,
    selection_options,
    yaml_pair,
)
from zoo_cli.output import (
    Column,
    json_option,
    on_terminal,
    say,
    say_errors,
    show_fields,
    show_json,
    show_table,
    title,
)
from zoo_cli.parameters import show_parameters
from zoo_cli.session import Session, pass_session
from zoo_cli.units import count, number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zoo.measuring.measurement import Measured, Measurement
    from zoo.metrics import Metric
    from zoo.registry import Registry


@click.command("measure")
@references_argument
@click.option(
    "--metric",
    "metrics",
    metavar="NAME",
    multiple=True,
    help="Metric, or a value that one gives: `barrier`; repeatable.",
)
@click.option("--list", "listing", is_flag=True, help="List the metrics, or explain --metric.")
@selection_options
@click.option("--task", metavar="NAME", help="Task to measure on; the versions' own by default.")
@click.option("--split", metavar="NAME", help="Its split; each metric's own by default.")
@click.option(
    "--set",
    "parameters",
    type=yaml_pair,
    metavar="K=V",
    multiple=True,
    help="Parameter of the metrics, the value in YAML: points=25, barrier.points=25; repeatable.",
)
@click.option(
    "--within",
    metavar="KEY",
    multiple=True,
    help="Tag or column that members of a pair or set must agree in: `task`; repeatable.",
)
@sample_options
@click.option("--force", is_flag=True, help="Measure again what is recorded.")
@click.option("--dry-run", is_flag=True, help="Say what would be measured, and its cost.")
@json_option
@pass_session
def command(
    session: Session,
    /,
    refs: tuple[str, ...],
    metrics: tuple[str, ...],
    listing: bool,
    parameters: tuple[tuple[str, Any], ...],
    force: bool,
    dry_run: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Measure versions, and record the values.

    Metrics of one model are taken of each version, metrics of pairs of each pair of them. What is
    recorded with the same protocol is not measured again; a run that was killed goes on where it
    was.

    \b
        zoo measure digits-mlp@1 digits-mlp@2 --metric barrier --metric cka
        zoo measure --where "kind = 'expert'" --metric hessian_trace --samples 1000
        zoo measure --list --metric barrier
    """
    if listing:
        _list(session.plugins.metrics, metrics, as_json)
        return
    check_chosen(refs, asked, "Name the versions, or select them with --where.")
    if not metrics:
        raise click.UsageError("Name a metric with --metric; `zoo measure --list` lists them.")
    asked |= {"metrics": metrics, "parameters": dict(parameters)}
    with session.open() as registry:
        if dry_run:
            _show_plan(registry, refs or None, asked, force, as_json)
            return
        done = registry.measure(
            refs or None, force=force, progress=session.counting("examples"), **asked
        )
    if as_json:
        show_json([one.as_dict() for one in done])
    else:
        _show(done)
    failed = [one.error for one in done if one.error is not None]
    if failed:
        say(f"{len(failed)} of {len(done)} measurements failed; the others are recorded.")
        click.get_current_context().exit(failed[0].exit_code)


def _show(done: Sequence[Measured]) -> None:
    rows = [
        [
            value.name,
            _versions(one) if i == 0 or not on_terminal() else "",
            _place(one),
            value.split,
            number(value.value),
            "" if value.stderr is None else number(value.stderr),
            "recorded before" if one.was_known else "",
        ]
        for one in done
        for i, value in enumerate(one.values)
    ]
    if rows:
        show_table(
            [
                Column("value of", style="bold"),
                Column("versions"),
                Column("on"),
                Column("part"),
                Column("value", right=True, whole=True),
                Column("stderr", right=True, spare=1),
                Column("", style="dim", spare=2),
            ],
            rows,
        )
    for one in done:
        if one.error is None and not one.values:
            say(f"{one.metric} {' '.join(one.versions)}: no value could be told")
    say_errors(
        [
            (f"{one.metric} {' '.join(one.versions)}", one.error)
            for one in done
            if one.error is not None
        ]
    )


def _versions(one: Measured) -> str:
    return ("\n" if on_terminal() else " ").join(one.versions)


def _place(one: Measured) -> str:
    return one.task if one.split in ("", "test") else f"{one.task}:{one.split}"


def _show_plan(
    registry: Registry,
    refs: Sequence[str] | None,
    asked: Mapping[str, Any],
    force: bool,
    as_json: bool,
) -> None:
    from zoo.errors import ZooError
    from zoo.measuring.measurement import Measured, plan
    from zoo.measuring.measurement_cost import Costs

    costs = Costs(registry)

    def planned(one: Measurement | Measured) -> dict[str, Any]:
        if isinstance(one, Measured):
            return {
                "metric": one.metric,
                "versions": list(one.versions),
                "examples": None,
                "passes": 0.0,
                "seconds": None,
                "is_known": False,
                "error": str(one.error),
            }
        seconds, error = None, None
        try:
            seconds = costs.seconds(one)
        except ZooError as e:
            error = str(e)
        return {
            "metric": one.metric.name,
            "versions": one.refs,
            "examples": one.examples,
            "passes": one.passes,
            "seconds": seconds,
            "is_known": bool(one.known) and not force,
            "error": error,
        }

    rows = [planned(one) for one in plan(registry, refs, **asked)]
    if as_json:
        show_json(rows)
        return
    show_table(
        [
            Column("metric", style="bold"),
            Column("versions"),
            Column("examples", right=True),
            Column("passes", right=True),
            Column("seconds", right=True),
            Column("note"),
        ],
        [
            [
                r["metric"],
                " ".join(r["versions"]),
                "" if r["examples"] is None else count(r["examples"]),
                number(r["passes"]) if r["passes"] else "",
                "" if r["seconds"] is None else number(float(f"{r['seconds']:.2g}")),
                r["error"] or ("recorded before" if r["is_known"] else ""),
            ]
            for r in rows
        ],
    )
    left = [r for r in rows if not r["is_known"] and not r["error"]]
    total = sum(r["seconds"] or 0 for r in left)
    say(f"{len(left)} measurements to do, about {total:.2g} s at most.")


def _list(known: Mapping[str, Metric], names: Sequence[str], as_json: bool) -> None:
    from zoo.metrics import metrics_named

    metrics = metrics_named(known, names) if names else [known[n] for n in sorted(known)]
    if as_json:
        show_json([_as_dict(m) for m in metrics])
    elif names:
        for metric in metrics:
            _explain(metric)
    else:
        show_table(
            [
                Column("metric", style="bold", whole=True),
                Column("of", whole=True),
                Column("needs", whole=True),
                Column("gives"),
            ],
            [[m.name, _models(m), _needs(m), "\n".join(m.gives)] for m in metrics],
        )


def _explain(metric: Metric) -> None:
    import inspect

    title(f"{metric.name} {metric.version}")
    click.echo(f"\n{inspect.getdoc(metric.function) or ''}\n")
    show_fields([(f"gives {name}", what) for name, what in metric.gives.items()])
    show_fields([("of", _models(metric)), ("needs", _needs(metric)), ("cost", _cost(metric))])
    show_parameters(metric)


def _as_dict(metric: Metric) -> dict[str, Any]:
    return {
        "name": metric.name,
        "version": metric.version,
        "gives": dict(metric.gives),
        "arity": metric.arity,
        "needs": metric.needs,
        "split": metric.split if metric.needs == "data" else None,
        "base": metric.base,
        "parameters": metric.parameters.model_json_schema().get("properties", {}),
    }


def _models(metric: Metric) -> str:
    return {1: "one model", 2: "a pair", None: "a set"}.get(metric.arity, f"{metric.arity} models")


def _needs(metric: Metric) -> str:
    needs = f"data ({metric.split})" if metric.needs == "data" else "weights"
    return needs + (", bases" if metric.base else "")


def _cost(metric: Metric) -> str:
    """Passes over the sample with the default parameters; empty where some have none."""
    fields = metric.parameters.model_fields.values()
    if metric.passes is None or any(f.is_required() for f in fields):
        return ""
    models = metric.arity or 2
    return f"{metric.passes(metric.parameters(), models):g} passes over the sample"
