"""A text file as windows of tokens: each token's target is the token after it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from zoo.errors import InvalidTask
from zoo.tasks.examples import Examples

_Share = Annotated[float, Interval(ge=0, le=1)]


@dataclass(frozen=True)
class Where:
    """A part of a file."""

    share: tuple[_Share, _Share] = (0.0, 1.0)
    """From which share of its tokens to which."""
    file: str = ""
    """Where the path is a directory: the file in it."""


@dataclass(frozen=True)
class Options:
    tokens: Literal["characters", "bytes"] = "characters"
    """Of the file; characters are numbered in order of their code points, bytes by their value."""
    length: Annotated[int, Ge(1)] = 64
    """Tokens in a window."""


def read(path: Path, where: Where, options: Options, labels: tuple[str, ...]) -> Examples:
    """Windows that do not overlap; what is left at the end is left out.

    Labels are the characters of the whole file, so that all splits have the same; or the bytes,
    as `00` to `ff`.
    """
    import numpy as np
    import torch

    file = path / where.file if where.file else path
    data = file.read_bytes()
    if options.tokens == "bytes":
        labels = labels or tuple(f"{b:02x}" for b in range(256))
        tokens = np.frombuffer(data, np.uint8).astype(np.int64)
    else:
        try:
            points = np.frombuffer(data.decode().encode("utf-32-le"), "<u4")
        except UnicodeDecodeError as e:
            raise InvalidTask(
                f"`{file}` is not UTF-8: {e.reason} at byte {e.start}.",
                how="Say `tokens: bytes`.",
                path=str(file),
            ) from e
        labels = labels or tuple(chr(p) for p in np.unique(points))
        known = np.array([ord(c) if len(c) == 1 else 0x110000 for c in labels])
        order = known.argsort()
        place = np.searchsorted(known, points, sorter=order).clip(max=len(known) - 1)
        tokens = order[place] if len(known) else np.empty(0, np.int64)
        strange = np.flatnonzero(known[tokens] != points) if len(known) else points
        if len(strange):
            raise InvalidTask(
                f"`{file}` holds {chr(points[strange[0]])!r}, which is no label.", path=str(file)
            )
    start, end = (int(share * len(tokens)) for share in where.share)
    tokens = tokens[start:end]
    windows = (len(tokens) - 1) // options.length
    if windows < 1:
        raise InvalidTask(
            f"`{file}` has {len(tokens)} tokens here, and a window takes {options.length} and one.",
            how="Say a smaller `length`, or another `share`.",
            path=str(file),
        )
    each = torch.from_numpy(tokens)
    count = windows * options.length
    shape = (windows, options.length)
    return Examples(each[:count].reshape(shape), each[1 : count + 1].reshape(shape), labels)
