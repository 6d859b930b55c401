"""What strangers wrote, as plain data of bounded size: nothing here raises, runs code or grows.

YAML has three ways to make a small text large: aliases of aliases, merge keys of merge keys, and
nesting. A text that uses one beyond reason reads as nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

LARGEST = 256_000
"""Characters of a text that is read. The longest front matter on the Hub is a tenth of it."""
MOST_VALUES = 4_000
"""Values kept of one text, aliases written out."""
LONGEST = 10_000
"""Characters kept of one string; the longest that have a meaning here are merge recipes."""
DEEPEST = 30
"""Levels of nesting kept."""


def yaml_mapping(text: str) -> dict[str, Any]:
    """A YAML document that is a mapping, plain; empty when it is none, or beyond reason."""
    if not text or text.isspace():
        return {}
    import yaml

    if len(text) > LARGEST or _brackets(text) > 4 * DEEPEST:
        return {}
    try:
        loader = _loader()(text)
        try:
            found = loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, AttributeError):
        return {}
    return mapping(plain(found))


def json_mapping(text: str, largest: int = LARGEST) -> dict[str, Any]:
    """A JSON object, plain; empty when it is none, or beyond reason."""
    if not text or len(text) > largest:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return mapping(plain(found))


def plain(value: Any) -> Any:
    """The value as JSON can hold it, or None when it has too many parts or levels."""
    try:
        return _plain(value, [MOST_VALUES], DEEPEST)
    except _TooLarge:
        return None


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is a mapping; an empty one otherwise."""
    return dict(value) if isinstance(value, Mapping) else {}


def listed(value: Any) -> list[Any]:
    """The value if it is a list; one value as a list of it; none for None."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def text(value: Any, longest: int = 500) -> str | None:
    """The value if it is a text of one short line or more, and not blank; None otherwise."""
    if not isinstance(value, str) or not value.strip() or len(value) > longest:
        return None
    return value.strip()


def number(value: Any) -> float | None:
    """The value if it is a finite number; None otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


class _TooLarge(Exception):
    pass


def _plain(value: Any, left: list[int], levels: int) -> Any:
    left[0] -= 1
    if left[0] < 0 or levels < 0:
        raise _TooLarge
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**63 else None
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {_text(str(k)): _plain(v, left, levels - 1) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(v, left, levels - 1) for v in value]
    return _text(str(value))


def _text(value: str) -> str:
    """Cut, and without what UTF-8 or PostgreSQL cannot hold."""
    return value[:LONGEST].encode("utf-8", "replace").decode().replace("\0", "")


def _brackets(text: str) -> int:
    """How deep brackets are nested, those in strings counted as well."""
    depth = deepest = 0
    for mark in re.findall(r"[][{}]", text):
        depth += 1 if mark in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


@cache
def _loader() -> type[Any]:
    """YAML's safe loader, without times, and without the merge keys that multiply."""
    import yaml

    class Loader(yaml.SafeLoader):
        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            pass

    left_out = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:merge")
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag not in left_out]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return Loader
