"""Tables of numbers with one column of targets; plain or gzip-compressed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Len

from zoo.errors import InvalidTask, did_you_mean
from zoo.readers.arrays import ArrayOptions, examples
from zoo.readers.compressed import opened

if TYPE_CHECKING:
    from zoo.tasks.examples import Examples

_ROWS = 4096
"""Rows that are words, not yet numbers, at a time."""
_LINE = 1 << 24
"""Characters that a line may have."""


@dataclass(frozen=True)
class Where:
    """A file, in the directory where the path is one."""

    file: str = ""


@dataclass(frozen=True)
class Options(ArrayOptions):
    target: int | str = -1
    """Column of the targets: its name, or its place; -1 is the last. All others are inputs."""
    header: bool | None = None
    """Whether the first line names the columns; by default where `target` is a name."""
    delimiter: Annotated[str, Len(1, 1)] = ","


def read(path: Path, where: Where, options: Options, labels: tuple[str, ...]) -> Examples:
    import numpy as np

    file = path / where.file if where.file else path
    has_header = isinstance(options.target, str) if options.header is None else options.header
    numbers: list[np.ndarray] = []
    names: list[str] = []
    with opened(file) as (raw, _), io.TextIOWrapper(raw, "utf-8-sig", newline="") as stream:
        rows = csv.reader(_lines(stream, file), delimiter=options.delimiter, strict=True)
        try:
            titles = next(rows, []) if has_header else []
            width, at = len(titles), None
            while some := list(islice(rows, _ROWS)):
                some = [row for row in some if row]
                if not some:
                    continue
                if at is None:
                    width = width or len(some[0])
                    at = _place(options.target, titles, width, file)
                _check_widths(some, width, rows.line_num, file)
                names += [row.pop(at).strip() for row in some if at is not None]
                numbers.append(np.array(some, dtype=np.float32).reshape(len(some), -1))
        except (csv.Error, ValueError) as e:
            raise InvalidTask(
                f"`{file}` cannot be read as a table, at or before line {rows.line_num}: {e}.",
                "All columns but the target's are numbers.",
                "Say `header: true` if the first line names the columns, and which is the "
                "`target`.",
                path=str(file),
                line=rows.line_num,
            ) from e
    if not names:
        raise InvalidTask(f"`{file}` has no rows.", path=str(file))
    return examples(np.concatenate(numbers), np.array(names), options, labels, file)


def _lines(stream: io.TextIOWrapper, file: Path) -> Iterator[str]:
    while line := stream.readline(_LINE):
        if len(line) == _LINE:
            raise InvalidTask(f"`{file}` has a line of {_LINE:,} characters or more.", path=file)
        yield line


def _place(target: int | str, titles: list[str], width: int, file: Path) -> int:
    if isinstance(target, str):
        if target not in titles:
            raise InvalidTask(
                f"`{file}` has no column `{target}`.",
                how=did_you_mean(target, titles),
                path=str(file),
            )
        return titles.index(target)
    if not -width <= target < width or width < 2:
        raise InvalidTask(
            f"`{file}` has {width} columns, and column {target} cannot be the target of others.",
            path=str(file),
        )
    return target


def _check_widths(rows: list[list[str]], width: int, line: int, file: Path) -> None:
    odd = next((len(row) for row in rows if len(row) != width), None)
    if odd is not None:
        raise InvalidTask(
            f"`{file}` has a row of {odd} columns, not {width}, at or before line {line}.",
            path=str(file),
        )
