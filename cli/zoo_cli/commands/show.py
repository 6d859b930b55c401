"""`zoo show`: everything about one version."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from zoo_cli.arguments import reference_argument
from zoo_cli.output import json_option, show_json
from zoo_cli.session import Session, pass_session
from zoo_cli.units import size
from zoo_cli.versions import overlay_fields, show_version

if TYPE_CHECKING:
    from zoo.records import RunDraft


@click.command("show")
@reference_argument("ref")
@json_option
@pass_session
def command(session: Session, ref: str, as_json: bool) -> None:
    """Show one version: its metadata, files and origin.

    Of a merge, the run that made it too; `--json` holds the whole recipe and environment.
    """
    with session.open() as registry:
        version = registry.get(ref)
        files = registry.catalog.files(version.id)
        run = registry.catalog.run_of(version.id)
        history = registry.catalog.alias_history(version.name)
        kept = registry.compression(version.ref)
    if as_json:
        show_json(
            {
                **version.as_dict(),
                "files": [asdict(f) for f in files],
                "alias_history": history,
                "made_by": _as_dict(run) if run else None,
                "overlays": kept.as_dict() if kept else None,
            }
        )
        return
    extra = [("files", "\n".join(f"{f.path}  {size(f.bytes)}" for f in files))]
    show_version(version, False, [*extra, *overlay_fields(kept), *_fields(run)])


def _as_dict(run: RunDraft) -> dict[str, Any]:
    d = asdict(run)
    for one in d["inputs"]:
        del one["version"]
    return d


def _fields(run: RunDraft | None) -> list[tuple[str, str | None]]:
    if run is None:
        return []
    selected = run.selection or {}
    return [
        ("method", f"{run.method} {run.method_version} ({run.plugin} {run.plugin_version})"),
        ("recipe", run.recipe_digest),
        ("selected by", selected.get("where")),
        ("seed", str(run.seed)),
        ("run", run.id),
    ]
