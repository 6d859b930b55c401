"""The plain sha256 of stored weights files, which the store names by another digest.

Whatever publishes or compares whole files needs it. It is worked out when it is asked for, from
the bytes that are there; what was found is remembered, for guesses only, so that a parent that is
known by the sha256 of its file is recognised later.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from uuid import uuid4

from zoo.digest import flat_key_of_file
from zoo.storage.known_digests import cache_directory
from zoo.storage.store import Store

_log = logging.getLogger("zoo")


def flat_digests(store: Store, keys: Iterable[str]) -> dict[str, str]:
    """Object key -> `sha256:` of the file's bytes.

    Raises:
        FileNotFoundError: an object is not in the store.
    """
    found = {
        key: (key if key.startswith("flat:") else flat_key_of_file(store.path(key))).replace(
            "flat:", "sha256:"
        )
        for key in dict.fromkeys(keys)
    }
    _remember({key: digest for key, digest in found.items() if not key.startswith("flat:")})
    return found


def remembered() -> dict[str, str]:
    """What was worked out before, by object key; empty where nothing is kept."""
    path = _path()
    try:
        found = json.loads(path.read_bytes()) if path else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}


def _remember(fresh: Mapping[str, str]) -> None:
    path, known = _path(), remembered()
    if path is None or fresh.items() <= known.items():
        return
    partial = path.with_name(f".{path.name}-{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({**known, **fresh}))
        partial.replace(path)
    except OSError as error:
        _log.debug("digests of files are not remembered: %s", error)


def _path() -> Path | None:
    directory = cache_directory()
    return directory / "flat-digests.json" if directory else None
