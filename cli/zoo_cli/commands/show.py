"""`zoo show`: everything about one version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from zoo_cli.arguments import reference_argument
from zoo_cli.output import json_option, show_json
from zoo_cli.session import Session, pass_session
from zoo_cli.units import number, size, with_short_commits
from zoo_cli.versions import overlay_fields, show_version

if TYPE_CHECKING:
    from zoo.records import RunDraft

LONGEST_NOTE = 240
"""Characters; what is longer is for `--json`."""


@click.command("show")
@reference_argument("ref")
@json_option
@pass_session
def command(session: Session, ref: str, as_json: bool) -> None:
    """Show one version: its metadata, files and origin.

    Of a merge, the run that made it too; `--json` holds the whole recipe and environment.

    \b
        zoo show qwen-mathcode
        zoo show qwen@2 --json
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
    extra = [
        ("files", "\n".join(f"{f.path}  {size(f.bytes)}" for f in files)),
        ("notes", "\n".join(_notes(version.notes))),
    ]
    show_version(version, False, [*extra, *overlay_fields(kept), *_fields(run)])


def _notes(notes: Mapping[str, Any]) -> Iterator[str]:
    """A line for each note that is short enough to read."""
    for key, value in notes.items():
        if key in ("notes", "warnings") and isinstance(value, list):
            yield from map(with_short_commits, map(str, value))
        elif key == "declared":  # `zoo lineage` shows it
            continue
        else:
            said = f"{key}: {_brief(value)}"
            yield said if len(said) <= LONGEST_NOTE else f"{key}: long; --json has it"


def _brief(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(
            f"{k} {_brief(v)}" if isinstance(v, str | int | float) else f"{k} ({_brief(v)})"
            for k, v in value.items()
        )
    if isinstance(value, list | tuple):
        return ", ".join(map(_brief, value))
    return number(value) if isinstance(value, float) else str(value)


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
