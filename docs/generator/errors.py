"""The page on errors."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from generator.markdown import code, fenced, prose, table


def errors() -> str:
    import zoo.errors as module

    tree = [module.ZooError, *_subclasses(module.ZooError)]
    rows = [
        (code(e.__name__), e.exit_code, code(e.__mro__[1].__name__), _own_doc(e))
        for e in sorted(tree, key=lambda e: e.exit_code)
    ]
    return "\n\n".join(
        [
            "# Errors and exit codes",
            "Every error zoo raises on purpose is a `zoo.ZooError` from `zoo.errors`. Its text "
            "says what happened, why that is an error, and how to mend it; the same facts are "
            "attributes, so that programs need not read prose. The command line prints the text "
            "to stderr and exits with the error's number. Exit 0 is success, 1 is an error "
            "nobody foresaw, 2 is wrong usage.",
            fenced(inspect.cleandoc(module.__doc__ or "")),
            table(["error", "exit code", "is a", "meaning"], rows),
            "## What every error carries",
            prose(module.ZooError.__doc__),
        ]
    )


def _subclasses(root: type) -> Iterator[Any]:
    for child in root.__subclasses__():
        if child.__module__ == root.__module__:
            yield child
            yield from _subclasses(child)


def _own_doc(error: type) -> str:
    """The remark beside the error in the tree of `zoo.errors`, or its docstring's first line."""
    import zoo.errors as module

    remark = re.search(rf"{error.__name__} +\d+ {{2,}}(.+)", module.__doc__ or "")
    return remark[1] if remark else (error.__doc__ or "").split("\n")[0]
