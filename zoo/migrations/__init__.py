"""Alembic migrations; one numbered file per change of the schema, in `versions/`; `env` runs them.

To add one: copy the newest file, count `revision` up, set `zoo.catalog.database.SCHEMA` to the
number, and run the tests, which compare what the migrations build with `zoo.catalog.tables`.
"""
