"""The first schema: entries, versions, runs, lineage, metrics, aliases, audit log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
INT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
FLOAT: sa.Double[float] = sa.Double().with_variant(sa.REAL(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "entries",
        sa.Column("id", INT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("last_number", INT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_entries")),
        sa.UniqueConstraint("name", name=op.f("uq_entries_name")),
        sqlite_strict=True,
    )
    op.create_table(
        "manifests",
        sa.Column("id", INT, nullable=False),
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("parameters", INT, nullable=False),
        sa.Column("bytes", INT, nullable=False),
        sa.Column("tensors", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_manifests")),
        sa.UniqueConstraint("digest", name=op.f("uq_manifests_digest")),
        sqlite_strict=True,
    )
    op.create_table(
        "runs",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("method", TEXT, nullable=False),
        sa.Column("method_version", TEXT, nullable=False),
        sa.Column("plugin", TEXT, nullable=False),
        sa.Column("plugin_version", TEXT, nullable=False),
        sa.Column("code_hash", TEXT, nullable=False),
        sa.Column("seed", INT, nullable=False),
        sa.Column("recipe", TEXT, nullable=False),
        sa.Column("recipe_digest", TEXT, nullable=False),
        sa.Column("selection", TEXT, nullable=True),
        sa.Column("environment", TEXT, nullable=False),
        sa.Column("timings", TEXT, nullable=False),
        sa.Column("started_at", TEXT, nullable=False),
        sa.Column("ended_at", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_runs_method"), "runs", ["method"], unique=False)
    op.create_index(op.f("ix_runs_recipe_digest"), "runs", ["recipe_digest"], unique=False)
    op.create_table(
        "version_sets",
        sa.Column("id", INT, nullable=False),
        sa.Column("key", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_version_sets")),
        sa.UniqueConstraint("key", name=op.f("uq_version_sets_key")),
        sqlite_strict=True,
    )
    op.create_table(
        "zoo",
        sa.Column("id", INT, autoincrement=False, nullable=False),
        sa.Column("store", TEXT, nullable=False),
        sa.Column("uuid", TEXT, nullable=False),
        sa.Column("created_at", TEXT, nullable=False),
        sa.Column("audit_sequence", INT, nullable=False),
        sa.Column("audit_hash", TEXT, nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_zoo_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_zoo")),
        sqlite_strict=True,
    )
    op.create_table(
        "group_metrics",
        sa.Column("set_id", INT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("split", TEXT, nullable=False),
        sa.Column("value", FLOAT, nullable=False),
        sa.Column("stderr", FLOAT, nullable=True),
        sa.Column("dataset", TEXT, nullable=False),
        sa.Column("protocol", TEXT, nullable=False),
        sa.Column("environment", TEXT, nullable=False),
        sa.Column("tool", TEXT, nullable=False),
        sa.Column("recorded_at", TEXT, nullable=False),
        sa.ForeignKeyConstraint(
            ["set_id"], ["version_sets.id"], name=op.f("fk_group_metrics_set_id_version_sets")
        ),
        sa.PrimaryKeyConstraint("set_id", "name", "split", name=op.f("pk_group_metrics")),
        sqlite_strict=True,
    )
    op.create_table(
        "versions",
        sa.Column("id", INT, nullable=False),
        sa.Column("entry_id", INT, nullable=False),
        sa.Column("number", INT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("manifest_id", INT, nullable=False),
        sa.Column("base_id", INT, nullable=True),
        sa.Column("run_id", TEXT, nullable=True),
        sa.Column("task", TEXT, nullable=True),
        sa.Column("phase", TEXT, nullable=True),
        sa.Column("license", TEXT, nullable=True),
        sa.Column("architecture", TEXT, nullable=True),
        sa.Column("source", TEXT, nullable=False),
        sa.Column("notes", TEXT, nullable=False),
        sa.Column("created_at", TEXT, nullable=False),
        sa.Column("removed_at", TEXT, nullable=True),
        sa.Column("removed_reason", TEXT, nullable=True),
        sa.ForeignKeyConstraint(
            ["base_id"], ["versions.id"], name=op.f("fk_versions_base_id_versions")
        ),
        sa.ForeignKeyConstraint(
            ["entry_id"], ["entries.id"], name=op.f("fk_versions_entry_id_entries")
        ),
        sa.ForeignKeyConstraint(
            ["manifest_id"], ["manifests.id"], name=op.f("fk_versions_manifest_id_manifests")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_versions_run_id_runs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_versions")),
        sa.UniqueConstraint("entry_id", "number", name=op.f("uq_versions_entry_id_number")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_versions_base_id"), "versions", ["base_id"], unique=False)
    op.create_index(op.f("ix_versions_manifest_id"), "versions", ["manifest_id"], unique=False)
    op.create_index(op.f("ix_versions_run_id"), "versions", ["run_id"], unique=False)
    op.create_index(op.f("ix_versions_task"), "versions", ["task"], unique=False)
    op.create_table(
        "alias_history",
        sa.Column("id", INT, nullable=False),
        sa.Column("entry_id", INT, nullable=False),
        sa.Column("alias", TEXT, nullable=False),
        sa.Column("version_id", INT, nullable=True),
        sa.Column("at", TEXT, nullable=False),
        sa.ForeignKeyConstraint(
            ["entry_id"], ["entries.id"], name=op.f("fk_alias_history_entry_id_entries")
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_alias_history_version_id_versions")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alias_history")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_alias_history_entry_id"), "alias_history", ["entry_id"], unique=False)
    op.create_table(
        "aliases",
        sa.Column("entry_id", INT, nullable=False),
        sa.Column("alias", TEXT, nullable=False),
        sa.Column("version_id", INT, nullable=False),
        sa.ForeignKeyConstraint(
            ["entry_id"], ["entries.id"], name=op.f("fk_aliases_entry_id_entries")
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_aliases_version_id_versions")
        ),
        sa.PrimaryKeyConstraint("entry_id", "alias", name=op.f("pk_aliases")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_aliases_version_id"), "aliases", ["version_id"], unique=False)
    op.create_table(
        "edges",
        sa.Column("child_id", INT, nullable=False),
        sa.Column("role", TEXT, nullable=False),
        sa.Column("position", INT, autoincrement=False, nullable=False),
        sa.Column("parent_id", INT, nullable=False),
        sa.Column("weight", FLOAT, nullable=True),
        sa.ForeignKeyConstraint(
            ["child_id"], ["versions.id"], name=op.f("fk_edges_child_id_versions")
        ),
        sa.ForeignKeyConstraint(
            ["parent_id"], ["versions.id"], name=op.f("fk_edges_parent_id_versions")
        ),
        sa.PrimaryKeyConstraint("child_id", "role", "position", name=op.f("pk_edges")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("ix_edges_parent_id_child_id"), "edges", ["parent_id", "child_id"], unique=False
    )
    op.create_table(
        "events",
        sa.Column("sequence", INT, autoincrement=False, nullable=False),
        sa.Column("at", TEXT, nullable=False),
        sa.Column("action", TEXT, nullable=False),
        sa.Column("subject", TEXT, nullable=False),
        sa.Column("version_id", INT, nullable=True),
        sa.Column("detail", TEXT, nullable=False),
        sa.Column("previous", TEXT, nullable=False),
        sa.Column("hash", TEXT, nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_events_version_id_versions")
        ),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_events")),
        sqlite_strict=True,
    )
    op.create_table(
        "files",
        sa.Column("version_id", INT, nullable=False),
        sa.Column("path", TEXT, nullable=False),
        sa.Column("object", TEXT, nullable=False),
        sa.Column("bytes", INT, nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_files_version_id_versions")
        ),
        sa.PrimaryKeyConstraint("version_id", "path", name=op.f("pk_files")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_files_object"), "files", ["object"], unique=False)
    op.create_table(
        "metrics",
        sa.Column("version_id", INT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("split", TEXT, nullable=False),
        sa.Column("value", FLOAT, nullable=False),
        sa.Column("stderr", FLOAT, nullable=True),
        sa.Column("dataset", TEXT, nullable=False),
        sa.Column("protocol", TEXT, nullable=False),
        sa.Column("environment", TEXT, nullable=False),
        sa.Column("tool", TEXT, nullable=False),
        sa.Column("recorded_at", TEXT, nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_metrics_version_id_versions")
        ),
        sa.PrimaryKeyConstraint("version_id", "name", "split", name=op.f("pk_metrics")),
        sqlite_strict=True,
    )
    op.create_index(
        op.f("ix_metrics_name_split_value_version_id"),
        "metrics",
        ["name", "split", "value", "version_id"],
        unique=False,
    )
    op.create_table(
        "run_inputs",
        sa.Column("run_id", TEXT, nullable=False),
        sa.Column("role", TEXT, nullable=False),
        sa.Column("position", INT, autoincrement=False, nullable=False),
        sa.Column("version_id", INT, nullable=False),
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("weight", FLOAT, nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_inputs_run_id_runs")),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_run_inputs_version_id_versions")
        ),
        sa.PrimaryKeyConstraint("run_id", "role", "position", name=op.f("pk_run_inputs")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_run_inputs_version_id"), "run_inputs", ["version_id"], unique=False)
    op.create_table(
        "tags",
        sa.Column("version_id", INT, nullable=False),
        sa.Column("key", TEXT, nullable=False),
        sa.Column("value", TEXT, nullable=False),
        sa.Column("number", FLOAT, nullable=True),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_tags_version_id_versions")
        ),
        sa.PrimaryKeyConstraint("version_id", "key", name=op.f("pk_tags")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("ix_tags_key_number_version_id"),
        "tags",
        ["key", "number", "version_id"],
        unique=False,
        sqlite_where=sa.text("number IS NOT NULL"),
    )
    op.create_index(
        op.f("ix_tags_key_value_version_id"), "tags", ["key", "value", "version_id"], unique=False
    )
    op.create_table(
        "version_set_members",
        sa.Column("set_id", INT, nullable=False),
        sa.Column("version_id", INT, nullable=False),
        sa.ForeignKeyConstraint(
            ["set_id"], ["version_sets.id"], name=op.f("fk_version_set_members_set_id_version_sets")
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["versions.id"], name=op.f("fk_version_set_members_version_id_versions")
        ),
        sa.PrimaryKeyConstraint("set_id", "version_id", name=op.f("pk_version_set_members")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index(
        op.f("ix_version_set_members_version_id"),
        "version_set_members",
        ["version_id"],
        unique=False,
    )
