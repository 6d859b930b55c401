"""The digest of a method's code: what a run records, and a replay compares.

It covers the module that defines the method, and every module which that one imports, directly or
not, of two kinds: those of its own top-level package, and those of zoo's that only methods and
transforms are made of (`SHARED`). Imports inside
functions count, those of other distributions do not (a run records their versions). The digest is
the sha256 of the source files, end to end, in the order of the modules' names; for a plugin of one
file, that of the file.

Sources are found and read, never run: asking for a digest imports nothing.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.machinery import PathFinder
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType
from typing import Any

SHARED = ("zoo.stages", "zoo.moe", "zoo.adapters")


def code_hash(functions: Iterable[Callable[..., Any]]) -> str:
    """`sha256:` over the sources behind the functions of one method."""
    sources: dict[str, bytes] = {}
    for function in functions:
        module = getattr(function, "__module__", None) or ""
        file = inspect.getsourcefile(function) if inspect.isfunction(function) else None
        path = Path(file) if file else _file(module)
        if path is not None:
            _gather(module, path, module.partition(".")[0], sources)
    return _digest(sources)


def module_hash(module: ModuleType) -> str:
    """`sha256:` over the source of a plugin's module, and what it imports of the same kinds."""
    sources: dict[str, bytes] = {}
    if module.__file__ is not None:
        name = module.__name__
        _gather(name, Path(module.__file__), name.partition(".")[0], sources)
    return _digest(sources)


def _digest(sources: Mapping[str, bytes]) -> str:
    return "sha256:" + hashlib.sha256(b"".join(sources[m] for m in sorted(sources))).hexdigest()


def _gather(module: str, path: Path, package: str, sources: dict[str, bytes]) -> None:
    """Add the source of a module, and of those it imports from `package` or the shared ones."""
    if module in sources or path.suffix != ".py" or not path.is_file():
        return
    sources[module] = path.read_bytes()
    parent = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for name in _imports(sources[module], parent):
        if any(_within(name, whole) for whole in (package, *SHARED)):
            file = _file(name)
            if file is not None:
                _gather(name, file, package, sources)


def _imports(source: bytes, parent: str) -> Iterator[str]:
    """Names of the modules a source imports; of some that are none: `from module import thing`.

    Args:
        parent: the package that relative imports start from; empty outside packages.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (parent or not node.level):
            start = resolve_name("." * node.level + (node.module or ""), parent)
            yield start
            yield from (f"{start}.{alias.name}" for alias in node.names)


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def _file(module: str) -> Path | None:
    """The source of a module whose top-level package is imported; None when there is none."""
    top, *inner = module.split(".")
    loaded = sys.modules.get(top)
    origin = getattr(loaded, "__file__", None)
    path = getattr(loaded, "__path__", None)
    for depth in range(len(inner)):
        if path is None:
            return None
        spec = PathFinder.find_spec(".".join([top, *inner[: depth + 1]]), path)
        if spec is None:
            return None
        origin, path = spec.origin, spec.submodule_search_locations
    return Path(origin) if origin else None
