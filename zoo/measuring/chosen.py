"""The versions that something is asked of: those that are named, or those that a query selects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from zoo.errors import InvalidRecipe, NotFound
from zoo.storage.artifacts import KIND as ARTIFACT

if TYPE_CHECKING:
    from zoo.records import Version
    from zoo.registry import Registry


def is_query(where: str | None, order_by: str | None, limit: int | None) -> bool:
    """Whether any part of a query is given."""
    return not (where is None and order_by is None and limit is None)


def named_or_selected(
    registry: Registry,
    refs: Iterable[str] | None,
    where: str | None,
    order_by: str | None,
    limit: int | None,
    nothing: str = "",
) -> list[Version]:
    """The versions that are named, each once, or that a query selects.

    Args:
        nothing: what it means that there are none, for the message.
    Raises:
        InvalidRecipe: both are given, or neither.
        NotFound: there is no such version, or the query finds none.
    """
    listed = list(refs or ())
    if bool(listed) == is_query(where, order_by, limit):
        raise InvalidRecipe("Name the versions, or select them by a query; one of the two.")
    if listed:
        return list({v.id: v for v in map(registry.get, listed)}.values())
    return selected(registry, where, order_by, limit, nothing)


def selected(
    registry: Registry,
    where: str | None,
    order_by: str | None,
    limit: int | None,
    nothing: str = "",
) -> list[Version]:
    """The versions that a query selects, but for artifacts: these are no models.

    Raises:
        NotFound: there are none; `nothing` says what that means.
    """
    found = [v for v in registry.select(where, order_by, limit) if v.kind != ARTIFACT]
    if not found:
        raise NotFound(
            f"No version fits `{where or 'everything'}`.",
            nothing,
            "Try the query with `zoo ls --where`.",
            where=where,
        )
    return found
