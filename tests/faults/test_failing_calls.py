"""One call fails, and often the next ones too: what stands stays, and what went wrong is told."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import zoo
from zoo.errors import RegistryError, StoreError
from zoo.plugins import Plugins


@pytest.fixture
def registry(zoo_path: str, sources: dict[str, str], plugins: Plugins) -> Iterator[zoo.Registry]:
    with zoo.open(zoo_path, plugins=plugins) as opened:
        opened.register(sources["a"], name="a")
        yield opened


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let calls of `os` fail where the path has a word in it."""

    def fail(name: str, word: str) -> None:
        original = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if any(word in str(a) for a in args if isinstance(a, str | Path)):
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(args[0]))
            return original(*args, **kwargs)

        monkeypatch.setattr(os, name, call)

    return fail


def test_a_version_stands_though_what_it_was_made_in_cannot_be_removed(
    registry: zoo.Registry, sources: dict[str, str], failing: Callable[..., None]
) -> None:
    failing("rename", ".trash-")

    made = registry.register(sources["b"], name="b")

    assert "b@1" == made.ref
    assert ["a@1", "b@1"] == sorted(v.ref for v in registry.select())


def test_what_failed_first_is_told_when_cleaning_up_fails_too(
    registry: zoo.Registry, sources: dict[str, str], failing: Callable[..., None]
) -> None:
    failing("rename", "registry.store")

    with pytest.raises(StoreError, match="the disk failed"):
        registry.register(sources["b"], name="b")

    assert ["a@1"] == [v.ref for v in registry.select()]


def test_what_was_left_is_collected_when_the_disk_works_again(
    registry: zoo.Registry,
    sources: dict[str, str],
    failing: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failing("rename", ".trash-")
    registry.register(sources["b"], name="b")
    monkeypatch.undo()

    assert 1 == registry.gc().removed_staging
    assert [] == list((registry.store.root / "staging").iterdir())


def test_a_removal_stands_though_its_directory_cannot_be_removed(
    registry: zoo.Registry, failing: Callable[..., None]
) -> None:
    failing("rename", ".trash-")

    registry.remove("a@1")

    assert [] == registry.select()


def test_gc_says_that_it_cannot_read_what_was_left(
    registry: zoo.Registry, failing: Callable[..., None]
) -> None:
    (registry.store.root / "staging" / "dead").mkdir()
    failing("open", "dead/.lock")

    with pytest.raises(StoreError, match="the disk failed"):
        registry.gc()


@pytest.mark.parametrize("where", [None, "name = 'a'"])
def test_a_damaged_page_is_no_fault_of_the_selection(
    where: str | None, registry: zoo.Registry, zoo_path: str, plugins: Plugins
) -> None:
    registry.close()
    connection = sqlite3.connect(zoo_path)
    found = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'versions'")
    (page,) = found.fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    with Path(zoo_path).open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)

    with zoo.open(zoo_path, plugins=plugins) as opened, pytest.raises(RegistryError):
        opened.select(where)
