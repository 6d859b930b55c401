"""A model on a hub as a source: looked at by its headers, fetched when it has passed."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from zoo.hub.blobs import bring
from zoo.hub.chosen import Chosen, choose, choose_path
from zoo.hub.listing import HubFile, Revision, find_revision, list_files
from zoo.hub.names import HubName
from zoo.hub.outline import read_index, write_outline
from zoo.hub.transport import Transport
from zoo.progress import Progress
from zoo.source import RemoteSource
from zoo.storage.links import LinkMode


class HubSource(RemoteSource):
    """A model at the commit that its revision stood for when it was asked for."""

    link_mode: LinkMode = "share"

    def __init__(self, name: HubName, transport: Transport | None = None) -> None:
        """
        Raises:
            NotFound, StoreError, InvalidCheckpoint
        """
        self._transport = transport or Transport()
        self.revision: Revision = find_revision(self._transport, name)
        self.origin = self.revision.pinned
        self.notes: Mapping[str, Any] = {
            "hub": {
                "repo": name.repo,
                "revision": name.revision,
                "commit": self.revision.commit,
                "endpoint": self._transport.endpoint,
                **({"path": name.path} if name.path else {}),
            }
        }

    @property
    def is_file(self) -> bool:
        """Whether one file of the repository was named, not the repository nor a folder."""
        return self.revision.name.path in self._listed

    @cached_property
    def _listed(self) -> dict[str, HubFile]:
        return list_files(self._transport, self.revision)

    @cached_property
    def chosen(self) -> Chosen:
        """The files that make up the model."""
        files, path = self._listed, self.revision.name.path
        if path:
            files = choose_path(files, path, self.origin)
        return choose(files, self._files_of_index, self.origin)

    def _files_of_index(self, file: HubFile) -> set[str]:
        return read_index(self._transport, self.revision, file)

    @property
    def has_headers(self) -> bool:
        return not self.chosen.pickled

    def outline(self, folder: Path) -> Path:
        chosen = self.chosen
        write_outline(self._transport, self.revision, chosen, folder)
        return folder / next(iter(chosen.weights)) if self.is_file else folder

    def identity(self, file: str) -> str:
        found = self.chosen.weights.get(file) or self.chosen.beside.get(file)
        return found.key if found else ""

    def fetch(self, progress: Progress) -> Path:
        chosen = self.chosen.all
        snapshot = bring(self._transport, self.revision, chosen, progress)
        below = snapshot / self.revision.name.path
        if self.is_file or _files(below) == chosen.keys():
            return below
        # Something else brought more of this commit than makes up the model.
        return _linked({path: snapshot / file.path for path, file in chosen.items()})


def _files(folder: Path) -> set[str]:
    return {
        Path(at, name).relative_to(folder).as_posix()
        for at, _, names in os.walk(folder)
        for name in names
    }


def _linked(files: Mapping[str, Path]) -> Path:
    """A directory of links to files, which is there as long as this process."""
    folder = Path(tempfile.mkdtemp(prefix="zoo-hub-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for path, target in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).symlink_to(target.resolve())
    return folder
