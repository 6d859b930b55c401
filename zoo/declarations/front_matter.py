"""The YAML block that begins a model card, and the text below it."""

from __future__ import annotations

import re
from typing import Any

from zoo.declarations.plain import LARGEST, yaml_mapping

_BLOCK = re.compile(r"\A(?:\ufeff)?\s*---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.S | re.M)


def split(card: str) -> tuple[dict[str, Any], str]:
    """The front matter of a card, plain, and its body; all is body where there is no block."""
    found = _BLOCK.match(card[: LARGEST + 100])
    if found is None:
        return {}, card
    return yaml_mapping(found.group(1)), card[found.end() :]
