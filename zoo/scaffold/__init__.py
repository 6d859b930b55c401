"""Writes a new plugin project from the templates beside this file."""

from __future__ import annotations

import os
import re
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


def write_plugin(method: str, parent: str | os.PathLike[str] = ".") -> Path:
    """Write a plugin that offers one method, with tests that pass as they stand.

    Args:
        method: small letters, digits and underscores, a letter first.
        parent: the directory in which the project's directory is made.
    Returns:
        The project's directory, `zoo-METHOD` with dashes.
    Raises:
        InvalidName: the name is not of that form.
        PluginError: the directory exists, or cannot be written.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", method):
        raise InvalidName(
            f"`{method}` cannot be the name of a method.",
            "It becomes a Python module: small letters, digits and underscores, a letter first.",
            "For example `zoo plugins new trimmed_mean`.",
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
            text = resources.files(__name__).joinpath(template).read_text(encoding="utf-8")
            target.write_text(Template(text).substitute(words), encoding="utf-8")
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
