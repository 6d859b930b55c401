"""Data on stdout: rich tables on a terminal, tab-separated lines in a pipe, or JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import click

from zoo_cli.session import Session

F = TypeVar("F", bound=Callable[..., Any])


class Column(NamedTuple):
    """A column of a table."""

    title: str
    right: bool = False
    """Numbers are set to the right."""
    style: str = ""
    """A rich style."""
    whole: bool = False
    """Whether a narrow terminal must leave it unbroken."""
    spare: int = 0
    """Columns with the highest number leave first when a terminal is too narrow; 0 stays."""


Row = Sequence[str | None]

ERRORS = 10
"""So many of a long run's failures are told in full."""

GAP = 2
"""Spaces between the columns of a table."""


def json_option(command: F) -> F:
    """Give a command `--json`, as the argument `as_json`."""

    def remember(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
        if value:
            ctx.ensure_object(Session).as_json = True
        return value

    return click.option(
        "--json", "as_json", is_flag=True, callback=remember, is_eager=True, help="Print JSON."
    )(command)


def show_json(value: Any) -> None:
    """Print JSON, two spaces deep. Numbers that JSON lacks (NaN, infinities) become null."""
    click.echo(json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def on_terminal() -> bool:
    return sys.stdout.isatty()


def show_table(columns: Sequence[Column], rows: Sequence[Row], *, keep_empty: bool = False) -> None:
    """Print a table; columns in which no row has anything are left out, unless `keep_empty`."""
    used = [i for i in range(len(columns)) if keep_empty or any(row[i] for row in rows) or not rows]
    columns = [columns[i] for i in used]
    cells = [[row[i] or "" for i in used] for row in rows]
    if not on_terminal():
        for line in [[c.title for c in columns], *cells]:
            click.echo("\t".join(_one_line(cell) for cell in line))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    left_out = _too_many(columns, cells, console.width)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    kept = [i for i in range(len(columns)) if i not in left_out]
    for c in (columns[i] for i in kept):
        table.add_column(
            c.title,
            justify="right" if c.right else "left",
            style=c.style,
            no_wrap=c.whole,
            overflow="fold",
        )
    for line in cells:
        table.add_row(*(Text(line[i]) for i in kept))
    console.print(table)
    if names := ", ".join(columns[i].title for i in sorted(left_out) if columns[i].title):
        told = f"{names}: left out, the terminal is narrow; --json has all"
        say(click.style(click.wrap_text(told, console.width), dim=True))


def _too_many(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int) -> set[int]:
    """Columns to leave out so that the others fit the width unbroken, or none may be spared."""
    needed = _widths(columns, cells)
    left_out: set[int] = set()
    by_worth = sorted((i for i, c in enumerate(columns) if c.spare), key=lambda i: columns[i].spare)
    while by_worth and sum(n for i, n in enumerate(needed) if i not in left_out) > width:
        left_out.add(by_worth.pop())
    return left_out


def _widths(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> list[int]:
    """Characters that each column takes unbroken, with its gap."""
    lines = ([line for row in cells for line in row[i].splitlines()] for i in range(len(columns)))
    return [max(map(len, [c.title, *found])) + GAP for c, found in zip(columns, lines, strict=True)]


def far_too_wide(columns: Sequence[Column], rows: Sequence[Row]) -> bool:
    """Whether a table would need more than twice the width of the terminal."""
    from rich.console import Console

    cells = [[cell or "" for cell in row] for row in rows]
    return on_terminal() and sum(_widths(columns, cells)) > 2 * Console().width


def show_fields(pairs: Sequence[tuple[str, str | None]]) -> None:
    """Print names with their values, one a line; empty values are left out."""
    filled = [(name, value) for name, value in pairs if value]
    if not on_terminal():
        for name, value in filled:
            click.echo(f"{name}\t{_one_line(value)}")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in filled:
        grid.add_row(f"  {name}", Text(value))
    Console().print(grid)


def title(text: str, aside: str = "") -> None:
    """A heading above fields; absent from pipes, where every line is data."""
    if on_terminal():
        click.echo(click.style(text, bold=True) + (f"  {aside}" if aside else ""))


def say(text: str) -> None:
    """A sentence for people, on stderr, so that stdout holds data only."""
    click.echo(text, err=True)


def say_errors(errors: Sequence[tuple[str, object]]) -> None:
    """Say what failed and why, for the first of many; `--json` has all."""
    for what, why in errors[:ERRORS]:
        say(click.style("error: ", fg="red", bold=True) + f"{what}: {why}")
    if len(errors) > ERRORS:
        say(f"and {len(errors) - ERRORS} more errors; --json has all")


def _one_line(text: str) -> str:
    return " ".join(text.replace("\t", " ").splitlines())


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, str | int | bool):
        return value
    return str(value)
