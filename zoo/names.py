"""Which names may become paths: entry names, and relative paths inside a version's directory."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from zoo.errors import InvalidName

LONGEST_NAME = 96
LONGEST_PATH = 255

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_ENTRY = re.compile(rf"{_PART}(/{_PART})?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check_entry_name(name: str) -> str:
    """The name itself, when it may name an entry.

    One part, or `owner/part`; letters, digits, `.`, `_`, `-`. The second part is never all
    digits: `views/a/1` is the directory of version 1 of `a`, and must not also hold entry `a/1`.

    Raises:
        InvalidName: with the rule.
    """
    problem = ""
    if len(name) > LONGEST_NAME:
        problem = f"it has {len(name)} characters, and {LONGEST_NAME} is the most."
    elif not _ENTRY.fullmatch(name):
        problem = "it must be letters, digits, `.`, `_` and `-`, with at most one `/` inside."
    elif ".." in name or name.endswith("."):
        problem = "`..` and a final `.` mean other things to file systems."
    elif name.rpartition("/")[2].isdigit() and "/" in name:
        problem = "a second part of digits only reads as a version number."
    if problem:
        raise InvalidName(
            f"`{_printable(name)}` cannot name an entry:",
            problem,
            "Choose a name such as `math-expert` or `team/math-expert`.",
            name=name,
        )
    return name


def check_relative_path(path: str) -> str:
    """The path itself, when it stays inside the directory it is joined to.

    Raises:
        InvalidName: absolute, empty, `..`, a backslash, a control character, or too long.
    """
    parts = path.split("/")
    if (
        not path
        or len(path.encode(errors="replace")) > LONGEST_PATH
        or "\\" in path
        or _CONTROL.search(path)
        or any(part in ("", ".", "..") for part in parts)
        or PurePosixPath(path).is_absolute()
        or not encodable(path)
    ):
        raise InvalidName(
            f"`{_printable(path)}` is no path inside a model's directory:",
            "it must be relative, with `/` between plain names, and lead nowhere else.",
            path=path,
        )
    return path


def tensor_name_problem(name: str) -> str:
    """Why a tensor may not have this name, or an empty string when it may."""
    if name == "__metadata__":
        return "the safetensors format keeps that name for itself"
    if _CONTROL.search(name):
        return "it holds a control character"
    if not encodable(name):
        return "it is not valid Unicode"
    return ""


def encodable(text: str) -> bool:
    """Whether the text is Unicode that UTF-8 can hold; JSON can smuggle in halves of pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(text: str) -> str:
    return ascii(text[:120])[1:-1]
