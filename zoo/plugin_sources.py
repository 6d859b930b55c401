"""Where plugins come from: entry points of installed distributions, and files in directories."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.metadata import Distribution, EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple
from zlib import crc32

GROUP = "zoo"
"""The entry-point group."""
BUNDLED = "zoo-registry"
"""The distribution that carries the bundled plugins."""


class Installed(NamedTuple):
    """An entry point, and the distribution that has it; both empty where none is known."""

    entry_point: EntryPoint
    distribution: str
    version: str


def installed_plugins() -> list[Installed]:
    """Entry points, bundled first; of an entry point seen twice on the path, the first."""

    @cache  # each look at a name or a version parses all of a distribution's metadata
    def told(dist: Distribution | None) -> tuple[str, str]:
        return (dist.name, dist.version) if dist else ("", "")

    found: dict[tuple[str, str], Installed] = {}
    for entry_point in entry_points(group=GROUP):
        name, version = told(entry_point.dist)
        found.setdefault((name, entry_point.name), Installed(entry_point, name, version))
    return [found[key] for key in sorted(found, key=lambda key: (key[0] != BUNDLED, key))]


def directories(dirs: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The directories given, or else those of `ZOO_PLUGINS_DIR`."""
    given = [Path(d) for d in dirs]
    if given:
        return given
    return [Path(d) for d in os.environ.get("ZOO_PLUGINS_DIR", "").split(os.pathsep) if d]


class _Uncached(SourceFileLoader):
    """Compiles the source each time: no `__pycache__` in a directory that is not ours, and an
    edit within one second of the last is seen."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def import_file(file: Path) -> ModuleType:
    """Run a drop-in as a module whose name no other module has."""
    name = f"zoo_dropin_{crc32(str(file.resolve()).encode()):08x}_{file.stem}"
    spec = spec_from_file_location(name, file, loader=_Uncached(name, str(file)))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    # Dataclasses and type hints look their module up by name while it is being run.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
