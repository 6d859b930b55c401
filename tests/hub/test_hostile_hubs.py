"""A hub that means harm: nothing is written outside, nothing without bound is read, all is said."""

from __future__ import annotations

import gzip
import hashlib
import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hub_models import cache_files, model
from hub_server import Handler, HubServer

from zoo.errors import InvalidCheckpoint, StoreError, ZooError
from zoo.hub import outline
from zoo.registry import Registry

MEMORY = 150_000_000
"""Bytes that refusing a model may take; to read a configuration, 100 MB are set aside."""


@contextmanager
def nothing_is_kept(registry: Registry, tmp_path: Path) -> Iterator[None]:
    """Whatever is tried must fail with an error of ours, in little memory, and leave nothing."""
    before = everything(tmp_path)
    assert registry.plugins  # to load them is not what takes memory here, and slow when traced
    tracemalloc.start()
    try:
        with pytest.raises(ZooError) as refused:
            yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert refused.value.why
    assert peak < MEMORY
    assert before == everything(tmp_path)
    assert [] == registry.select()


def everything(root: Path) -> set[str]:
    """Files below a directory, but for what any use of the hub's cache makes, and the database."""
    return {
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if not path.is_dir() and "registry.db" not in path.name
    }


@pytest.mark.parametrize(
    "name",
    [
        *("../../x.json", "/etc/x.json", "a/../../b.json", "a\0b.json", "C:\\x.json", "a//b.json"),
        *("..", ".", "", "a/./b", "x" * 300, "\ud800.json", "a\nb.json", "../model.safetensors"),
    ],
)
def test_names_that_lead_elsewhere_are_refused(
    hub: HubServer, registry: Registry, tmp_path: Path, name: str
) -> None:
    hub.add("org/bad", {**model(0), name: b"{}"})
    with nothing_is_kept(registry, tmp_path):
        registry.register("hf://org/bad", name="bad")

    assert 0 == hub.weight_bytes


def test_an_index_that_leads_elsewhere_is_refused(
    hub: HubServer, registry: Registry, tmp_path: Path
) -> None:
    index = {"weight_map": {"a": "../../../x.safetensors"}}
    files = {**model(0), "model.safetensors.index.json": json.dumps(index).encode()}
    hub.add("org/bad", files)
    with nothing_is_kept(registry, tmp_path):
        registry.register("hf://org/bad", name="bad")


@pytest.mark.parametrize(
    "listed",
    [
        *({"size": -1}, {"size": True}, {"size": "9"}, {"size": 2**70}, {"size": None}),
        *({"oid": "../../x"}, {"oid": None}, {"oid": "0" * 39}),
        *({"lfs": {"oid": "../../../x", "size": 5}}, {"lfs": 5}, {"lfs": {"size": 5}}),
        {"path": 5},
    ],
)
def test_listings_that_cannot_be_are_refused(
    hub: HubServer, registry: Registry, tmp_path: Path, listed: dict[str, object]
) -> None:
    hub.add("org/bad", model(0), listed={"config.json": listed})
    with nothing_is_kept(registry, tmp_path):
        registry.register("hf://org/bad", name="bad")


def test_a_listing_without_end_is_refused(
    hub: HubServer, registry: Registry, tmp_path: Path
) -> None:
    hub.add("org/bad", model(0))
    pages = 0

    def endless(handler: Handler, path: str) -> bool:
        nonlocal pages
        if "tree" not in path:
            return False
        pages += 1
        entries = [
            {"type": "file", "path": f"{pages}-{i}.txt", "size": 1, "oid": "0" * 40}
            for i in range(5_000)
        ]
        link = f'<{hub.endpoint}{handler.path_}?cursor={pages}>; rel="next"'
        handler.json(entries, headers={"Link": link})
        return True

    hub.fault = endless
    with nothing_is_kept(registry, tmp_path):
        registry.register("hf://org/bad", name="bad")

    assert pages <= 5


def test_a_listing_does_not_go_on_at_another_host(
    hub: HubServer, registry: Registry, tmp_path: Path
) -> None:
    hub.add("org/bad", model(0))

    def elsewhere(handler: Handler, path: str) -> bool:
        if "tree" in path:
            handler.json([], headers={"Link": f'<{hub.cdn}/x>; rel="next"'})
            return True
        return False

    hub.fault = elsewhere
    with nothing_is_kept(registry, tmp_path):
        registry.register("hf://org/bad", name="bad")


