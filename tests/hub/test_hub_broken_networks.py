"""A network that breaks: what came is kept and gone on with, or the call fails and says why."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hub_models import cache_files, header_bytes, model
from hub_server import Handler, HubServer

from zoo.errors import InvalidCheckpoint, StoreError
from zoo.hub import transport
from zoo.registry import Registry

LARGE = model(0, shape=(256, 256), count=8)
"""2 MB of weights."""
WEIGHTS = LARGE["model.safetensors"]
SIZE = len(WEIGHTS)
HEADER = header_bytes(WEIGHTS)


def is_body(handler: Handler, path: str) -> bool:
    """Whether it is the download that is asked for, not the header."""
    return path.startswith("cdn:") and handler.range[1] is None


class Cuts:
    """Hangs up after so many bytes of the file, once for each place, and then works again."""

    def __init__(self, places: list[int], *, then: Callable[[Handler], bool] | None = None) -> None:
        self.places = sorted(places)
        self.then = then
        self.starts: list[int] = []

    def __call__(self, handler: Handler, path: str) -> bool:
        if not is_body(handler, path):
            return False
        first, _ = handler.range
        self.starts.append(first)
        self.places = [p for p in self.places if p > first]
        if not self.places:
            return self.then(handler) if self.then else False
        stop = self.places.pop(0)
        body = WEIGHTS[first:stop]
        handler.send_response(206 if first else 200)
        handler.send_header("Content-Length", str(SIZE - first))
        if first:
            handler.send_header("Content-Range", f"bytes {first}-{SIZE - 1}/{SIZE}")
        handler.end_headers()
        handler.wfile.write(body)
        handler.server.served["model.safetensors"] += len(body)
        handler.cut()
        return True


def unavailable(handler: Handler) -> bool:
    handler.fail(503)
    return True


@pytest.mark.parametrize("seed", range(3))
def test_a_download_cut_at_ten_places_goes_on_by_itself(
    hub: HubServer, registry: Registry, seed: int
) -> None:
    hub.add("org/large", LARGE)
    places = random.Random(seed).sample(range(SIZE), 10)
    hub.fault = cuts = Cuts(places)
    version = registry.register("hf://org/large", name="large")

    assert sorted([0, *places]) == cuts.starts
    assert HEADER + SIZE == hub.weight_bytes  # no byte was sent twice
    assert WEIGHTS == Path(version.path, "model.safetensors").read_bytes()


@pytest.mark.parametrize("place", random.Random(7).sample(range(1, SIZE), 10))
def test_a_second_call_goes_on_where_the_first_was_cut(
    hub: HubServer, registry: Registry, tmp_path: Path, place: int
) -> None:
    hub.add("org/large", LARGE)
    hub.fault = Cuts([place], then=unavailable)
    with pytest.raises(StoreError, match=r"status 503.*what has arrived is kept"):
        registry.register("hf://org/large", name="large")

    (partial,) = [f for f in cache_files(tmp_path) if f.endswith(".incomplete")]
    assert place == (tmp_path / "hf" / partial).stat().st_size
    assert [] == registry.select()

    hub.fault = None
    hub.served.clear()
    version = registry.register("hf://org/large", name="large")

    assert HEADER + SIZE - place == hub.weight_bytes
    assert WEIGHTS == Path(version.path, "model.safetensors").read_bytes()
    assert not [f for f in cache_files(tmp_path) if f.endswith(".incomplete")]


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_hub_that_is_busy_is_asked_again(hub: HubServer, registry: Registry, status: int) -> None:
    hub.add("org/tiny", model(0))
    failed: set[str] = set()

    def once(handler: Handler, path: str) -> bool:
        """Every address fails the first time."""
        key = f"{path} {handler.headers.get('range')}"
        if key in failed:
            return False
        failed.add(key)
        handler.fail(status)
        return True

    hub.fault = once
    registry.register("hf://org/tiny", name="tiny")

    assert 8 <= len(failed)


def test_a_hub_that_stays_broken_is_given_up(
    hub: HubServer, registry: Registry, tmp_path: Path
) -> None:
    hub.add("org/tiny", model(0))
    hub.fault = lambda handler, _: unavailable(handler)
    with pytest.raises(StoreError, match="busy or broken"):
        registry.register("hf://org/tiny", name="tiny")

    assert transport.RETRIES == len(hub.requests)
    assert [] == cache_files(tmp_path)


def test_a_hub_that_ignores_ranges_is_read_from_the_start(
    hub: HubServer, registry: Registry, tmp_path: Path
) -> None:
    hub.add("org/large", LARGE)
    place = SIZE // 2
    hub.fault = Cuts([place], then=unavailable)
    with pytest.raises(StoreError):
        registry.register("hf://org/large", name="large")

    def whole(handler: Handler, path: str) -> bool:
        if path.startswith("cdn:"):
            handler.answer(WEIGHTS)
            return True
        return False

    hub.fault = whole
    version = registry.register("hf://org/large", name="large")

    assert WEIGHTS == Path(version.path, "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "said", ["bytes 1-9/100", "bytes */100", "", "bytes x-y/z", f"bytes {'9' * 400}-1/2"]
)
def test_a_wrong_range_is_not_used(
    hub: HubServer, registry: Registry, tmp_path: Path, said: str
) -> None:
    hub.add("org/tiny", model(0))

    def wrong(handler: Handler, path: str) -> bool:
        if path.startswith("cdn:"):
            handler.answer(b"x" * 100, 206, {"Content-Range": said})
            return True
        return False

    hub.fault = wrong
    with pytest.raises(StoreError, match="byte 0 was asked for"):
        registry.register("hf://org/tiny", name="tiny")

    assert [] == cache_files(tmp_path)


def test_wrong_bytes_are_thrown_away(hub: HubServer, registry: Registry, tmp_path: Path) -> None:
    hub.add("org/large", LARGE)

    def wrong(handler: Handler, path: str) -> bool:
        if is_body(handler, path):
            handler.answer(bytes(SIZE))
            return True
        return False

    hub.fault = wrong
    with pytest.raises(InvalidCheckpoint, match="its hash is not"):
        registry.register("hf://org/large", name="large")

    assert not [f for f in cache_files(tmp_path) if "blobs" in f and "incomplete" in f]
    assert [] == registry.select()


def test_a_damaged_part_of_an_earlier_call_is_brought_again(
    hub: HubServer, registry: Registry, tmp_path: Path
) -> None:
    hub.add("org/large", LARGE)
    hub.fault = Cuts([SIZE // 2], then=unavailable)
    with pytest.raises(StoreError):
        registry.register("hf://org/large", name="large")
    (partial,) = (tmp_path / "hf").rglob("*.incomplete")
    with partial.open("r+b") as file:
        file.write(b"damaged")
    hub.fault = None
    version = registry.register("hf://org/large", name="large")

    assert WEIGHTS == Path(version.path, "model.safetensors").read_bytes()


def test_a_damaged_file_in_the_cache_is_brought_again(
    hub: HubServer, registry: Registry, tmp_path: Path
) -> None:
    hub.add("org/tiny", model(0))
    registry.register("hf://org/tiny", name="tiny")
    blob = max((tmp_path / "hf").rglob("blobs/*"), key=lambda p: p.stat().st_size)
    blob.unlink()
    blob.write_bytes(bytes(len(model(0)["model.safetensors"])))
    version = registry.register("hf://org/tiny", name="tiny")

    assert 2 == version.version
    assert model(0)["model.safetensors"] == Path(version.path, "model.safetensors").read_bytes()


def test_a_branch_that_moves_meanwhile_changes_nothing(hub: HubServer, registry: Registry) -> None:
    commit = hub.add("org/tiny", model(0))

    def moved(handler: Handler, path: str) -> bool:
        if "tree" in path:
            hub.add("org/tiny", model(9))
        return False

    hub.fault = moved
    version = registry.register("hf://org/tiny", name="tiny")

    assert commit == version.notes["hub"]["commit"]
    assert model(0)["model.safetensors"] == Path(version.path, "model.safetensors").read_bytes()


def test_an_answer_of_another_commit_is_refused(
    hub: HubServer, registry: Registry, tmp_path: Path
) -> None:
    hub.add("org/tiny", model(0))

    def other(handler: Handler, path: str) -> bool:
        if path == "model.safetensors":
            headers = {"X-Repo-Commit": "0" * 40, "Location": "/cdn/x"}
            handler.answer(b"", 302, headers)
            return True
        return False

    hub.fault = other
    with pytest.raises(InvalidCheckpoint, match="changed while it was read"):
        registry.register("hf://org/tiny", name="tiny")

    assert [] == cache_files(tmp_path)


def test_no_room_is_said_before_anything_is_downloaded(
    hub: HubServer, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/large", LARGE)
    usage = type("Usage", (), {"free": 1_000_000})
    with monkeypatch.context() as patch:
        patch.setattr("zoo.hub.blobs.shutil.disk_usage", lambda _: usage)
        with pytest.raises(StoreError, match="1,000,000 free"):
            registry.register("hf://org/large", name="large")

    assert HEADER == hub.weight_bytes
    assert [] == cache_files(tmp_path)
