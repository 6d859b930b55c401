"""A method's code hash follows the code that makes its bytes, wherever that lives."""

from __future__ import annotations

import hashlib
import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zoo.contract import Method
from zoo.plugins import load_plugins

FILES = {
    "__init__.py": "",
    "method.py": """
        import zoo
        from zoo_hashed.near import helper
        from . import sibling

        @zoo.method("hashed", version="1.0.0")
        def hashed(experts):
            "The first."
            from zoo_hashed.deep import lazy

            return experts[0].clone()
    """,
    "near.py": "import zoo_hashed.far\ndef helper(): ...",
    "far.py": "from zoo_hashed import method  # round in a circle",
    "sibling.py": "from zoo.stages import signs",
    "deep/__init__.py": "raise RuntimeError('a hash imports nothing')",
    "deep/lazy.py": "from ..below import thing",
    "below.py": "thing = 1",
    "unused.py": "",
}


@pytest.fixture
def hash_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """The hash of a method of a package, with changes to some of its files."""
    folder = tmp_path / "zoo_hashed"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def forget() -> None:
        for name in [m for m in sys.modules if m.partition(".")[0] == "zoo_hashed"]:
            del sys.modules[name]

    def hashed(**changes: str) -> str:
        for name, source in FILES.items():
            file = folder / name
            file.parent.mkdir(exist_ok=True, parents=True)
            file.write_text(textwrap.dedent(source))
        for stem, more in changes.items():
            file = folder / f"{stem.replace('__', '/')}.py"
            file.write_text(file.read_text() + more)
        forget()
        importlib.invalidate_caches()
        method: Method = importlib.import_module("zoo_hashed.method").hashed
        return method.code_hash

    yield hashed
    forget()


def test_the_same_code_has_the_same_hash(hash_of):
    assert hash_of() == hash_of()


@pytest.mark.parametrize("file", ["method", "near", "far", "sibling", "deep__lazy", "below"])
def test_a_change_of_any_module_behind_the_method_changes_the_hash(file, hash_of):
    assert hash_of() != hash_of(**{file: "\n# changed\n"})


def test_a_change_of_a_module_that_is_not_imported_changes_nothing(hash_of):
    assert hash_of() == hash_of(unused="changed = True\n")


@pytest.mark.parametrize("stage", ["magnitude", "signs"])
def test_the_hash_of_ties_follows_the_shared_stages(stage, monkeypatch):
    method = load_plugins().methods["ties"]
    before = method.code_hash
    read = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda p: read(p) + (b"# changed" if p.stem == stage else b"")
    )
    method.__dict__.pop("code_hash")

    changed = method.code_hash
    method.__dict__.pop("code_hash")

    assert before != changed


def test_the_hash_of_a_drop_in_is_that_of_its_file_wherever_it_lies(drop_in, load, tmp_path):
    source = """
        import zoo

        @zoo.method("first", version="1.0.0")
        def first(experts):
            "The first."
            return experts[0].clone()

        @zoo.hookimpl
        def zoo_register_methods(register):
            register(first)
    """
    directory = drop_in("first", source)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "first.py").write_bytes((directory / "first.py").read_bytes())
    wanted = "sha256:" + hashlib.sha256((directory / "first.py").read_bytes()).hexdigest()

    assert wanted == load(directory).methods["first"].code_hash
    assert wanted == load(elsewhere).methods["first"].code_hash


def test_a_helper_beside_the_function_counts_where_it_is_defined_elsewhere(hash_of):
    hash_of()
    near = importlib.import_module("zoo_hashed.near")
    ties = load_plugins().methods["ties"]

    def with_check(check):
        return Method("x", "1.0.0", "elementwise", ties.function, check=check).code_hash

    assert with_check(None) != with_check(near.helper)


def test_the_hash_of_a_transform_covers_what_it_is_made_of_and_no_more(monkeypatch):
    made_by = load_plugins().transforms["merge_experts"]
    before, read = made_by.code_hash, Path.read_bytes

    def hash_with(changed):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", lambda p: read(p) + b"#" * (p.name == changed))
            return made_by.code_hash

    assert before != hash_with("merging.py")
    assert before == hash_with("store.py")
