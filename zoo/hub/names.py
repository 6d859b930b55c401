"""`hf://org/model@rev/path`: what a source on a hub is called."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from zoo.errors import InvalidName
from zoo.names import check_relative_path

SCHEME = "hf://"
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_NAME = re.compile(
    rf"(?P<repo>{_PART}(?:/{_PART})?)"
    r"(?:@(?P<revision>refs/(?:pr|convert)/[^/@]+|[^/@]+))?"
    r"(?:/(?P<path>.+))?"
)
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")
_LONGEST_REPO = 96
"""Characters; the Hub's own limit."""


@dataclass(frozen=True, slots=True)
class HubName:
    """A model on a hub."""

    repo: str
    """`org/model`, or `model` of the oldest ones."""
    revision: str
    """Branch, tag or commit."""
    path: str = ""
    """The one file, or the folder, that is meant; empty for the whole."""

    def at(self, revision: str) -> str:
        """The same model at another revision, as a source."""
        return f"{SCHEME}{self.repo}@{revision.replace('/', '%2F')}" + (
            f"/{self.path}" if self.path else ""
        )

    @property
    def stem(self) -> str:
        """What an entry for it is called: the last part of the repository's name."""
        return self.repo.rpartition("/")[2]


def read_name(source: str) -> HubName | None:
    """The model that a source names, or None when it is nothing on a hub.

    A slash in a branch is written `%2F`, because what follows a slash is a path in the repository.

    Raises:
        InvalidName: it begins as one, and cannot be one.
    """
    if not source.startswith(SCHEME):
        return None
    match = _NAME.fullmatch(source.removeprefix(SCHEME))
    found = match and HubName(
        match["repo"], unquote(match["revision"] or "main"), match["path"] or ""
    )
    if found is None or (problem := _problem(found)):
        raise InvalidName(
            f"`{ascii(source)[1:-1]}` names no model on a hub:",
            "it is written `hf://org/model`, `hf://org/model@revision` or "
            f"`hf://org/model@revision/file`{f', and {problem}' if found else ''}.",
            "Copy the name from the model's page.",
            source=source,
        )
    return found


def check_repo(repo: str) -> str:
    """The name itself, when it may name a repository.

    Raises:
        InvalidName
    """
    found = read_name(SCHEME + repo)
    if found is None or found.repo != repo:
        raise InvalidName(
            f"`{ascii(repo)[1:-1]}` names no repository on a hub:",
            "it is written `org/model`.",
            repo=repo,
        )
    return repo


def _problem(found: HubName) -> str:
    if len(found.repo) > _LONGEST_REPO:
        return f"a repository's name has at most {_LONGEST_REPO} characters"
    if ".." in found.repo or "--" in found.repo or found.repo.endswith((".", "-", ".git")):
        return "`..`, `--`, and a `.`, `-` or `.git` at the end are not allowed"
    if not _REVISION.fullmatch(found.revision) or ".." in found.revision:
        return "the revision is no branch, tag or commit"
    if found.path:
        try:
            check_relative_path(found.path)
        except InvalidName:
            return "the path leads out of the repository"
    return ""
