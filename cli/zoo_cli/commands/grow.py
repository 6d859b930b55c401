"""`zoo grow`: train a population of models over a grid, or take one in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo_cli.output import Column, json_option, say, show_fields, show_json, show_table, title
from zoo_cli.session import Session, pass_session
from zoo_cli.units import number
from zoo_cli.versions import show_versions

if TYPE_CHECKING:
    from zoo.grow.estimate import Estimate
    from zoo.grow.population import Population
    from zoo.records import Version


@click.command("grow")
@click.argument("plan", metavar="[PLAN]", required=False, type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Say how many models, and about how long; no more.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Models trained at once, each on one core; as many as there are cores by default.",
)
@click.option(
    "--import",
    "directory",
    metavar="DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Take in the trials of a published model zoo instead.",
)
@click.option("--as", "name", metavar="NAME", help="With --import: what its entries begin with.")
@click.option("--epochs", metavar="N,...", help="With --import: the checkpoints; else the last.")
@click.option("--task", metavar="NAME", help="With --import: what the models were trained for.")
@click.option("--license", metavar="SPDX", help="With --import: CC-BY-4.0, for instance.")
@json_option
@pass_session
def command(
    session: Session,
    plan: Path | None,
    dry_run: bool,
    jobs: int | None,
    directory: Path | None,
    name: str | None,
    epochs: str | None,
    task: str | None,
    license: str | None,
    as_json: bool,
) -> None:
    """Train a population of models over a grid.

    PLAN is a YAML file. Each model is registered and measured. What is registered already is not
    trained again; a run that was killed goes on where it was. A model that fails is told at the
    end, and the others stand.

    \b
        name: digits
        architecture: {model_type: zoo_mlp, inputs: 64, width: 16, depth: 2,
                       classes: 10, activation: relu}
        task: digits
        train: {lr: 0.05, epochs: 20, schedule: onecycle}
        grid: {width: [4, 16, 64], batch: [16, 128], seed: [0, 1, 2]}
        measure:
          - {metric: hessian_trace, split: train, samples: 256}
          - {metric: cka, samples: 256}

    \b
        zoo grow digits.yaml --dry-run
        zoo grow digits.yaml --jobs 2

    With --import it takes in the layout of the published model zoos instead, a directory for each
    trial with `params.json`, `result.json` and `checkpoint_*/checkpoints`.

    \b
        zoo grow --import ./tune_zoo_svhn --as svhn --task svhn --license CC-BY-4.0
    """
    if (plan is None) == (directory is None):
        raise click.UsageError("Give a plan, or a directory with --import.")
    if directory is not None:
        if name is None or dry_run or jobs is not None:
            raise click.UsageError("--import takes --as NAME, and neither --dry-run nor --jobs.")
        _import(session, directory, name, epochs, task, license, as_json)
        return
    if name or epochs or task or license:
        raise click.UsageError("--as, --epochs, --task and --license go with --import.")
    assert plan is not None
    from zoo.grow.estimate import estimate
    from zoo.grow.plan import read_plan

    asked = read_plan(plan)
    if dry_run:
        with session.open(lazy=True) as registry:
            _show_estimate(estimate(registry, asked, jobs=jobs), as_json)
        return
    with session.open(create=True) as registry:
        done = registry.grow(asked, jobs=jobs, progress=session.counting("models"))
        versions = [registry.get(g.versions[-1]) for g in done.members if g.versions]
    if as_json:
        show_json(done.as_dict())
    else:
        _show(done, versions)
    if done.problems:
        for problem in done.problems:
            say(problem)
        say(f"{len(done.problems)} things failed; the rest is registered.")
        click.get_current_context().exit(1)


def _import(
    session: Session,
    directory: Path,
    name: str,
    epochs: str | None,
    task: str | None,
    license: str | None,
    as_json: bool,
) -> None:
    from zoo.grow.published import import_zoo, parse_epochs

    wanted = parse_epochs(epochs) if epochs is not None else None
    with session.open(create=True) as registry:
        versions = import_zoo(
            registry,
            directory,
            name=name,
            epochs=wanted,
            task=task,
            license=license,
            progress=session.counting("versions"),
        )
    if as_json:
        show_json([v.as_dict() for v in versions])
    else:
        show_versions(versions)


def _show_estimate(found: Estimate, as_json: bool) -> None:
    if as_json:
        show_json(found.as_dict())
        return
    there = f", {found.there} of them there already" if found.there else ""
    show_fields(
        [
            ("models", f"{found.models}{there}"),
            ("cells", str(found.cells)),
            ("steps", f"{found.steps:,}"),
            ("training", f"about {_time(found.training)} with {found.jobs} at once"),
            ("measuring", f"at most about {_time(found.measuring)}" if found.measuring else None),
        ]
    )


def _show(done: Population, versions: list[Version]) -> None:
    title(done.plan.name, f"{len(versions)} models in {_time(done.seconds)}")
    seconds = {g.versions[-1]: g for g in done.members if g.versions}
    names = ("accuracy", "train_loss", "hessian_trace", "hessian_top")
    show_table(
        [
            Column("model", style="bold"),
            *(Column(name, right=True) for name in names),
            Column("phase"),
            Column("time", right=True),
        ],
        [
            [
                v.ref,
                *(number(v.metrics[name]) if name in v.metrics else "" for name in names),
                done.phases.get(v.ref, ""),
                "there before" if seconds[v.ref].was_there else _time(seconds[v.ref].seconds),
            ]
            for v in versions
        ],
    )


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
