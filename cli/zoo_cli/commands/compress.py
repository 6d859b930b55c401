"""`zoo compress`: store a family of experts as one version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from zoo_cli.arguments import (
    base_option,
    check_chosen,
    expert_option,
    selection_options,
    tag_option,
    threads_option,
    yaml_pair,
)
from zoo_cli.output import Column, json_option, show_json, show_table
from zoo_cli.session import Session, pass_session
from zoo_cli.units import number, size
from zoo_cli.versions import overlay_fields, show_version

if TYPE_CHECKING:
    from zoo.overlays.compression import Compressed


@click.command("compress")
@click.option(
    "--method",
    metavar="NAME",
    default="tall_masks",
    show_default=True,
    help="One that keeps parts per task: `tall_masks`, `emr`, `twin`, `tsv_compress`.",
)
@expert_option("store")
@selection_options
@base_option
@click.option(
    "--set",
    "parameters",
    type=yaml_pair,
    metavar="K=V",
    multiple=True,
    help="Parameter of the method, the value in YAML: mask_lambda=0.5; repeatable.",
)
@click.option(
    "--exclude",
    metavar="GLOB",
    multiple=True,
    help="Tensors that each task keeps whole, such as heads; repeatable.",
)
@click.option(
    "--as", "name", metavar="NAME", required=True, help="Entry to store the result under."
)
@click.option(
    "--memory", metavar="SIZE", default="1GiB", show_default=True, help="Memory it may use."
)
@threads_option
@tag_option
@json_option
@pass_session
def command(
    session: Session,
    /,
    experts: tuple[str, ...],
    parameters: tuple[tuple[str, Any], ...],
    tags: tuple[tuple[str, str], ...],
    as_json: bool,
    **asked: Any,
) -> None:
    """Store a family of experts as one version.

    It tells what that saves, and how far each task is from its expert. The version is a plain
    model, the trunk, and beside it what each task needs to be found again in it. The experts may
    be removed then; their base may not. `zoo export --task` writes the model of a task.

    \b
        zoo compress --where "kind = 'expert' and base = 'qwen'" --as qwen-family
        zoo export qwen-family ./math --task math
    """
    check_chosen(experts, asked, "Select the experts with --where, or name them with --expert.")
    with session.open() as registry:
        found = registry.compress(
            experts=list(experts) or None,
            parameters=dict(parameters),
            tags=dict(tags),
            progress=session.progress,
            **asked,
        )
    if as_json:
        show_json(found.as_dict())
    else:
        _show(found)


def _show(found: Compressed) -> None:
    show_version(found.version, False, overlay_fields(found.sizes)[1:])
    errors = {e.task: e for e in found.errors}
    show_table(
        [
            Column("task", style="bold"),
            Column("expert"),
            Column("size", right=True),
            Column("error", right=True),
            Column("of delta", right=True),
        ],
        [
            [
                t.task,
                t.expert,
                size(t.bytes),
                number(errors[t.task].relative),
                "" if (part := errors[t.task].of_delta) is None else number(part),
            ]
            for t in found.sizes.tasks
        ],
    )
