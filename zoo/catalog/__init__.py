"""What the registry knows, in its database. It touches no weights.

tables, database         the tables; the engine, its settings, transactions, schema
catalog                  the door: every question and every change goes through it
additions, audit         what is written when a version comes, and the log of it
selection, references    the language of `--where`; `name@3` and its like
lineage, declared_*      the graph of versions: proved by runs, and declared by models
*_rows, group_metrics    rows to records and back, one subject a file
own_task, superseded     what a measured value is called, and when it is old
needed, origins, many    whose bytes a version needs; where it is from; many values at once
analytics                `zoo query`: DuckDB over the columnar copy of snapshot_tables
"""
