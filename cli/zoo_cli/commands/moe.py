"""`zoo moe`: build mixtures of experts, and merge the experts of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from zoo_cli.arguments import reference_argument, tag_option, threads_option, yaml_pair
from zoo_cli.output import (
    Column,
    json_option,
    say,
    show_fields,
    show_json,
    show_table,
    title,
)
from zoo_cli.session import Session, pass_session
from zoo_cli.units import size
from zoo_cli.versions import show_version

if TYPE_CHECKING:
    from zoo.records import Version

_NO_PLACE = "Name the result with --as NAME, or write it to --out DIR."

as_option = click.option("--as", "name", metavar="NAME", help="Entry to store the result under.")
out_option = click.option(
    "--out",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Directory to write the result to; without --as, nothing is stored in the registry.",
)
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Check everything, say what would come out, write nothing."
)


@click.group("moe", invoke_without_command=True)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Build mixtures of experts.

    \b
        zoo moe build mixture.yaml --as mathcode-moe
        zoo moe merge-experts mixtral --experts 4 --as mixtral-half

    Alone, it lists the layouts that can be built.
    """
    if ctx.invoked_subcommand is None:
        _list(as_json)


@command.command("build")
@click.argument("config", type=click.Path(dir_okay=False))
@as_option
@out_option
@dry_run_option
@threads_option
@tag_option
@json_option
@pass_session
def build(
    session: Session,
    config: str,
    name: str | None,
    out: str | None,
    dry_run: bool,
    threads: int | None,
    tags: tuple[tuple[str, str], ...],
    as_json: bool,
) -> None:
    """Build a mixture of dense siblings, as CONFIG says.

    A configuration of mergekit-moe is one as it stands. The base gives attention, norms and
    embeddings, each expert its MLPs; prompts make the router.

    \b
        base_model: mistral
        gate_mode: hidden
        experts:
          - source_model: mistral-math
            positive_prompts: ["Prove that", "Solve for x"]
          - source_model: mistral-code
            positive_prompts: ["Write a function"]

    \b
        zoo moe build mixture.yaml --dry-run
        zoo moe build mixture.yaml --as mathcode-moe
    """
    _check_place(name, out, dry_run)
    with session.open(create=bool(name), lazy=not name) as registry:
        if dry_run:
            _show_plan(registry.plan_upcycle(config, threads=threads), as_json)
            return
        told: dict[str, Any] = {}
        version = registry.upcycle(
            config,
            name=name,
            out=out,
            threads=threads,
            tags=dict(tags),
            progress=session.progress,
            told=told.update,
        )
    _show(version, out, told, as_json)


@command.command("merge-experts")
@reference_argument("ref")
@click.option(
    "--experts", type=click.IntRange(min=1), metavar="N", help="Experts to leave in each layer."
)
@click.option(
    "--grouping",
    type=click.Choice(["router", "weights", "consecutive"]),
    default="router",
    show_default=True,
    help="Which experts go together: those of similar router rows, of similar weights, or that "
    "follow each other.",
)
@click.option(
    "--set",
    "parameters",
    type=yaml_pair,
    metavar="K=V",
    multiple=True,
    help="Other option, the value in YAML: frequencies=[0.5, 0.2, 0.2, 0.1], router=keep, "
    "groups=[[0, 3], [1, 2]], align=true; repeatable.",
)
@as_option
@out_option
@dry_run_option
@threads_option
@tag_option
@json_option
@pass_session
def merge_experts(
    session: Session,
    ref: str,
    experts: int | None,
    grouping: str,
    parameters: tuple[tuple[str, Any], ...],
    name: str | None,
    out: str | None,
    dry_run: bool,
    threads: int | None,
    tags: tuple[tuple[str, str], ...],
    as_json: bool,
) -> None:
    """Merge the experts of REF, a mixture, into fewer.

    In each layer the experts of a group become their average, weighted by how often each is used
    where `frequencies` says so, and so do their rows of the router.

    \b
        zoo moe merge-experts mixtral --experts 4 --as mixtral-half
        zoo moe merge-experts mixtral --set "groups=[[0, 3], [1, 2]]" --out ./two
    """
    _check_place(name, out, dry_run)
    asked = {"grouping": grouping, **dict(parameters)}
    if experts is not None:
        asked["experts"] = experts
    with session.open(create=bool(name), lazy=not name) as registry:
        if dry_run:
            plan = registry.plan_transform(
                "merge_experts", [("model", ref)], asked, threads=threads
            )
            _show_plan(plan, as_json)
            return
        told: dict[str, Any] = {}
        version = registry.merge_moe_experts(
            ref,
            options=asked,
            name=name,
            out=out,
            threads=threads,
            tags=dict(tags),
            progress=session.progress,
            told=told.update,
        )
    _show(version, out, told, as_json)


def _check_place(name: str | None, out: str | None, dry_run: bool) -> None:
    if not (name or out or dry_run):
        raise click.UsageError(_NO_PLACE)


def _list(as_json: bool) -> None:
    from zoo.moe.layouts import LAYOUTS

    found = [
        {"layout": x.name, "made_of": list(x.sources), "shared_experts": int(x.shared)}
        for x in LAYOUTS.values()
    ]
    if as_json:
        show_json(found)
        return
    show_table(
        [Column("layout", style="bold"), Column("made of"), Column("shared experts", right=True)],
        [[x.name, ", ".join(x.sources), str(int(x.shared))] for x in LAYOUTS.values()],
    )


def _show(version: Version | None, out: str | None, told: Mapping[str, Any], as_json: bool) -> None:
    for note in told.get("notes", ()):
        say(f"Note: {note}.")
    if version is not None:
        show_version(version, as_json)
    elif as_json:
        show_json({"out": out, "notes": dict(told)})
    else:
        click.echo(out)


def _show_plan(plan: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(plan)
        return
    title("would make", "nothing was written")
    show_fields(
        [
            ("layout", plan["architecture"]),
            *(
                (role, "\n".join(each["model"] for each in those))
                for role, those in plan["parents"].items()
            ),
            ("tensors", str(plan["tensors"])),
            ("writes", size(plan["bytes"])),
            ("notes", "\n".join(plan["notes"].get("notes", ()))),
        ]
    )
