"""Read a bundle that a stranger may have made: nothing in it is believed before it is checked."""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from sqlalchemy.exc import StatementError

from zoo.bundle.contents import Line
from zoo.bundle.pack import CATALOG, FORMAT, MANIFEST, member
from zoo.checkpoints.hashing import HashPool
from zoo.checkpoints.safetensors import open_files
from zoo.checkpoints.safetensors_header import parse_strict_json
from zoo.digest import json_digest, tree_key, weights_digest
from zoo.errors import InvalidCheckpoint, VerificationFailed
from zoo.overlays.overlay import is_overlay
from zoo.progress import Progress
from zoo.storage.store import Store

LARGEST_CATALOG = 4 << 30
"""Bytes; ten thousand versions of a thousand tensors are one gigabyte."""
_LARGEST_MANIFEST = 256 << 20
_LARGEST_READ = 1 << 20
"""Bytes of one header of the archive; ours have a few hundred."""
_BLOCK = 1 << 22
_KEY = re.compile(r"(flat|tree):[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: its catalog, and where its objects are in the file."""

    path: Path
    digest: str
    """Of the catalog."""
    zoo: str
    """Id of the zoo it was made of."""
    whole: bool
    lines: dict[str, list[Line]]
    """By what they tell of."""
    objects: dict[str, tuple[int, int]]
    """Key -> first byte in the file, bytes."""

    def of(self, is_: str) -> list[Line]:
        return self.lines.get(is_, [])


@contextmanager
def opened_bundle(path: Path) -> Iterator[tuple[Bundle, BinaryIO]]:
    """A bundle whose catalog is whole and agrees with itself; its objects are not read yet.

    Raises:
        InvalidCheckpoint: it is no bundle, or a damaged one.
        VerificationFailed: its audit log was tampered with.
    """
    try:
        file: BinaryIO = path.open("rb")
    except OSError as error:
        _refuse(path, f"it cannot be opened ({error.strerror})")
    with file:
        bundle = _read(path, file)
        with sensible(path):
            _check_manifests(bundle)
            _check_objects(bundle)
            if bundle.whole:
                _check_chain(bundle)
        yield bundle, file


@contextmanager
def sensible(path: Path) -> Iterator[None]:
    """Turn what a catalog of wrong types or missing keys provokes into a refusal."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, StatementError) as error:
        _refuse(path, f"its catalog makes no sense ({type(error).__name__}: {error!s:.200})")


def stage_objects(
    bundle: Bundle,
    file: BinaryIO,
    store: Store,
    staging: Path,
    threads: int | None,
    progress: Progress,
) -> dict[str, Path]:
    """Bring the objects that the store lacks into `staging`, and hash every one.

    Returns:
        Key -> where it is staged.
    Raises:
        VerificationFailed: an object is not what its key says, or not what a version says of it.
    """
    staged: dict[str, Path] = {}
    tensors: dict[str, list[str]] = {}
    total = sum(size for _, size in bundle.objects.values())
    progress.start(total, "check")
    try:
        with HashPool(threads, progress) as pool:
            for key, (start, size) in bundle.objects.items():
                place = store.path(key)
                if not place.exists():
                    place = staging / key.replace(":", "-")
                    with place.open("wb") as out:
                        _copy(bundle.path, file, start, size, out)
                    staged[key] = place
                if key.startswith("flat:"):
                    found = pool.file(place).result()[0]
                else:
                    found, tensors[key] = _tree(place, pool)
                if found != key:
                    raise VerificationFailed(
                        f"Object `{key}` of `{bundle.path}` is not what it is called:",
                        f"its bytes are those of `{found}`.",
                        "Copy the bundle again; if it stays so, nothing in it can be trusted.",
                        object=key,
                    )
    finally:
        progress.done()
    _check_versions(bundle, tensors)
    return staged


def _read(path: Path, file: BinaryIO) -> Bundle:
    size = os.fstat(file.fileno()).st_size
    try:
        with tarfile.open(fileobj=cast(BinaryIO, _Bounded(file)), mode="r:") as tar:
            manifest = _manifest(path, _small(path, file, tar.next(), MANIFEST, _LARGEST_MANIFEST))
            catalog = _small(path, file, tar.next(), CATALOG, LARGEST_CATALOG)
            if hashlib.sha256(catalog).hexdigest() != manifest["catalog"]["sha256"]:
                _refuse(path, "its catalog is not the one that was packed")
            objects: dict[str, tuple[int, int]] = {}
            for key, expected in manifest["objects"]:
                info = tar.next()
                if info is None or info.name != member(key) or not _is_plain(info):
                    _refuse(path, f"object `{key}` is not where it belongs")
                if info.size != expected or info.offset_data + info.size > size:
                    _refuse(path, f"object `{key}` is cut short")
                objects[key] = info.offset_data, info.size
            if tar.next() is not None:
                _refuse(path, "it holds more than it says")
    except (tarfile.TarError, _TooLarge, EOFError, ValueError) as error:
        _refuse(path, f"it is no archive of ours ({error})")
    return _parsed(path, catalog, manifest["catalog"]["sha256"], objects)


def _parsed(path: Path, catalog: bytes, sha256: str, objects: dict[str, tuple[int, int]]) -> Bundle:
    lines: dict[str, list[Line]] = defaultdict(list)
    for number, text in enumerate(catalog.splitlines(), 1):
        line = parse_strict_json(text, path)
        if not isinstance(line, dict) or not isinstance(line.get("is"), str):
            _refuse(path, f"line {number} of its catalog says nothing")
        lines[line["is"]].append(line)
    (head,) = lines["zoo"] if len(lines["zoo"]) == 1 else _refuse(path, "it does not say of what")
    zoo, whole = str(head.get("uuid")), head.get("whole") is True
    return Bundle(path, f"sha256:{sha256}", zoo, whole, dict(lines), objects)


def _manifest(path: Path, data: bytes) -> dict[str, Any]:
    content = parse_strict_json(data, path)
    if not isinstance(content, dict) or "format" not in content:
        _refuse(path, f"`{MANIFEST}` does not describe a bundle")
    if content["format"] != FORMAT:
        raise InvalidCheckpoint(
            f"`{path}` is a bundle of format {content['format']!r}, and this zoo reads {FORMAT}.",
            how="Update zoo: pip install -U zoo-registry",
            path=path,
        )
    objects = content.get("objects")
    sound = isinstance(content.get("catalog"), dict) and isinstance(
        content["catalog"].get("sha256"), str
    )
    if (
        not sound
        or not isinstance(objects, list)
        or not all(
            isinstance(o, list)
            and len(o) == 2
            and isinstance(o[0], str)
            and _KEY.fullmatch(o[0])
            and type(o[1]) is int
            and o[1] >= 0
            for o in objects
        )
        or len({key for key, _ in objects}) < len(objects)
    ):
        _refuse(path, f"`{MANIFEST}` does not describe a bundle")
    return content


def _small(path: Path, file: BinaryIO, info: tarfile.TarInfo | None, name: str, most: int) -> bytes:
    if info is None or info.name != name or not _is_plain(info):
        _refuse(path, f"it has no `{name}` where one belongs")
    if info.size > most:
        _refuse(path, f"its `{name}` has {info.size:,} bytes, more than {most:,}")
    data = os.pread(file.fileno(), info.size, info.offset_data)
    while len(data) < info.size:
        more = os.pread(file.fileno(), info.size - len(data), info.offset_data + len(data))
        if not more:
            _refuse(path, f"its `{name}` is cut short")
        data += more
    return data


def _is_plain(info: tarfile.TarInfo) -> bool:
    return info.type == tarfile.REGTYPE and info.sparse is None


def _copy(path: Path, file: BinaryIO, start: int, size: int, out: BinaryIO) -> None:
    at, end = start, start + size
    while at < end:
        data = os.pread(file.fileno(), min(_BLOCK, end - at), at)
        if not data:
            _refuse(path, "it ended while it was read")
        out.write(data)
        at += len(data)


def _tree(place: Path, pool: HashPool) -> tuple[str, list[str]]:
    """The key of a weights file, and the digests of its tensors."""
    with open_files({"": place}, str(place)) as checkpoint:
        header = checkpoint.headers[""]
        work = [pool.tensor(checkpoint, info) for info in header.tensors]
        digests = [future.result() for future in work]
    return tree_key(header.raw, digests), digests


def _check_manifests(bundle: Bundle) -> None:
    for line in bundle.of("manifest"):
        if weights_digest((t[0], t[3]) for t in line["tensors"]) != line["digest"]:
            raise VerificationFailed(
                f"The tensors of `{line['digest']}` in `{bundle.path}` do not add up to it.",
                how="Pack the zoo again.",
                digest=line["digest"],
            )


def _check_objects(bundle: Bundle) -> None:
    for line in bundle.of("version"):
        lost = [f for f in line["files"] if f[1] not in bundle.objects]
        if lost and line["removed_at"] is None:
            _refuse(
                bundle.path,
                f"file `{lost[0][0]}` of `{line['name']}@{line['number']}` is not in it",
            )


def _check_versions(bundle: Bundle, tensors: dict[str, list[str]]) -> None:
    """A version's weights files must hold just the tensors that its digest stands for."""
    manifests = {m["digest"]: sorted(t[3] for t in m["tensors"]) for m in bundle.of("manifest")}
    for line in bundle.of("version"):
        if line["removed_at"] is not None:
            continue
        held = sorted(
            digest
            for path, key, _ in line["files"]
            if key.startswith("tree:") and not is_overlay(path)
            for digest in tensors[key]
        )
        if held != manifests.get(line["digest"]):
            raise VerificationFailed(
                f"The weights of `{line['name']}@{line['number']}` in `{bundle.path}` are not "
                f"those of its digest {line['digest']}.",
                how="Pack the zoo again, after `zoo fsck`.",
            )


def _check_chain(bundle: Bundle) -> None:
    previous, sequence = "", 0
    for line in bundle.of("event"):
        row = {k: v for k, v in line.items() if k not in ("is", "hash")}
        sequence += 1
        if (row["sequence"], row["previous"]) != (sequence, previous) or json_digest(row) != line[
            "hash"
        ]:
            raise VerificationFailed(
                f"The audit log in `{bundle.path}` is broken at event {sequence}.",
                "An event was changed, or left out, after it was written.",
                "Run `zoo fsck` on the zoo that it was packed from.",
                sequence=sequence,
            )
        previous = line["hash"]
    told = bundle.of("zoo")[0]["audit"]
    if told != {"sequence": sequence, "hash": previous}:
        raise VerificationFailed(
            f"The audit log in `{bundle.path}` ends at event {sequence}, and should at "
            f"{told['sequence']}.",
            how="Pack the zoo again.",
        )


class _TooLarge(Exception):
    """A header of the archive asks for more memory than any of ours."""


class _Bounded:
    """What tarfile reads from: headers only, and never much at once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= _LARGEST_READ:
            raise _TooLarge(f"a header of {count:,} bytes")
        return self._file.read(count)

    def seek(self, place: int, whence: int = 0) -> int:
        return self._file.seek(place, whence)

    def tell(self) -> int:
        return self._file.tell()


def _refuse(path: Path, problem: str) -> NoReturn:
    raise InvalidCheckpoint(
        f"`{path}` is no bundle that can be taken in:",
        f"{problem}.",
        "Make it with `zoo export-zoo`, or copy it again.",
        path=path,
        problem=problem,
    )
