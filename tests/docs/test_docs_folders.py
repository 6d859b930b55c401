"""The docstring of a folder's `__init__.py` is its table of contents: it names every module."""

from __future__ import annotations

import ast
import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[2] / "zoo"
TABLES = {
    folder.name: contents
    for folder in sorted(p.parent for p in LIBRARY.glob("*/__init__.py"))
    if "\n"
    in (contents := ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or "")
}


@pytest.mark.parametrize("folder", TABLES)
def test_a_folders_table_of_contents_names_its_modules(folder: str) -> None:
    words = re.findall(r"[\w*]+", TABLES[folder])
    modules = {p.stem for p in (LIBRARY / folder).glob("*.py")} - {"__init__"}

    assert set() == {m for m in modules if not any(fnmatchcase(m, word) for word in words)}
