"""Every table of the registry, as SQLModel classes, with what each column means.

    entries ─< versions >─ manifests        a name; its numbered snapshots; what tensors they hold
                 ├─< files                  which objects of the store make up the directory
                 ├─< tags, metrics          current values; the past is in `events`
                 ├─< edges                  lineage: which versions it came from
                 └── runs ─< run_inputs     the execution that made it
    entries ─< aliases, alias_history
    version_sets ─< version_set_members, group_metrics
    tasks, phase_rules                      data sets and thresholds that were declared, by name
    events                                  the hash-chained audit log
    zoo                                     one row: where the store is, head of the audit chain

Text compares by code point on every engine (collation `C` on PostgreSQL), JSON is canonical text
(sorted keys, compact) so that its digest is stable, and times are UTC in ISO 8601, which sorts.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.sqlite import REAL
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

TEXT = Text().with_variant(Text(collation="C"), "postgresql")
INT = BigInteger().with_variant(Integer(), "sqlite")
FLOAT: Double[float] = Double().with_variant(REAL(), "sqlite")

Blob = bytes  # a column called `bytes` hides the type inside its class

STRICT = {"sqlite_strict": True}
"""SQLite then refuses a text in a number column, as PostgreSQL does."""


CLUSTERED = {**STRICT, "sqlite_with_rowid": False}
"""For narrow rows found by their key: SQLite keeps them in the key's own tree, one look-up less."""

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""Every constraint has a name, so that a later migration can drop it on SQLite too."""


class ZooTable(SQLModel, registry=registry(metadata=MetaData(naming_convention=NAMES))):
    """Base of our tables: metadata of our own, so that a host's SQLModel tables stay apart."""

    model_config = {"defer_build": True}  # validators are built on first use; none is used here


def _key() -> Any:
    return Field(default=None, sa_column=Column(INT, primary_key=True))


def _text(**kwargs: Any) -> Any:
    kwargs.setdefault("nullable", False)
    return Field(sa_column=Column(TEXT, **kwargs))


def _maybe(**kwargs: Any) -> Any:
    return Field(default=None, sa_column=Column(TEXT, nullable=True, **kwargs))


def _ref(target: str, *, nullable: bool = False, **kwargs: Any) -> Any:
    column = Column(INT, ForeignKey(target), nullable=nullable, **kwargs)
    return Field(default=None, sa_column=column) if nullable else Field(sa_column=column)


class Zoo(ZooTable, table=True):
    """One row: this registry. Locking it serialises writers on PostgreSQL."""

    __tablename__ = "zoo"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"), STRICT)

    id: int = Field(sa_column=Column(INT, primary_key=True, autoincrement=False))
    store: str = _text()
    """The store's directory; relative to the directory of `registry.db` when it can be."""
    uuid: str = _text()
    """This zoo's id. Its store has it too, so that no other registry takes that store."""
    created_at: str = _text()
    audit_sequence: int = Field(sa_column=Column(INT, nullable=False))
    """Sequence of the last event: a log whose end was cut off no longer matches."""
    audit_hash: str = _text()


class Entry(ZooTable, table=True):
    """A named line of work."""

    __tablename__ = "entries"
    __table_args__ = (STRICT,)

    id: int | None = _key()
    name: str = _text(unique=True)
    last_number: int = Field(sa_column=Column(INT, nullable=False))
    """Number of the newest version, removed ones included; numbers are never given twice."""


class Manifest(ZooTable, table=True):
    """The tensors behind one weights digest; shared by all versions with those weights."""

    __tablename__ = "manifests"
    __table_args__ = (STRICT,)

    id: int | None = _key()
    digest: str = _text(unique=True)
    """Weights digest, `sha256:` + 64 hex."""
    parameters: int = Field(sa_column=Column(INT, nullable=False))
    """Elements of the floating tensors, dimensionless."""
    bytes: int = Field(sa_column=Column(INT, nullable=False))
    """Bytes of all tensors."""
    tensors: Blob = Field(sa_column=Column(LargeBinary, nullable=False))
    """zlib-compressed JSON, `[[name, dtype, [shape...], digest], ...]`, names ascending."""