@pytest.mark.parametrize("claim", [10**12, 2**63, 2**64 - 9, 150_000_000])
def test_a_header_that_claims_too_much_is_refused(
    hub: HubServer, registry: Registry, tmp_path: Path, claim: int
) -> None:
    bad = claim.to_bytes(8, "little") + b"{}" + bytes(100)
    sizes = {"lfs": {"oid": "0" * 64, "size": 2**50}}
    hub.add(
        "org/bad",
        {**model(0), "model.safetensors": bad},
        listed={"model.safetensors": sizes},
    )
    with nothing_is_kept(registry, tmp_path):
        registry.register("hf://org/bad", name="bad")

    assert 8 == hub.served["model.safetensors"]


def test_headers_that_claim_too_much_together_are_refused(
    hub: HubServer, registry: Registry, tmp_path: Path
) -> None:
    shards = {
        f"model-{i}.safetensors": (60_000_000).to_bytes(8, "little") + bytes([i]) for i in range(2)
    }
    sizes = {
        path: {"lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": 2**40}}
        for path, data in shards.items()
    }
    hub.add("org/bad", {"config.json": b"{}", **shards}, listed=sizes)
    with nothing_is_kept(registry, tmp_path):
        registry.register("hf://org/bad", name="bad")

    assert 16 == hub.weight_bytes


def test_headers_of_too_many_tensors_are_refused_unparsed(
    hub: HubServer, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outline, "MOST_TENSORS", 1)
    hub.add("org/bad", model(0, count=9))
    with nothing_is_kept(registry, tmp_path):
        registry.register("hf://org/bad", name="bad")


class Endless:
    """A body that does not end, for paths that are chosen; counts what it could send."""

    BLOCK = b"{" * 65_536

    def __init__(self, part: str, *, length: int | None = None) -> None:
        self.part = part
        self.length = length
        self.sent = 0

    def __call__(self, handler: Handler, path: str) -> bool:
        wanted = self.part in path and (handler.range[1] is None or "cdn" not in self.part)
        if not wanted:
            return False
        handler.send_response(200)
        if self.length is not None:
            handler.send_header("Content-Length", str(self.length))
        handler.end_headers()
        handler.close_connection = True
        with suppress(OSError):
            while self.sent < 1 << 30:
                handler.wfile.write(self.BLOCK)
                self.sent += len(self.BLOCK)
        return True


@pytest.mark.parametrize("part", ["revision", "tree", "config.json", "cdn:"])
@pytest.mark.parametrize("length", [None, 10**15])
def test_a_body_without_end_is_left(
    hub: HubServer, registry: Registry, tmp_path: Path, part: str, length: int | None
) -> None:
    hub.add("org/bad", model(0))
    hub.fault = endless = Endless(part, length=length)
    before = [p for p in (tmp_path / "hf").rglob("*") if p.is_file()]
    with pytest.raises(ZooError) as refused:
        registry.register("hf://org/bad", name="bad")

    assert isinstance(refused.value, InvalidCheckpoint)
    assert endless.sent < 40_000_000  # what the operating system takes on the way is in it
    assert [] == before
    largest = max((p.stat().st_size for p in (tmp_path / "hf").rglob("*")), default=0)
    assert largest < 100_000
    assert [] == registry.select()


def test_a_small_body_that_unfolds_to_much_is_left(
    hub: HubServer, registry: Registry, tmp_path: Path
) -> None:
    hub.add("org/bad", model(0))
    bomb = gzip.compress(b"[" + b" " * 400_000_000, 9)

    def unfolds(handler: Handler, path: str) -> bool:
        if "tree" in path:
            handler.answer(bomb, 200, {"Content-Encoding": "gzip"})
            return True
        return False

    hub.fault = unfolds
    with nothing_is_kept(registry, tmp_path):
        registry.register("hf://org/bad", name="bad")


@pytest.mark.parametrize("nested", [b"[" * 5_000_000, b"[" + b"[]," * 1_000_000 + b"[]]"])
def test_answers_that_would_take_much_memory_are_not_parsed(
    hub: HubServer, registry: Registry, tmp_path: Path, nested: bytes
) -> None:
    hub.add("org/bad", model(0))

    def deep(handler: Handler, path: str) -> bool:
        if "revision" in path:
            handler.answer(nested)
            return True
        return False

    hub.fault = deep
    with nothing_is_kept(registry, tmp_path):
        registry.register("hf://org/bad", name="bad")


