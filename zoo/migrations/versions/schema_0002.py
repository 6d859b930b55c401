"""Declared tasks, rules of phases, and by which rule a version has its phase."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
INT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "tasks",
        sa.Column("name", TEXT, nullable=False),
        sa.Column("declaration", TEXT, nullable=False),
        sa.Column("digests", TEXT, nullable=False),
        sa.Column("created_at", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_tasks")),
        sqlite_strict=True,
    )
    op.create_table(
        "phase_rules",
        sa.Column("name", TEXT, nullable=False),
        sa.Column("number", INT, autoincrement=False, nullable=False),
        sa.Column("thresholds", TEXT, nullable=False),
        sa.Column("created_at", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("name", "number", name=op.f("pk_phase_rules")),
        sqlite_strict=True,
    )
    # A nullable column without a key: SQLite adds it in place, whatever the number of rows.
    op.add_column("versions", sa.Column("phase_rule", TEXT, nullable=True))
