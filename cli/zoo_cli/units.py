"""Numbers for people: three figures and a unit. Exact ones are for `--json`."""

from __future__ import annotations

import math
import re


def size(nbytes: int) -> str:
    """Bytes with a decimal unit, as disks and the Hub count: `988 MB`."""
    return _scaled(nbytes, 1000, ("B", "kB", "MB", "GB", "TB", "PB"))


def count(n: int) -> str:
    """A count, as model sizes are told: `494 M`, `1.54 B`, `25.6 k`."""
    return _scaled(n, 1000, ("", "k", "M", "B", "T")).rstrip()


def number(value: float) -> str:
    """A measured value, five significant figures: `0.61`, `31.724`, `1.2e-07`."""
    return f"{value:.5g}"


def short_digest(digest: str) -> str:
    """The first 12 hex digits: enough to tell versions apart, and to name one by."""
    return digest.partition(":")[2][:12]


def with_short_commits(text: str) -> str:
    """The text with commits of hubs cut to 12 digits: `hf://org/model@0123456789ab`."""
    return re.sub(r"(hf://\S+?@[0-9a-f]{12})[0-9a-f]{28}\b", r"\1", text)


def moment(iso: str) -> str:
    """An ISO 8601 time to the minute, in UTC: `2025-03-01 14:07`."""
    return iso[:16].replace("T", " ")


def _scaled(n: float, step: int, units: tuple[str, ...]) -> str:
    power = 0
    while power < len(units) - 1 and float(f"{n:.3g}") >= step:
        n /= step
        power += 1
    if power == 0:
        return f"{int(n)} {units[0]}"
    decimals = max(0, 2 - int(math.log10(float(f"{n:.3g}"))))
    return f"{n:.{decimals}f} {units[power]}"
