"""`zoo query`: SQL over the registry."""

from __future__ import annotations

import click

from zoo_cli.output import (
    Column,
    far_too_wide,
    json_option,
    show_fields,
    show_json,
    show_table,
    title,
)
from zoo_cli.session import Session, pass_session
from zoo_cli.units import number


@click.command("query")
@click.argument("sql")
@json_option
@pass_session
def command(session: Session, sql: str, as_json: bool) -> None:
    """Run SQL (DuckDB) over a read-only snapshot of the registry.

    Tables: versions, tags, metrics, files, edges, tensors, runs, run_inputs, aliases,
    group_metrics, tasks, phase_rules, events. A result that is far too wide for the terminal is
    shown row by row.

    \b
        zoo query "DESCRIBE versions"
        zoo query "SELECT task, count(*) FROM versions GROUP BY task"
    """
    with session.open() as registry:
        table = registry.query(sql)
    if as_json:
        show_json([dict(zip(table.columns, row, strict=True)) for row in table.rows])
        return
    numeric = [
        bool(table.rows) and all(isinstance(row[i], int | float | None) for row in table.rows)
        for i in range(len(table.columns))
    ]
    columns = [
        Column(name, right=right) for name, right in zip(table.columns, numeric, strict=True)
    ]
    rows = [[_cell(value) for value in row] for row in table.rows]
    if not far_too_wide(columns, rows):
        show_table(columns, rows, keep_empty=True)
        return
    for i, row in enumerate(rows, 1):
        title(f"row {i}")
        show_fields(list(zip(table.columns, row, strict=True)))


def _cell(value: object) -> str:
    if value is None:
        return ""
    return number(value) if isinstance(value, float) else str(value)