class Run(ZooTable, table=True):
    """One execution of a recipe."""

    __tablename__ = "runs"
    __table_args__ = (STRICT,)

    id: str = _text(primary_key=True)
    kind: str = _text()
    method: str = _text(index=True)
    method_version: str = _text()
    plugin: str = _text()
    plugin_version: str = _text()
    code_hash: str = _text()
    seed: int = Field(sa_column=Column(INT, nullable=False))
    recipe: str = _text()
    """JSON: the resolved recipe that is replayed."""
    recipe_digest: str = _text(index=True)
    selection: str | None = _maybe()
    """JSON, or NULL when the inputs were named one by one."""
    environment: str = _text()
    timings: str = _text()
    """JSON: seconds per stage."""
    started_at: str = _text()
    ended_at: str = _text()


class Version(ZooTable, table=True):
    """An immutable snapshot of an entry; only task, phase, licence and removal may change."""

    __tablename__ = "versions"
    __table_args__ = (UniqueConstraint("entry_id", "number"), STRICT)

    id: int | None = _key()
    entry_id: int = _ref("entries.id")
    number: int = Field(sa_column=Column(INT, nullable=False))
    kind: str = _text()
    manifest_id: int = _ref("manifests.id", index=True)
    base_id: int | None = _ref("versions.id", nullable=True, index=True)
    run_id: str | None = Field(
        default=None, sa_column=Column(TEXT, ForeignKey("runs.id"), nullable=True, index=True)
    )
    task: str | None = _maybe(index=True)
    phase: str | None = _maybe()
    phase_rule: str | None = _maybe()
    """`NAME@N` of `phase_rules` when the phase was derived; NULL when it was asserted."""
    license: str | None = _maybe()
    architecture: str | None = _maybe()
    source: str = _text()
    notes: str = _text()
    """JSON: what the format plugin did on the way in."""
    created_at: str = _text()
    removed_at: str | None = _maybe()
    """When it was removed. The row stays: lineage answers for ever."""
    removed_reason: str | None = _maybe()


class File(ZooTable, table=True):
    """One file of a version's directory, and the object of the store that holds its bytes."""

    __tablename__ = "files"
    __table_args__ = (CLUSTERED,)

    version_id: int = _ref("versions.id", primary_key=True)
    path: str = _text(primary_key=True)
    object: str = _text(index=True)
    """`flat:HEX` or `tree:HEX`."""
    bytes: int = Field(sa_column=Column(INT, nullable=False))


class Tag(ZooTable, table=True):
    """A free word about a version."""

    __tablename__ = "tags"
    __table_args__ = (
        Index(None, "key", "value", "version_id"),
        Index(
            None,
            "key",
            "number",
            "version_id",
            sqlite_where=text("number IS NOT NULL"),
        ),
        CLUSTERED,
    )

    version_id: int = _ref("versions.id", primary_key=True)
    key: str = _text(primary_key=True)
    value: str = _text()
    number: float | None = Field(default=None, sa_column=Column(FLOAT, nullable=True))
    """The value where it reads as a finite number, so that `tag.x > 0.5` compares numbers."""


class Metric(ZooTable, table=True):
    """The current value of a metric of one version; finite."""

    __tablename__ = "metrics"
    __table_args__ = (Index(None, "name", "split", "value", "version_id"), STRICT)

    version_id: int = _ref("versions.id", primary_key=True)
    name: str = _text(primary_key=True)
    split: str = _text(primary_key=True)
    """Empty for the whole data set."""
    value: float = Field(sa_column=Column(FLOAT, nullable=False))
    stderr: float | None = Field(default=None, sa_column=Column(FLOAT, nullable=True))
    dataset: str = _text()
    protocol: str = _text()
    environment: str = _text()
    tool: str = _text()
    recorded_at: str = _text()


class Edge(ZooTable, table=True):
    """One step of lineage, written with the child: an input of its run, or, for a version that no
    run made, the base it was registered with."""

    __tablename__ = "edges"
    __table_args__ = (Index(None, "parent_id", "child_id"), CLUSTERED)

    child_id: int = _ref("versions.id", primary_key=True)
    role: str = _text(primary_key=True)
    """`base` or `expert`."""
    position: int = Field(sa_column=Column(INT, primary_key=True, autoincrement=False))
    parent_id: int = _ref("versions.id")
    weight: float | None = Field(default=None, sa_column=Column(FLOAT, nullable=True))


class RunInput(ZooTable, table=True):
    """One parent of a run, with the digest it had then."""

    __tablename__ = "run_inputs"
    __table_args__ = (CLUSTERED,)

    run_id: str = Field(sa_column=Column(TEXT, ForeignKey("runs.id"), primary_key=True))
    role: str = _text(primary_key=True)
    position: int = Field(sa_column=Column(INT, primary_key=True, autoincrement=False))
    version_id: int = _ref("versions.id", index=True)
    digest: str = _text()
    weight: float | None = Field(default=None, sa_column=Column(FLOAT, nullable=True))


