"""The pages on what is stored and what is asked: tables, queries."""

from __future__ import annotations

import inspect

from generator.markdown import code, prose, table
from generator.source import attributes


def tables() -> str:
    from sqlalchemy.dialects import sqlite

    import zoo.catalog.tables as module

    parts = ["# Tables", inspect.cleandoc(module.__doc__ or "")]
    for cls in vars(module).values():
        if not inspect.isclass(cls) or module.ZooTable not in cls.__mro__[1:]:
            continue
        described = module.ZooTable.metadata.tables[cls.__tablename__]
        meanings = {name: text for name, _, text in attributes(cls)}
        rows = []
        for column in described.columns:
            rules = ["primary key"] if column.primary_key else []
            rules += ["unique"] if column.unique else []
            rules += [f"references `{key.target_fullname}`" for key in column.foreign_keys]
            rules += ["may be NULL"] if column.nullable else []
            kind = column.type.compile(dialect=sqlite.dialect())
            rows.append((code(column.name), kind, ", ".join(rules), meanings[column.name]))
        parts += [
            f"## {cls.__tablename__}",
            prose(cls.__doc__),
            table(["column", "type", "rules", "meaning"], rows),
        ]
    return "\n\n".join(parts)


def queries() -> str:
    import zoo.catalog.analytics as analytics
    import zoo.catalog.selection as selection
    import zoo.catalog.snapshot_tables as snapshot

    return "\n\n".join(
        [
            "# Queries",
            "## `--where` and `--order-by`",
            inspect.cleandoc(selection.__doc__ or ""),
            "The same text works in `zoo ls`, `zoo merge`, a recipe's `select:`, and "
            "`Registry.select`.",
            table(
                ["column", "meaning"],
                ((code(name), text) for name, text in selection.COLUMNS.items()),
            ),
            "`--order-by` takes `column [asc|desc], ...`.",
            "## `zoo query`",
            inspect.cleandoc(analytics.__doc__ or ""),
            inspect.cleandoc(snapshot.__doc__ or "").partition("\n\n")[2],
            *(
                f"### {shown.name}\n\n"
                + table(["column", "type"], ((code(n), k) for n, k in shown.columns.items()))
                for shown in snapshot.TABLES
            ),
        ]
    )
