"""`zoo annotate`: change what is said about a version."""

from __future__ import annotations

from typing import Any

import click

from zoo_cli.arguments import about_options, metric_option, reference_argument, tag_option
from zoo_cli.output import json_option
from zoo_cli.session import Session, pass_session
from zoo_cli.versions import show_version


@click.command("annotate")
@reference_argument("ref")
@tag_option
@click.option("--untag", "drop_tags", metavar="TAG", multiple=True, help="Tag to drop; repeatable.")
@metric_option
@about_options
@click.option("--license", metavar="ID", help="SPDX identifier: `MIT`.")
@json_option
@pass_session
def command(
    session: Session,
    /,
    ref: str,
    tags: tuple[tuple[str, str], ...],
    drop_tags: tuple[str, ...],
    metrics: tuple[tuple[str, float], ...],
    as_json: bool,
    **about: Any,
) -> None:
    """Set tags, metrics, task, phase or licence of a version.

    The bytes of a version never change; what is said of them may, and the audit log keeps
    each former value.
    """
    if not (tags or drop_tags or metrics or any(about.values())):
        raise click.UsageError("Nothing to set: give --tag, --untag, --metric, --task, ...")
    with session.open() as registry:
        version = registry.annotate(
            ref, tags=dict(tags), drop_tags=drop_tags, metrics=dict(metrics), **about
        )
    show_version(version, as_json)
