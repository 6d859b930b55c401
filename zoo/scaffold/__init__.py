"""Writes a new plugin project from the templates beside this file."""

from __future__ import annotations

import ast
import keyword
import os
import re
from collections.abc import Container, Mapping
from importlib import resources
from pathlib import Path
from string import Template

from zoo.errors import InvalidName, PluginError

FILES = {
    "pyproject.toml": "pyproject.toml.template",
    "README.md": "README.md.template",
    "$module.py": "module.py.template",
    "tests/test_$method.py": "test_method.py.template",
}
"""File of the project -> its template. In both, `$method`, `$module` and `$project` stand for
the method's name, the module's and the distribution's; `$title` is the name of a test class."""


def write_plugin(
    method: str, parent: str | os.PathLike[str] = ".", *, taken: Container[str] = ()
) -> Path:
    """Write a plugin that offers one method, with tests that pass as they stand.

    Args:
        method: small letters, digits and underscores, a letter first.
        parent: the directory in which the project's directory is made.
        taken: names of methods that exist; of two with one name, zoo keeps the first.
    Returns:
        The project's directory, `zoo-METHOD` with dashes.
    Raises:
        InvalidName: the name is not of that form, a word of Python, used by the templates, or
            taken.
        PluginError: the directory exists, or cannot be written.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", method):
        raise InvalidName(
            f"`{method}` cannot be the name of a method.",
            "It becomes a Python module: small letters, digits and underscores, a letter first.",
            "For example `zoo plugins new trimmed_mean`.",
            name=method,
        )
    if keyword.iskeyword(method):
        raise InvalidName(
            f"`{method}` cannot be the name of a method.",
            "It becomes a function of that name, and Python keeps the word for itself.",
            f"For example `zoo plugins new {method}_merge`.",
            name=method,
        )
    if method in _used():
        raise InvalidName(
            f"`{method}` cannot be the name of a method.",
            "The function would hide a name that the new plugin's own code needs.",
            f"For example `zoo plugins new {method}_merge`.",
            name=method,
        )
    if method in taken:
        raise InvalidName(
            f"There is a method `{method}` already; `zoo methods {method}` describes it.",
            "Of two methods with one name the first stays.",
            f"For example `zoo plugins new my_{method}`.",
            name=method,
        )
    words = {
        "method": method,
        "module": f"zoo_{method}",
        "project": "zoo-" + method.replace("_", "-").strip("-"),
        "title": "".join(part.title() for part in method.split("_")),
    }
    project = Path(parent) / words["project"]
    try:
        project.mkdir(parents=True)
        for name, template in FILES.items():
            target = project / Template(name).substitute(words)
            target.parent.mkdir(exist_ok=True)
            target.write_text(_filled(template, words), encoding="utf-8")
    except FileExistsError as e:
        raise PluginError(
            f"`{project}` exists already.",
            "A new plugin never overwrites files.",
            "Choose another name, or another place with --dir.",
            path=str(project),
        ) from e
    except OSError as e:
        raise PluginError(
            f"`{project}` cannot be written ({e.strerror}).",
            how="Choose another place with --dir.",
            path=str(project),
        ) from e
    return project


def _filled(template: str, words: Mapping[str, str]) -> str:
    text = resources.files(__name__).joinpath(template).read_text(encoding="utf-8")
    return Template(text).substitute(words)


def _used() -> set[str]:
    """The names that the Python of the templates uses, other than those it is given."""
    blank = dict.fromkeys(("method", "module", "project", "title"), "_")
    used = set()
    for template in FILES.values():
        if ".py." not in template:
            continue
        for node in ast.walk(ast.parse(_filled(template, blank))):
            if isinstance(node, ast.Name):
                used.add(node.id)
            elif isinstance(node, ast.arg):
                used.add(node.arg)
            elif isinstance(node, ast.FunctionDef):
                used.add(node.name)
            elif isinstance(node, ast.alias):
                used.add(node.asname or node.name)
    return used
