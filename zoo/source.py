"""Where a model comes from: a path on this machine, or a place whose headers can be looked at
before any weight is moved.

    source (what a user writes) -> Path, or RemoteSource
                                     ├─ outline   headers only: what pre-flight looks at
                                     └─ fetch     the whole, once pre-flight has passed
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from zoo.checkpoint import Checkpoint, Format, MemoryCheckpoint, Opened
from zoo.errors import InvalidCheckpoint, NotFound, UnsupportedFormat, ZooError
from zoo.progress import NoProgress, Progress
from zoo.storage.links import LinkMode

if TYPE_CHECKING:
    from zoo.registry import Registry


class RemoteSource(ABC):
    """A model that is not on this machine, at one fixed revision. Plugins return one from
    `zoo_resolve_source`."""

    origin: str
    """What the record says it came from, the revision pinned: `hf://org/model@COMMIT`."""
    notes: Mapping[str, Any]
    """Kept with the version: the revision that was asked for, the commit it stood for."""
    link_mode: LinkMode = "clone"
    """How fetched files best get into the store: `share` where nobody ever edits them."""

    @property
    def has_headers(self) -> bool:
        """Whether the weights can be looked at before they are fetched; pickles cannot."""
        return True

    @abstractmethod
    def outline(self, folder: Path) -> Path:
        """Build an outline of the model in an empty folder, and return its path.

        Small files (configuration, tokenizer, index) are there as they are. Weights files have
        their header, their size, and no content: any format opens them, nobody can read a tensor.
        Those without a header are not there. Bytes moved are bounded, whatever the other side says.

        Raises:
            NotFound, InvalidCheckpoint, StoreError: says what is wrong there, or with the network.
        """

    def identity(self, file: str) -> str:
        """What the other side says identifies a file's bytes, such as a hash; empty if nothing."""
        return ""

    @abstractmethod
    def fetch(self, progress: Progress) -> Path:
        """Bring everything here and return where it lies. What an earlier call brought is kept.

        Raises:
            NotFound, InvalidCheckpoint, StoreError
        """


def resolve_source(registry: Registry, source: str | Path) -> Path | RemoteSource:
    """What a source stands for.

    Raises:
        NotFound: it is no path, and no plugin resolves it.
        UnsupportedFormat: neither a regular file nor a directory: to open a pipe may wait for ever.
    """
    path = Path(source)
    if path.exists():
        return _plain(path)
    resolved: Path | RemoteSource | None = registry.plugins.ask(
        "zoo_resolve_source", source=str(source)
    )
    if isinstance(resolved, RemoteSource):
        return resolved
    if resolved is not None:
        return _plain(Path(resolved))
    scheme, separator, _ = str(source).partition("://")
    if separator:
        raise NotFound(
            f"Nothing here resolves `{source}`:",
            f"no plugin answers for `{scheme}://`.",
            "Install a plugin that does, or give a local path.",
            source=str(source),
        )
    raise NotFound(f"`{source}` does not exist.", source=str(source))


def local_path(registry: Registry, source: str | Path, progress: Progress | None = None) -> Path:
    """The path of a source on this machine; it is fetched if it is elsewhere.

    Raises:
        NotFound, InvalidCheckpoint, UnsupportedFormat, StoreError
    """
    found = resolve_source(registry, source)
    return found if isinstance(found, Path) else found.fetch(progress or NoProgress())


@contextmanager
def outlined(registry: Registry, remote: RemoteSource) -> Iterator[Checkpoint]:
    """The headers of a remote model, as a checkpoint whose tensors cannot be read.

    It has none where they can only be seen once the model is here; see `RemoteSource.has_headers`.
    """
    with TemporaryDirectory(prefix="zoo-outline-") as folder:
        path = remote.outline(Path(folder))
        if not remote.has_headers:
            yield HeadersOnly(MemoryCheckpoint({}, Opened(remote.origin)), remote.origin)
            return
        try:
            opened = format_of(registry, path).open(path)
        except ZooError as error:
            said = (
                part.replace(folder, remote.origin) for part in (error.what, error.why, error.how)
            )
            raise type(error)(*said, **error.facts) from error
        with opened as checkpoint:
            yield HeadersOnly(checkpoint, remote.origin)


class HeadersOnly(Checkpoint):
    """A checkpoint of which only names, types, shapes and small files are here."""

    def __init__(self, inner: Checkpoint, origin: str) -> None:
        self.tensors = inner.tensors
        # The outline's folder is gone soon; messages name where the model is.
        self.opened = replace(inner.opened, origin=origin)
        self._origin = origin

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        raise InvalidCheckpoint(
            f"Tensor `{name}` of `{self._origin}` is not here:", "only its header was looked at."
        )


def format_of(registry: Registry, path: Path) -> Format:
    """The first format that reads the path.

    Raises:
        UnsupportedFormat: none does.
    """
    for candidate in registry.plugins.formats:
        if candidate.matches(path):
            return candidate
    names = ", ".join(f.name for f in registry.plugins.formats)
    raise UnsupportedFormat(
        f"`{path}` is in no format that zoo reads:",
        f"the formats are {names}.",
        "Give a safetensors or torch file, or a directory that holds one.",
        path=path,
    )


def _plain(path: Path) -> Path:
    """The path, if there is a regular file or a directory, or nothing that could be opened."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UnsupportedFormat(
            f"`{path}` is neither a file nor a directory:",
            "a pipe, socket or device cannot be read twice, nor from the middle.",
            "Save its bytes to a file, and give that.",
            path=path,
        )
    return path
