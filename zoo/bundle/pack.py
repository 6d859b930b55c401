"""Write a bundle."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from zoo.bundle.contents import contents
from zoo.digest import canonical_json, flat_key
from zoo.errors import NotFound, StoreError
from zoo.progress import NoProgress, Progress
from zoo.storage.refusals import writing_beside

if TYPE_CHECKING:
    from zoo.registry import Registry

FORMAT = 1
MANIFEST, CATALOG = "zoo-bundle.json", "catalog.jsonl"
_BLOCK = 1 << 22


@dataclass(frozen=True, slots=True)
class Packed:
    """A bundle that was written."""

    path: str
    digest: str
    """Of its catalog: what its versions, lineage and objects are."""
    versions: int
    objects: int
    bytes: int
    """Of the objects."""
    whole: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def pack(
    registry: Registry,
    target: Path,
    *,
    refs: Sequence[str] | None = None,
    where: str | None = None,
    progress: Progress | None = None,
) -> Packed:
    """Write a zoo, or some versions with all their ancestors, to one file.

    The file appears whole or not at all, and gc takes nothing of it meanwhile. Objects are copied
    as they are: they are checked by whoever takes the bundle in, and `zoo fsck` checks them here.

    Args:
        refs: versions to pack; None, without `where` too, is the whole zoo.
    Raises:
        NotFound: no version fits, or an object is gone.
        StoreError: the file exists, or there is no room.
    """
    if target.exists():
        raise StoreError(f"`{target}` exists.", how="Choose another name, or remove it.")
    chosen = None
    if refs or where is not None:
        versions = [registry.get(r) for r in refs] if refs else registry.select(where)
        if not versions:
            raise NotFound(f"No version fits `{where}`.", how="Try it with `zoo ls --where`.")
        chosen = [v.id for v in versions]
    partial = target.with_name(f".{target.name}.partial")
    with registry.store.publishing(), writing_beside(target):
        with registry.catalog.database.read() as connection:
            found = contents(connection, chosen)
        catalog = b"".join(canonical_json(line) + b"\n" for line in found.lines)
        manifest = {
            "format": FORMAT,
            "zoo": found.lines[0]["uuid"],
            "catalog": {"bytes": len(catalog), "sha256": flat_key(catalog)[5:]},
            "objects": [[key, size] for key, size in found.objects.items()],
        }
        total = sum(found.objects.values())
        listening = progress or NoProgress()
        listening.start(total, "pack")
        try:
            with partial.open("wb") as file:
                with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                    _add(tar, MANIFEST, canonical_json(manifest) + b"\n")
                    _add(tar, CATALOG, catalog)
                    for key, size in found.objects.items():
                        _add_object(tar, registry, key, size, listening)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        finally:
            listening.done()
    return Packed(
        path=str(target),
        digest="sha256:" + manifest["catalog"]["sha256"],
        versions=sum(line["is"] == "version" for line in found.lines),
        objects=len(found.objects),
        bytes=total,
        whole=found.whole,
    )


def member(key: str) -> str:
    """Where an object is in a bundle."""
    kind, _, hexadecimal = key.partition(":")
    return f"objects/{kind}/{hexadecimal}"


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    tar.addfile(_plain(name, len(data)), io.BytesIO(data))


def _add_object(
    tar: tarfile.TarFile, registry: Registry, key: str, size: int, progress: Progress
) -> None:
    path = registry.store.path(key)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise NotFound(
            f"Object `{key}` is not in the store.",
            "A bundle without it could not be taken in.",
            "Run `zoo fsck`: it names the versions that miss it.",
            object=key,
        ) from None
    with file:
        found = os.fstat(file.fileno()).st_size
        if found != size:
            raise StoreError(
                f"Object `{key}` has {found:,} bytes, and not {size:,}.",
                "It is damaged.",
                "Run `zoo fsck`: it names the versions that are hit.",
                object=key,
            )
        tar.addfile(_plain(member(key), size), _Told(file, progress))


class _Told:
    """A file that reports what is read of it."""

    def __init__(self, file: BinaryIO, progress: Progress) -> None:
        self._file, self._progress = file, progress

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(count)
        self._progress.advance(len(data))
        return data


def _plain(name: str, size: int) -> tarfile.TarInfo:
    """A member that says nothing of who made it, where and when."""
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o644
    return info