class Alias(ZooTable, table=True):
    """A movable name of a version."""

    __tablename__ = "aliases"
    __table_args__ = (CLUSTERED,)

    entry_id: int = _ref("entries.id", primary_key=True)
    alias: str = _text(primary_key=True)
    version_id: int = _ref("versions.id", index=True)


class AliasMove(ZooTable, table=True):
    """Append-only: every place an alias ever had."""

    __tablename__ = "alias_history"
    __table_args__ = (STRICT,)

    id: int | None = _key()
    entry_id: int = _ref("entries.id", index=True)
    alias: str = _text()
    version_id: int | None = _ref("versions.id", nullable=True)
    """NULL: the alias was taken away."""
    at: str = _text()


class VersionSet(ZooTable, table=True):
    """An unordered set of versions that metrics are about."""

    __tablename__ = "version_sets"
    __table_args__ = (STRICT,)

    id: int | None = _key()
    key: str = _text(unique=True)
    """sha256 hex of the ascending row ids, so that each set exists once."""


class VersionSetMember(ZooTable, table=True):
    """A member of a set of versions."""

    __tablename__ = "version_set_members"
    __table_args__ = (CLUSTERED,)

    set_id: int = _ref("version_sets.id", primary_key=True)
    version_id: int = _ref("versions.id", primary_key=True, index=True)


class GroupMetric(ZooTable, table=True):
    """The current value of a metric of a set of versions; finite."""

    __tablename__ = "group_metrics"
    __table_args__ = (STRICT,)

    set_id: int = _ref("version_sets.id", primary_key=True)
    name: str = _text(primary_key=True)
    split: str = _text(primary_key=True)
    value: float = Field(sa_column=Column(FLOAT, nullable=False))
    stderr: float | None = Field(default=None, sa_column=Column(FLOAT, nullable=True))
    dataset: str = _text()
    protocol: str = _text()
    environment: str = _text()
    tool: str = _text()
    recorded_at: str = _text()


class Task(ZooTable, table=True):
    """A task that was declared: what its data is made of."""

    __tablename__ = "tasks"
    __table_args__ = (STRICT,)

    name: str = _text(primary_key=True)
    declaration: str = _text()
    """JSON: the reader and its options, or the task it is derived from and how."""
    digests: str = _text()
    """JSON: split -> digest of its data when the task was declared."""
    created_at: str = _text()


class PhaseRule(ZooTable, table=True):
    """Thresholds that phases are derived by; immutable, a change makes the next number."""

    __tablename__ = "phase_rules"
    __table_args__ = (STRICT,)

    name: str = _text(primary_key=True)
    number: int = Field(sa_column=Column(INT, primary_key=True, autoincrement=False))
    """1, 2, 3, ... within the name."""
    thresholds: str = _text()
    """JSON: threshold -> number; see `zoo.phases.rule`."""
    created_at: str = _text()


class Event(ZooTable, table=True):
    """One line of the audit log; see `zoo.catalog.audit` for the chain."""

    __tablename__ = "events"
    __table_args__ = (STRICT,)

    sequence: int = Field(sa_column=Column(INT, primary_key=True, autoincrement=False))
    """1, 2, 3, ... without gaps."""
    at: str = _text()
    action: str = _text()
    subject: str = _text()
    """`name@3`, `name` of an entry, a task or a rule, or `zoo`."""
    version_id: int | None = _ref("versions.id", nullable=True)
    detail: str = _text()
    """JSON: what changed, old values beside new ones."""
    previous: str = _text()
    hash: str = _text()
    """`sha256:` over the row and the hash before it."""


def _table(model: type[SQLModel]) -> Table:
    return ZooTable.metadata.tables[str(model.__tablename__)]


zoo = _table(Zoo)
entries = _table(Entry)
manifests = _table(Manifest)
runs = _table(Run)
versions = _table(Version)
files = _table(File)
tags = _table(Tag)
metrics = _table(Metric)
edges = _table(Edge)
run_inputs = _table(RunInput)
aliases = _table(Alias)
alias_history = _table(AliasMove)
version_sets = _table(VersionSet)
version_set_members = _table(VersionSetMember)
group_metrics = _table(GroupMetric)
tasks = _table(Task)
phase_rules = _table(PhaseRule)
events = _table(Event)
