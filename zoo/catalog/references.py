"""References to versions: `name`, `name@3`, `name@alias`, `name@latest`, `name@sha256:abcd`."""

from __future__ import annotations

import re
from typing import NamedTuple

from sqlalchemy import Connection, func, select
from sqlalchemy.sql.elements import ColumnElement

from zoo.catalog import tables as t
from zoo.errors import AmbiguousReference, InvalidName, NotFound, did_you_mean

SHORTEST_PREFIX = 4
"""Hex digits a digest prefix must have at least."""

_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
_RESERVED = ("latest", "sha256")
_LISTED = 8
_SHOWN = 2000
"""Names looked at for a suggestion, nearest in length first; more would take seconds."""


class Reference(NamedTuple):
    name: str
    selector: str
    """What follows `@`; empty for the latest version."""


def parse(ref: str) -> Reference:
    """Split a reference.

    Raises:
        InvalidName: no name, nothing after `@`, or a digest prefix that is no hex or too short.
    """
    name, at, selector = ref.partition("@")
    if not name or (at and not selector):
        raise InvalidName(
            f"`{ref}` is no reference.",
            how="Write name, name@3, name@alias or name@sha256:abcd",
            ref=ref,
        )
    if selector.startswith("sha256:"):
        prefix = selector.removeprefix("sha256:").lower()
        if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST_PREFIX},64}}", prefix):
            raise InvalidName(
                f"`{ref}` does not name a digest.",
                f"A prefix has {SHORTEST_PREFIX} to 64 hex digits.",
                ref=ref,
            )
        selector = f"sha256:{prefix}"
    return Reference(name, selector)


def check_alias(alias: str) -> None:
    """Refuse an alias that could be read as something else.

    Raises:
        InvalidName: not a letter followed by letters, digits, `.`, `_`, `-`; or reserved.
    """
    if alias.lower() in _RESERVED or len(alias) > 96 or not _ALIAS.fullmatch(alias):
        raise InvalidName(
            f"`{alias}` cannot be an alias.",
            "An alias begins with a letter, holds letters, digits, `.`, `_`, `-`, has at most 96 "
            "of them, and is not `latest` or `sha256`.",
            alias=alias,
        )


def resolve(connection: Connection, ref: str, *, removed: bool = False) -> int:
    """Row id of the version a reference names.

    Args:
        removed: whether a removed version may be named (by number or by digest).
    Raises:
        NotFound: says what there is, or when and why the version was removed.
        AmbiguousReference: the prefix fits several digests; `candidates` lists the versions.
    """
    name, selector = parse(ref)
    entry_id = connection.scalar(select(t.entries.c.id).where(t.entries.c.name == name))
    if entry_id is None:
        raise NotFound(
            f"There is no entry `{name}`.", how=_suggest(connection, name), ref=ref, name=name
        )
    if selector.isdecimal() and selector.isascii():
        return _numbered(connection, ref, name, entry_id, int(selector), removed)
    if selector.startswith("sha256:"):
        return _digested(connection, ref, name, entry_id, selector, removed)
    if selector in ("", "latest"):
        newest = select(t.versions.c.id).where(t.versions.c.entry_id == entry_id)
        newest = newest.order_by(t.versions.c.number.desc()).limit(1)
        live = connection.scalar(newest.where(t.versions.c.removed_at.is_(None)))
        found = connection.scalar(newest) if live is None and removed else live
        if found is None:
            raise NotFound(
                f"All versions of `{name}` were removed.",
                how=f"Their lineage remains: zoo lineage {name}@1",
                ref=ref,
                name=name,
            )
        return int(found)
    aliased = connection.scalar(
        select(t.aliases.c.version_id).where(
            t.aliases.c.entry_id == entry_id, t.aliases.c.alias == selector
        )
    )
    if aliased is None:
        known = connection.scalars(
            select(t.aliases.c.alias).where(t.aliases.c.entry_id == entry_id).order_by("alias")
        )
        raise NotFound(
            f"`{name}` has no alias `{selector}`.",
            how=_digest_hint(name, selector)
            or did_you_mean(selector, list(known))
            or f"Set it: zoo alias {name} {selector}",
            ref=ref,
            name=name,
            alias=selector,
        )
    return int(aliased)


def _numbered(
    connection: Connection, ref: str, name: str, entry_id: int, number: int, removed: bool
) -> int:
    v = t.versions.c
    row = None
    if number < 2**63:
        row = connection.execute(
            select(v.id, v.removed_at, v.removed_reason).where(
                v.entry_id == entry_id, v.number == number
            )
        ).one_or_none()
    if row is None:
        last = connection.scalar(select(t.entries.c.last_number).where(t.entries.c.id == entry_id))
        raise NotFound(
            f"`{name}` has no version {number}.",
            how=f"Its newest is {name}@{last}. List them: zoo ls --where \"name = '{name}'\"",
            ref=ref,
            name=name,
            last=last,
        )
    if row.removed_at and not removed:
        raise NotFound(
            f"`{name}@{number}` was removed at {row.removed_at}"
            + (f": {row.removed_reason}." if row.removed_reason else "."),
            how=f"Its lineage remains: zoo lineage {name}@{number}",
            ref=ref,
            name=name,
            removed_at=row.removed_at,
            reason=row.removed_reason,
        )
    return int(row.id)


def _digested(
    connection: Connection, ref: str, name: str, entry_id: int, prefix: str, removed: bool
) -> int:
    v, digest = t.versions.c, t.manifests.c.digest
    query = (
        select(v.id, v.number, digest)
        .join(t.manifests)
        # The sum keeps SQLite from walking all versions of the entry: few digests fit a prefix.
        .where(v.entry_id + 0 == entry_id, starts_with(digest, prefix))
        .order_by(v.number)
    )
    rows = connection.execute(query if removed else query.where(v.removed_at.is_(None))).all()
    if not rows:
        raise NotFound(f"No version of `{name}` has a digest like {prefix}.", ref=ref, name=name)
    if len({row.digest for row in rows}) > 1:
        candidates = [f"{name}@{row.number} ({row.digest})" for row in rows]
        raise AmbiguousReference(
            f"`{ref}` fits {len(rows)} versions: {', '.join(candidates[:_LISTED])}"
            + (", ..." if len(rows) > _LISTED else "."),
            how="Give more digits.",
            ref=ref,
            candidates=[f"{name}@{row.number}" for row in rows],
        )
    return int(rows[-1].id)  # the same weights registered twice: the newer description


def _digest_hint(name: str, selector: str) -> str:
    """How to name a version by the digits that a table shows, where they look like that."""
    is_hex = re.fullmatch(rf"[0-9a-f]{{{SHORTEST_PREFIX},64}}", selector)
    return f"For the digest write {name}@sha256:{selector}" if is_hex else ""


def starts_with(column: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
    """A prefix test that uses the index: `g` comes after every hex digit."""
    return (column >= prefix) & (column < prefix + "g")


def _suggest(connection: Connection, name: str) -> str:
    query = (
        select(t.entries.c.name)
        .order_by(func.abs(func.length(t.entries.c.name) - len(name)), t.entries.c.name)
        .limit(_SHOWN)
    )
    known = list(connection.scalars(query))
    if not known:
        return "The registry is empty: zoo register PATH --name NAME"
    hint = did_you_mean(name, known)
    return hint if hint.startswith("Did") or len(known) <= 8 else "List them: zoo ls"
