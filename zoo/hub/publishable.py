"""What of a version's small files may leave this machine: no tokens, no paths of its own."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from zoo.errors import InvalidCheckpoint

_LARGEST = 2_000_000
"""Bytes of a file that is looked through; a tokenizer is larger, and tells nothing."""
_TEXTS = (".md", ".json", ".yml", ".yaml", ".txt", ".py", ".jinja", ".toml", ".cfg", ".ini", "")
_TOLD = (".md", ".yml", ".yaml")
"""Endings of texts that zoo or mergekit write models' names into."""
_TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b")
_NAME_OR_PATH = re.compile(rb'("(?:base_model)?_?name_or_path"\s*:\s*)"(?:/|~|[A-Za-z]:\\\\)[^"]*"')
"""transformers writes down where a configuration was loaded from, peft where the base was."""
_PATH = re.compile(r"(?<![\w./~-])(?!//)[~/][^\s\"'`)\]|,]*/[^\s\"'`)\]|,]+")


def publishable(path: str, content: Path | bytes) -> Path | bytes:
    """A file's content as it may be published; the file itself where nothing has to be changed.

    Paths that lead somewhere on this machine are shortened to their last part.

    Raises:
        InvalidCheckpoint: it holds what looks like a token.
    """
    ending = PurePosixPath(path).suffix.lower()
    if ending not in _TEXTS:
        return content
    if isinstance(content, Path):
        if content.stat().st_size > _LARGEST:
            return content
        data = content.read_bytes()
    else:
        data = content
    if _TOKEN.search(data):
        raise InvalidCheckpoint(
            f"`{path}` holds what looks like a token of a hub:",
            "whoever reads it could use it.",
            "Revoke the token, and register the model without it.",
            path=path,
        )
    made = _NAME_OR_PATH.sub(rb'\1""', data) if ending == ".json" else data
    if ending in _TOLD:
        made = _PATH.sub(_shortened, made.decode(errors="surrogateescape")).encode(
            errors="surrogateescape"
        )
    return content if made == data else made


def _shortened(found: re.Match[str]) -> str:
    path = Path(found[0]).expanduser()
    try:
        return path.name if path.exists() else found[0]
    except OSError:
        return found[0]
