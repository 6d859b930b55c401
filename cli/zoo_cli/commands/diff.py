"""`zoo diff`: how two versions differ, tensor by tensor."""

from __future__ import annotations

from typing import Any

import click

from zoo_cli.arguments import reference_argument
from zoo_cli.output import Column, json_option, on_terminal, say, show_json, show_table
from zoo_cli.session import Session, pass_session
from zoo_cli.units import number

SHOWN = 20
"""Changed tensors shown on a terminal, farthest first; a pipe and `--json` get all."""


@click.command("diff")
@reference_argument("a")
@reference_argument("b")
@json_option
@pass_session
def command(session: Session, a: str, b: str, as_json: bool) -> None:
    """Compare two versions, tensor by tensor.

    Tensors with equal digests are shared: they are not compared, but count in the total.
    """
    with session.open() as registry:
        diff = registry.diff(a, b, progress=session.progress).as_dict()
    if as_json:
        show_json(diff)
    else:
        _show(diff)


def _show(diff: dict[str, Any]) -> None:
    changed = sorted(diff["changed"], key=lambda c: -(c["relative"] or 0.0))
    differing = [_name(t) for t in diff["shape_differs"]]
    parts = [
        (len(diff["shared"]), "shared"),
        (len(changed), "changed"),
        (len(diff["carried"]), "changed that do not merge"),
        (len(diff["only_a"]), f"only in {diff['a']}"),
        (len(diff["only_b"]), f"only in {diff['b']}"),
        (len(differing), "of another shape"),
    ]
    say(f"{diff['a']} and {diff['b']}: " + ", ".join(f"{n} {what}" for n, what in parts if n) + ".")
    if told := _total(diff["total"]):
        say(f"All weights together: {told}.")
    shown = changed[:SHOWN] if on_terminal() else changed
    if shown:
        show_table(
            [
                Column("tensor", style="bold"),
                Column("distance", right=True),
                Column("relative", right=True),
                Column("cosine", right=True),
                Column("largest", right=True),
            ],
            [
                [
                    c["tensor"],
                    *(_cell(c[key]) for key in ("distance_l2", "relative", "cosine", "max_abs")),
                ]
                for c in shown
            ],
        )
    if len(shown) < len(changed):
        say(f"... and {len(changed) - len(shown)} nearer ones: --json, or a pipe, has them all.")
    for key, what in (("only_a", f"Only in {diff['a']}"), ("only_b", f"Only in {diff['b']}")):
        if diff[key]:
            say(f"{what}: " + _some([_name(t) for t in diff[key]]))
    if differing:
        say("Of another shape: " + _some(differing))


def _total(total: dict[str, Any]) -> str:
    """How near the models are as wholes: what tells kinship, whatever they are called."""
    known = [("cosine", total["cosine"]), ("relative distance", total["relative"])]
    return ", ".join(f"{what} {number(value)}" for what, value in known if value is not None)


def _name(entry: Any) -> str:
    return entry["tensor"] if isinstance(entry, dict) else str(entry)


def _cell(value: float | None) -> str:
    return "" if value is None else number(value)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
