"""Pull: a model on a hub as the next version of an entry, unless that commit is there already."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from zoo.catalog.origins import hub_model
from zoo.checkpoint import Opened
from zoo.declarations.records import Declared
from zoo.declared import read_declared
from zoo.errors import InvalidName, NotFound
from zoo.hub.names import SCHEME, HubName, read_name
from zoo.hub.outline import read_whole
from zoo.hub.source import HubSource
from zoo.hub.transport import Transport
from zoo.names import check_entry_name
from zoo.progress import Progress
from zoo.records import Version

if TYPE_CHECKING:
    from zoo.registry import Registry

_TELLING = (
    *("README.md", "config.json", "adapter_config.json"),
    *("mergekit_config.yml", "mergekit_config.yaml", "zoo_recipe.json"),
)
"""Files that say what a model was made from."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull came to."""

    version: Version
    fresh: bool
    """Whether the version is new; False when its commit was there already."""


def pull(
    registry: Registry,
    source: str,
    *,
    name: str | None = None,
    kind: str | None = None,
    base: str | None = None,
    progress: Progress | None = None,
    **about: Any,
) -> Pulled:
    """Bring a model from a hub, or the newer commit of one that was brought.

    Args:
        source: `hf://org/model@rev`; or a version that was pulled, whose branch may have moved.
        name: the entry; the repository's name, or that of the version, by default.
        kind: by default what the model's files tell: `base` where they name no parent, `expert`
            where they name one, `merge` where they name several.
        base: version it was fine-tuned from; by default the one that was pulled from where the
            model's files say that it came from.
        about: task, phase, licence, tags, threads, as for `register`.
    Raises:
        NotFound: no such model, revision, entry; or a version that came from no hub.
        InvalidName: an entry of that name holds another model.
        InvalidCheckpoint, StoreError
    """
    asked, entry = _asked(registry, source)
    remote = HubSource(asked)
    entry = name or entry or asked.stem
    known = _versions(registry, entry)
    for version in known:
        if _hub(version).get("commit") == remote.revision.commit and _is_of(version, asked):
            return Pulled(version, fresh=False)
    if name is None and known and not any(_is_of(v, asked) for v in known):
        raise InvalidName(
            f"The entry `{entry}` holds another model, from `{known[-1].source}`:",
            f"`{asked.repo}` would be mixed with it.",
            f"Give it a name of its own: `zoo pull {source} --name NAME`.",
            name=entry,
        )
    if kind is None or base is None:
        declared = _declared(remote)
        kind = kind or _kind(declared)
        base = base or _base(registry, declared)
    version = registry.register(
        asked.at(asked.revision), name=entry, kind=kind, base=base, progress=progress, **about
    )
    return Pulled(version, fresh=True)


def _asked(registry: Registry, source: str) -> tuple[HubName, str | None]:
    """The model that is meant, and the entry that has it."""
    if (found := read_name(source)) is not None:
        return found, None
    version = registry.get(source)
    hub = _hub(version)
    if not hub:
        raise NotFound(
            f"`{version.ref}` came from no hub, but from `{version.source}`:",
            "there is no branch that could have moved.",
            "Name the model: `zoo pull hf://org/model`.",
            ref=version.ref,
        )
    asked = HubName(hub["repo"], hub["revision"], hub.get("path", ""))
    if _COMMIT.fullmatch(asked.revision):
        raise NotFound(
            f"`{version.ref}` was pulled by its commit, {asked.revision}:",
            "a commit never moves.",
            f"Name a branch to follow: `zoo pull {SCHEME}{asked.repo}@main --name {version.name}`.",
            ref=version.ref,
        )
    return asked, version.name


def _declared(remote: HubSource) -> Declared:
    """What the small files of a model say of it."""
    with TemporaryDirectory(prefix="zoo-declared-") as folder:
        found: dict[str, Path] = {}
        for path in _TELLING:
            if file := remote.chosen.beside.get(path):
                found[path] = Path(folder, path)
                found[path].write_bytes(read_whole(Transport(), remote.revision, file))
        return read_declared(Opened(remote.origin, auxiliary=found))


def _kind(declared: Declared) -> str:
    return ("base", "expert", "merge")[min(2, len(declared.parents))]


def _base(registry: Registry, declared: Declared) -> str | None:
    """The version of the one base that it says it has, if that was pulled, or has the digest that
    a pushed version's card gives of it."""
    bases = [p for p in declared.parents if p.role == "base"] or list(declared.parents)
    if len(bases) != 1:
        return None
    told = bases[0].weights or ""
    if _DIGEST.fullmatch(told):  # a card is text that anybody wrote
        same = registry.select(f"digest = '{told}' and kind <> 'artifact'", "created_at")
        if same:
            return same[-1].ref
    named = hub_model(bases[0].source or f"{SCHEME}{bases[0].model}")
    if named is None:
        return None
    found = registry.select(f"source like '{SCHEME}{named.id}@%'", "created_at")
    own = [v for v in found if _hub(v).get("repo") == named.id]
    same = [v for v in own if bases[0].weights in (None, v.digest)]
    return same[-1].ref if same else None


def _versions(registry: Registry, entry: str) -> list[Version]:
    """The versions of an entry, oldest first."""
    return registry.select(f"name = '{check_entry_name(entry)}'", "version")


def _hub(version: Version) -> Mapping[str, Any]:
    found = version.notes.get("hub")
    return found if isinstance(found, Mapping) else {}


def _is_of(version: Version, asked: HubName) -> bool:
    hub = _hub(version)
    return (hub.get("repo"), hub.get("path", "")) == (asked.repo, asked.path)
