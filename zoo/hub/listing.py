"""A revision of a model on a hub: its commit, and the commit's files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import quote

from zoo.errors import InvalidCheckpoint, InvalidName
from zoo.hub.names import HubName
from zoo.hub.transport import Transport
from zoo.names import check_relative_path

MOST_FILES = 20_000
"""In one repository; a model has fewer than a thousand."""
MOST_PAGES = 1_000
LARGEST = 2**50
"""Bytes of one file: 1 PiB."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a commit, as the hub describes it."""

    path: str
    """Checked: it stays inside a directory it is joined to."""
    size: int
    """Bytes."""
    blob: str
    """sha1 of the git blob, 40 hex digits."""
    sha256: str | None
    """Of the bytes, where the file is kept as a large one (LFS)."""

    @property
    def key(self) -> str:
        """What the hub's cache calls the bytes; the `ETag` the hub gives."""
        return self.sha256 or self.blob


@dataclass(frozen=True, slots=True)
class Revision:
    """A model at one commit."""

    name: HubName
    commit: str
    """40 hex digits."""
    endpoint: str

    @property
    def pinned(self) -> str:
        """The source that means this commit for ever."""
        return self.name.at(self.commit)

    def url(self, path: str) -> str:
        """Where a file's bytes are."""
        return f"{self.endpoint}/{self.name.repo}/resolve/{self.commit}/{quote(path)}"


def find_revision(transport: Transport, name: HubName) -> Revision:
    """The commit that a name stands for now.

    Raises:
        NotFound: no such model or revision, or it is private.
        StoreError, InvalidCheckpoint
    """
    asked = quote(name.revision, safe="")
    url = f"{transport.endpoint}/api/models/{name.repo}/revision/{asked}"
    found, _ = transport.json(f"{url}?expand=sha")
    commit = found.get("sha") if isinstance(found, dict) else None
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise InvalidCheckpoint(
            f"`{url}` names no commit:",
            "a revision stands for one, of 40 hexadecimal digits.",
            "Check HF_ENDPOINT.",
            url=url,
        )
    if _COMMIT.fullmatch(name.revision) and name.revision != commit:
        raise InvalidCheckpoint(
            f"`{url}` answers with commit {commit}:",
            "a commit stands for itself, and what was asked for was pinned.",
            url=url,
        )
    return Revision(name, commit, transport.endpoint)


def list_files(transport: Transport, revision: Revision) -> dict[str, HubFile]:
    """The files of a commit, by path.

    Raises:
        InvalidCheckpoint: a name that leads out of the directory, or a listing without end.
        NotFound, StoreError
    """
    start = f"{revision.endpoint}/api/models/{revision.name.repo}/tree/{revision.commit}"
    page: str | None = f"{start}?recursive=true&expand=false"
    found: dict[str, HubFile] = {}
    pages = 0
    while page is not None:
        entries, page = transport.json(page)
        pages += 1
        if not isinstance(entries, list):
            raise InvalidCheckpoint(f"`{start}` is no list of files.", url=start)
        for entry in entries:
            if isinstance(entry, Mapping) and entry.get("type") == "directory":
                continue
            file = _file(entry, revision)
            if file.path in found:
                _refuse(revision, f"`{file.path}` is there twice")
            found[file.path] = file
        if pages > MOST_PAGES or len(found) > MOST_FILES:
            _refuse(revision, f"it has over {MOST_FILES:,} files, or no end")
    return found


def _file(entry: Any, revision: Revision) -> HubFile:
    """One entry of a listing, checked."""
    if not isinstance(entry, Mapping) or not isinstance(path := entry.get("path"), str):
        _refuse(revision, "an entry has no path")
    try:
        check_relative_path(path)
    except InvalidName as error:
        _refuse(revision, str(error))
    large = entry.get("lfs")
    if large is not None and not isinstance(large, Mapping):
        _refuse(revision, f"`{path}` has no possible hash")
    size = large.get("size") if large else entry.get("size")
    if type(size) is not int or not 0 <= size <= LARGEST:
        _refuse(revision, f"`{path}` has no possible size")
    blob, sha256 = entry.get("oid"), large.get("oid") if large else None
    if not isinstance(blob, str) or not _COMMIT.fullmatch(blob):
        _refuse(revision, f"`{path}` has no possible hash")
    if large and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        _refuse(revision, f"`{path}` has no possible hash")
    return HubFile(path, size, blob, sha256)


def _refuse(revision: Revision, problem: str) -> NoReturn:
    raise InvalidCheckpoint(
        f"The hub's list of the files of `{revision.pinned}` cannot be used:",
        f"{problem.rstrip('.')}.",
        "Nothing was downloaded.",
        source=revision.pinned,
        problem=problem,
    )
