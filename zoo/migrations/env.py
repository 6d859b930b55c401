"""Alembic's entry: runs the migrations on the connection that `zoo.catalog.database` hands over.

There is no ini file. The caller has begun the transaction and holds the lock, so that a migration
is applied whole or not at all, by one process.
"""

from __future__ import annotations

from alembic import context

from zoo.catalog.database import VERSION_TABLE
from zoo.catalog.tables import ZooTable

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=ZooTable.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
    transactional_ddl=False,  # the caller's transaction is the only one
)
context.run_migrations()