@pytest.mark.parametrize(
    "target",
    [
        *("file:///etc/passwd", "ftp://localhost/x", "gopher://x", "", "http://[::1", "//"),
        *("javascript:1", "/org/bad/resolve/again", "http://localhost:1/x"),
    ],
)
def test_redirects_lead_nowhere_else(
    hub: HubServer, registry: Registry, tmp_path: Path, target: str
) -> None:
    hub.add("org/bad", model(0))

    def away(handler: Handler, path: str) -> bool:
        if path.endswith(".safetensors") or "again" in handler.path:
            handler.answer(b"", 302, {"Location": target})
            return True
        return False

    hub.fault = away
    with nothing_is_kept(registry, tmp_path):
        registry.register("hf://org/bad", name="bad")

    assert len(hub.requests) < 60


def test_a_file_that_is_shorter_than_listed_is_refused(
    hub: HubServer, registry: Registry, tmp_path: Path
) -> None:
    data = model(0)["model.safetensors"]
    listed = {"lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data) + 512}}
    hub.add("org/bad", model(0), listed={"model.safetensors": listed})
    with nothing_is_kept(registry, tmp_path):
        registry.register("hf://org/bad", name="bad")


def test_a_file_that_is_longer_than_listed_is_refused(
    hub: HubServer, registry: Registry, tmp_path: Path
) -> None:
    data = model(0)["model.safetensors"]
    listed = {"lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data) - 4}}
    hub.add("org/bad", model(0), listed={"model.safetensors": listed})
    with nothing_is_kept(registry, tmp_path):
        registry.register("hf://org/bad", name="bad")


def test_a_configuration_of_ten_gigabytes_is_not_read(
    hub: HubServer, registry: Registry, tmp_path: Path
) -> None:
    hub.add("org/bad", model(0), listed={"config.json": {"size": 10**10}})
    with pytest.raises(InvalidCheckpoint, match="10,000,000,000 bytes"):
        registry.register("hf://org/bad", name="bad")

    assert 0 == hub.served["config.json"]
    assert [] == cache_files(tmp_path)


def test_small_files_that_are_large_together_are_not_read(
    hub: HubServer, registry: Registry, tmp_path: Path
) -> None:
    texts = {f"{i}.txt": b"x" for i in range(10)}
    listed = {path: {"size": 90_000_000} for path in texts}
    hub.add("org/bad", {**model(0), **texts}, listed=listed)
    with nothing_is_kept(registry, tmp_path):
        registry.register("hf://org/bad", name="bad")

    assert not set(texts) & hub.served.keys()


def test_a_commit_that_is_a_path_is_refused(
    hub: HubServer, registry: Registry, tmp_path: Path
) -> None:
    def path(handler: Handler, asked: str) -> bool:
        handler.json({"sha": "../../../../x"})
        return True

    hub.add("org/bad", model(0))
    hub.fault = path
    with nothing_is_kept(registry, tmp_path):
        registry.register("hf://org/bad", name="bad")


def test_a_file_and_a_folder_of_one_name_are_refused(
    hub: HubServer, registry: Registry, tmp_path: Path
) -> None:
    hub.add("org/bad", {**model(0), "a.json": b"{}", "a.json/b.json": b"{}"})
    with nothing_is_kept(registry, tmp_path):
        registry.register("hf://org/bad", name="bad")


def test_links_in_the_cache_do_not_lead_writes_elsewhere(
    hub: HubServer, registry: Registry, tmp_path: Path
) -> None:
    """The cache is the user's own; but what is in it must not be written through."""
    hub.add("org/tiny", model(0))
    registry.register("hf://org/tiny", name="tiny")
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    (pointer,) = (tmp_path / "hf").rglob("snapshots/*/model.safetensors")
    pointer.unlink()
    pointer.symlink_to(outside)
    registry.register("hf://org/tiny", name="tiny")

    assert b"mine" == outside.read_bytes()
    assert pointer.resolve() != outside
    assert not pointer.samefile(outside)


def test_nothing_that_a_hub_says_reaches_the_terminal_raw(
    hub: HubServer, registry: Registry
) -> None:
    hub.add("org/bad", {**model(0), "\x1b[2J.json": b"{}"})
    with pytest.raises(InvalidCheckpoint) as refused:
        registry.register("hf://org/bad", name="bad")

    assert "\x1b" not in str(refused.value)


def test_a_full_disk_is_said(
    hub: HubServer, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/tiny", model(0))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zoo.hub.blobs.os.fsync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        registry.register("hf://org/tiny", name="tiny")
