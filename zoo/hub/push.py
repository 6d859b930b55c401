"""Push: a version's directory as a commit on a hub. What is there already is not sent again.

    weights       sharded as stored, with their index
    beside        configuration, tokenizer, code, overlays
    README.md     the version's card, with its lineage
    recipe        mergekit_config.yml and zoo_recipe.json, where a merge has them

The commit is made by huggingface_hub. It sends large files by the Xet protocol whenever its library
is installed, which only some hubs speak; a hub that does not gets them by Git LFS.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from zoo.cards.card import CARD
from zoo.cards.version_card import version_card
from zoo.errors import InvalidName, NotFound, StoreError, ZooError
from zoo.hub.blobs import holds, matches
from zoo.hub.listing import HubFile, find_revision, list_files
from zoo.hub.names import HubName, check_repo
from zoo.hub.publishable import publishable
from zoo.hub.transport import Interrupted, Transport
from zoo.records import Version

if TYPE_CHECKING:
    from zoo.registry import Registry

_WEIGHTS = (".safetensors", ".safetensors.index.json")

Content = Path | bytes


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push came to."""

    version: Version
    repo: str
    revision: str
    """The branch."""
    commit: str
    url: str
    """Where a person sees the commit."""
    sent: tuple[str, ...]
    """Paths that were committed, in order."""
    removed: tuple[str, ...]
    """Weights of an earlier version that this one does not have."""
    same: tuple[str, ...]
    """Paths that were there already, with the same bytes."""


def push(
    registry: Registry,
    ref: str,
    repo: str,
    *,
    revision: str = "main",
    create: bool = False,
    private: bool = False,
) -> Pushed:
    """Put a version on a hub.

    Args:
        repo: `org/model`.
        revision: the branch; made when it is not there.
        create: make the repository when it is not there.
        private: whether a repository that is made is seen by its owners only.
    Raises:
        NotFound: no such version, repository, or no right to write there.
        InvalidName: the name is none of a repository.
        InvalidCheckpoint: a file holds what looks like a token.
        StoreError: the network or the hub failed; nothing was committed.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    version = registry.get(ref)
    name = HubName(check_repo(repo.removeprefix("hf://")), revision)
    contents = _contents(registry, version)
    transport = Transport()
    api = HfApi(endpoint=transport.endpoint, library_name="zoo")
    with ExitStack() as stack, warnings.catch_warnings():
        # The library calls its HTTP client in a way that the client warns of.
        warnings.simplefilter("ignore", DeprecationWarning)
        stack.enter_context(_refused(name))
        if create:
            api.create_repo(name.repo, private=private or None, exist_ok=True)
        there, parent = _there(transport, name, api)
        same = [p for p, content in contents.items() if _is_there(content, there.get(p))]
        sent = [p for p in sorted(contents) if p not in same]
        removed = _stale(there, contents)
        if not sent and not removed:
            url = f"{transport.endpoint}/{name.repo}/commit/{parent}"
            return Pushed(version, name.repo, revision, parent, url, (), (), tuple(sorted(same)))
        by_xet = _takes_xet(transport, name)
        operations: list[Any] = [
            CommitOperationAdd(path, _given(contents[path], by_xet, stack)) for path in sent
        ]
        operations += [CommitOperationDelete(path, is_folder=False) for path in removed]
        made = api.create_commit(
            name.repo,
            operations,
            commit_message=f"Push {version.ref} with zoo",
            commit_description=f"Weights digest: {version.digest}",
            revision=revision,
            parent_commit=parent,
        )
    return Pushed(
        version,
        name.repo,
        revision,
        made.oid,
        made.commit_url,
        tuple(sent),
        tuple(removed),
        tuple(sorted(same)),
    )


def _contents(registry: Registry, version: Version) -> dict[str, Content]:
    """The files of a version as they are published."""
    files = registry.catalog.files(version.id)
    if lost := [f for f in files if not registry.store.has(f.object)]:
        raise NotFound(
            f"The bytes of `{version.ref}` are not in the store:",
            f"`{lost[0].path}` is missing.",
            "Run `zoo fsck`.",
            ref=version.ref,
        )
    found: dict[str, Content] = {f.path: registry.store.path(f.object) for f in files}
    found[CARD] = version_card(registry, version)
    return {path: publishable(path, content) for path, content in found.items()}


def _there(transport: Transport, name: HubName, api: Any) -> tuple[dict[str, HubFile], str]:
    """The files of the branch as it is, and its commit; a branch that is not there is made."""
    try:
        at = find_revision(transport, name)
    except NotFound as missing:
        if missing.facts.get("code") != "RevisionNotFound":
            raise NotFound(
                f"`{name.repo}` is not at {transport.endpoint}, or your token does not open it:",
                "there is nowhere to push to.",
                f"Make it: `zoo push REF {name.repo} --create`; or say who you are: "
                "`hf auth login`.",
                repo=name.repo,
            ) from missing
        api.create_branch(name.repo, branch=name.revision, exist_ok=True)
        at = find_revision(transport, name)
    return list_files(transport, at), at.commit


def _stale(there: Collection[str], contents: Collection[str]) -> list[str]:
    """Weights that would be read together with this version's: those beside them."""
    folders = {p.rpartition("/")[0] for p in contents if p.endswith(_WEIGHTS)}
    return sorted(
        p
        for p in there
        if p.endswith(_WEIGHTS) and p not in contents and p.rpartition("/")[0] in folders
    )


def _is_there(content: Content, listed: HubFile | None) -> bool:
    if listed is None:
        return False
    return matches(content, listed) if isinstance(content, bytes) else holds(content, listed)


def _given(content: Content, by_xet: bool, stack: ExitStack) -> Any:
    """A file as huggingface_hub takes it: open files go by LFS, and paths by Xet."""
    if isinstance(content, bytes) or by_xet:
        return content
    return stack.enter_context(content.open("rb"))


def _takes_xet(transport: Transport, name: HubName) -> bool:
    """Whether the hub speaks the Xet protocol."""
    branch = quote(name.revision, safe="")
    url = f"{transport.endpoint}/api/models/{name.repo}/xet-write-token/{branch}"
    try:
        with transport.get(url):
            return True
    except Interrupted:
        raise
    except ZooError:
        return False


@contextmanager
def _refused(name: HubName) -> Iterator[None]:
    """The errors of huggingface_hub in our words."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except ZooError:
        raise
    except HFValidationError as error:
        raise InvalidName(
            f"`{name.repo}` names no repository on a hub:", f"{error}.", repo=name.repo
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403, 404):
            raise NotFound(
                f"`{name.repo}` cannot be written (status {status}):",
                "there is no such repository, or your token may not write there.",
                "Say who you are: `hf auth login`, with a token that may write.",
                repo=name.repo,
            ) from error
        why = "somebody else pushed meanwhile." if status == 412 else "the hub refused the request."
        raise StoreError(
            f"Pushing to `{name.repo}` failed (status {status}):",
            why,
            "Nothing was committed. Push again: what was sent is not sent again.",
            repo=name.repo,
            status=status,
        ) from error
    except Exception as error:
        # Whichever client and protocol it is that gives up.
        raise StoreError(
            f"Pushing to `{name.repo}` failed:",
            f"{type(error).__name__}, {ascii(str(error))[1:200]}.",
            "Nothing was committed. Push again: what was sent is not sent again.",
            repo=name.repo,
        ) from error
