"""Whose bytes a version needs besides its own: they stay in the store as long as it lives."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Select, select

from zoo.catalog import tables as t
from zoo.overlays.overlay import FOLDER


def needed_by(chosen: ColumnElement[bool]) -> Select[int]:
    """Row ids of the versions, removed or not, whose bytes some live versions need.

    A task's model has values of the base that its overlay was made with. An adapter is nothing
    without its base, which may itself be an adapter.

    Args:
        chosen: which versions are asked about; those that were removed need nothing.
    """
    f, v, i = t.files.c, t.versions.c, t.run_inputs.c
    live = chosen & v.removed_at.is_(None)
    runs = (
        select(v.run_id).join(t.files, f.version_id == v.id).where(live, f.path.startswith(FOLDER))
    )
    bases = select(i.version_id.label("id")).where(i.role == "base", i.run_id.in_(runs))
    below = (
        select(v.base_id.label("id"))
        .where(live, v.kind == "adapter", v.base_id.is_not(None))
        .cte("below", recursive=True)
    )
    below = below.union(
        select(v.base_id).where(v.id == below.c.id, v.kind == "adapter", v.base_id.is_not(None))
    )
    return bases.union(select(below.c.id)).subquery().select()
