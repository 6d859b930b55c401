"""Amounts as people write them."""

from __future__ import annotations

import re

from zoo.errors import InvalidRecipe

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {f"{u}I": 1024**i for i, u in enumerate("KMGT", start=1)}


def parse_bytes(text: str | int) -> int:
    """Bytes in `1GiB`, `512MB`, `800 MiB` or a plain number.

    Raises:
        InvalidRecipe: it is none of these.
    """
    if isinstance(text, int):
        return text
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    if match is None:
        raise InvalidRecipe(
            f"`{text}` is no amount of memory.", how="Write it like `1GiB` or `800MB`."
        )
    return int(float(match.group(1)) * _UNITS[match.group(2)])
